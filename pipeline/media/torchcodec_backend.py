"""The opt-in torchcodec backends: `torchcodec` decodes on the CPU, `nvdec` on an NVIDIA GPU's video engine.

Both are held to the frames that the packets predict, by count and by the PTS of every frame delivered. On the CPU the
pixels are FFmpeg's, of the build that torchcodec finds; on the GPU another decoder and another colour conversion make
them. What the video engine cannot decode is refused: torchcodec would decode it on the CPU without a word.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.media.foreign import agreed, refusal
from pipeline.media.packets import PacketIndex
from pipeline.media.source import Source
from pipeline.media.types import DecodeRequest, Event, Frame, Header, MediaError
from pipeline.media.wanted import Wanted

DEVICES = {"torchcodec": "cpu", "nvdec": "cuda"}
# PTS are exact in both; only their conversion to float64 seconds may differ in the last bits.
TOLERANCE_S = 1e-6
_VIDEO_ENGINE = "libnvcuvid.so.1"


def unavailable(backend: str) -> str | None:
    """Why this machine cannot run the backend, in words; None where it can. Imports torch, which takes seconds."""
    try:
        metadata.version("torchcodec")
        import torch
        import torchcodec.decoders  # noqa: F401 - loads FFmpeg's libraries
    except metadata.PackageNotFoundError:
        return "the package 'torchcodec' is not installed: pip install 'reelstore[nvdec]'"
    except (ImportError, OSError, RuntimeError) as error:
        return f"torchcodec cannot be loaded: {_first_line(error)}"
    if DEVICES[backend] == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    try:
        ctypes.CDLL(_VIDEO_ENGINE)
    except OSError:
        return f"the driver's video decoder is missing ({_VIDEO_ENGINE})"
    return None


def pictures(
    request: DecodeRequest, opened: Source, index: PacketIndex, predicted: Wanted | None
) -> Generator[Event, None, Wanted]:
    """Header and wanted frames through torchcodec; returns the plan.

    Raises
    ------
    MediaError
        `unsupported_codec` when the file is refused; `crash` when the machine cannot run the backend.
    """
    wanted, media = agreed(request, index, predicted)
    decoder = _open(request, opened.video.index)
    if decoder.cpu_fallback:
        raise refusal(request, f"the video engine does not decode it ({decoder.cpu_fallback})")
    if len(decoder) != len(wanted.displayed):
        raise refusal(request, f"{len(decoder)} frames by torchcodec's count, {len(wanted.displayed)} on screen")
    import torchcodec

    ffmpeg = {"ffmpeg_major": torchcodec.ffmpeg_major_version}  # type: ignore[attr-defined]
    yield Header(media | ffmpeg, wanted.duration_s, wanted.samples)
    clock = opened.video.time_base
    assert clock is not None
    for number, pts in enumerate(wanted.displayed):
        if pts in wanted.uses:
            rgb = _frame(request, decoder, number, float(pts * clock))
            yield Frame(rgb, wanted.time_s[pts], wanted.uses[pts])
    return wanted


def _open(request: DecodeRequest, stream: int) -> Any:
    missing = unavailable(request.backend)
    if missing is not None:
        raise MediaError("crash", f"the {request.backend} backend does not work here: {missing}")
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

    try:
        return VideoDecoder(
            request.path,
            stream_index=stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device=DEVICES[request.backend],
            seek_mode="exact",
        )
    except (RuntimeError, ValueError) as error:
        raise refusal(request, f"torchcodec cannot open it: {_first_line(error)}") from error


def _frame(request: DecodeRequest, decoder: Any, number: int, time_s: float) -> NDArray[np.uint8]:
    """Frame `number` as uint8 [H, W, 3], which must be the one at `time_s` of the stream's own clock."""
    try:
        frame = decoder.get_frame_at(number)
    except (RuntimeError, IndexError) as error:
        raise refusal(request, f"torchcodec cannot decode frame {number}: {_first_line(error)}") from error
    if abs(frame.pts_seconds - time_s) > TOLERANCE_S:
        raise refusal(request, f"frame {number} comes from {frame.pts_seconds:.6f} s, not from {time_s:.6f} s")
    rgb: NDArray[np.uint8] = np.ascontiguousarray(frame.data.cpu().numpy())
    return rgb


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
