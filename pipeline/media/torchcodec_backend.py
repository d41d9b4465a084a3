"""Reads frames with torchcodec: ``torchcodec`` decodes on the CPU, ``nvdec`` on an NVIDIA GPU's video engine.

Both are held to the frames that the packets predict, by count and by the PTS of every frame delivered. On the CPU the
pixels are those of the FFmpeg build that torchcodec finds; on the GPU another decoder and another colour conversion
make them. What the video engine cannot decode is refused: torchcodec would silently decode it on the CPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.media.errors import first_line, refusal
from pipeline.media.frame_plan import FramePlan
from pipeline.media.source import Source
from pipeline.media.types import DecodeRequest, MediaError

DEVICES = {"torchcodec": "cpu", "nvdec": "cuda"}
# PTS are exact in both; only their conversion to float64 seconds may differ in the last bits.
TOLERANCE_S = 1e-6
_VIDEO_ENGINE = "libnvcuvid.so.1"


def why_unavailable(backend: str) -> str | None:
    """Return why this machine cannot run the backend, or None if it can. Imports torch, which takes seconds."""
    try:
        metadata.version("torchcodec")
        import torch
        import torchcodec.decoders  # noqa: F401 - loads FFmpeg's libraries
    except metadata.PackageNotFoundError:
        return "the package 'torchcodec' is not installed: pip install '.[nvdec]'"
    except (ImportError, OSError, RuntimeError) as error:
        return f"torchcodec cannot be loaded: {first_line(error)}"
    if DEVICES[backend] == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    try:
        ctypes.CDLL(_VIDEO_ENGINE)
    except OSError:
        return f"the driver's video decoder is missing ({_VIDEO_ENGINE})"
    return None


def open_frames(
    request: DecodeRequest, opened: Source, plan: FramePlan
) -> tuple[dict[str, Any], Iterator[tuple[int, NDArray[np.uint8]]]]:
    """Open a file and check that torchcodec counts the frames of the plan.

    Returns
    -------
    library
        What the media record says about the library: the major version of its FFmpeg.
    frames
        (pts, uint8 [H, W, 3]) of each wanted frame, ascending.

    Raises
    ------
    MediaError
        ``unsupported_codec`` if the file is refused; ``crash`` if this machine cannot run the backend.
    """
    decoder = _open(request, opened.video.index)
    if decoder.cpu_fallback:
        raise refusal(request, f"the video engine does not decode it ({decoder.cpu_fallback})")
    if len(decoder) != len(plan.displayed):
        raise refusal(request, f"{len(decoder)} frames by torchcodec's count, {len(plan.displayed)} on screen")
    import torchcodec

    return {"ffmpeg_major": torchcodec.ffmpeg_major_version}, _read(request, decoder, opened, plan)


def _open(request: DecodeRequest, stream: int) -> Any:
    reason = why_unavailable(request.backend)
    if reason is not None:
        raise MediaError("crash", f"the {request.backend} backend does not work here: {reason}")
    from torchcodec.decoders import VideoDecoder

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
        raise refusal(request, f"torchcodec cannot open it: {first_line(error)}") from error


def _read(
    request: DecodeRequest, decoder: Any, opened: Source, plan: FramePlan
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    clock = opened.video.time_base
    assert clock is not None
    for number, pts in enumerate(plan.displayed):
        if pts in plan.uses:
            yield pts, _frame(request, decoder, number, float(pts * clock))


def _frame(request: DecodeRequest, decoder: Any, number: int, time_s: float) -> NDArray[np.uint8]:
    """Return frame ``number`` as uint8 [H, W, 3]; it must be the one at ``time_s`` of the stream's own clock."""
    try:
        frame = decoder.get_frame_at(number)
    except (RuntimeError, IndexError) as error:
        raise refusal(request, f"torchcodec cannot decode frame {number}: {first_line(error)}") from error
    if abs(frame.pts_seconds - time_s) > TOLERANCE_S:
        raise refusal(request, f"frame {number} comes from {frame.pts_seconds:.6f} s, not from {time_s:.6f} s")
    rgb: NDArray[np.uint8] = np.ascontiguousarray(frame.data.cpu().numpy())
    return rgb
