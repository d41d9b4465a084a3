"""Reads frames with torchcodec: on the CPU in a decoding child, or on the video engine of an NVIDIA GPU.

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

from pipeline.media.errors import RefusalError, first_line
from pipeline.media.frame_plan import FramePlan
from pipeline.media.source import Source
from pipeline.media.types import DecodeRequest, MediaError

# PTS are exact in both; only their conversion to float64 seconds may differ in the last bits.
TOLERANCE_S = 1e-6
DEVICES = {"torchcodec": "cpu", "nvdec": "cuda"}
_VIDEO_ENGINE = "libnvcuvid.so.1"
PROBLEMS = (RuntimeError, ValueError, IndexError)
"""What torchcodec raises at a file."""


def why_unavailable(backend: str) -> str | None:
    """Return why this process cannot run ``torchcodec`` or ``nvdec``, or None if it can.

    Imports torch, which takes seconds.
    """
    try:
        metadata.version("torchcodec")
        import torch
        import torchcodec
        import torchcodec.decoders
    except metadata.PackageNotFoundError:
        return "the package 'torchcodec' is not installed: pip install '.[nvdec]'"
    except (ImportError, OSError, RuntimeError) as error:
        return f"torchcodec cannot be loaded: {first_line(error)}"
    if torchcodec.ffmpeg_major_version is None:
        return "torchcodec finds no shared libraries of FFmpeg"
    if DEVICES[backend] == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    return why_no_engine()


def why_no_engine() -> str | None:
    """Return why the driver offers no video engine to this process, or None if it does. Imports no torch."""
    try:
        ctypes.CDLL(_VIDEO_ENGINE)
    except OSError:
        return f"the driver's video decoder is missing ({_VIDEO_ENGINE}; containers need the capability 'video')"
    return None


def libraries() -> dict[str, Any]:
    """Return the version of torchcodec and the major version of its FFmpeg, JSON-able.

    Raises
    ------
    MediaError
        ``unsupported_codec`` if torchcodec cannot be loaded.
    """
    reason = why_unavailable("torchcodec")
    if reason is not None:
        raise MediaError("unsupported_codec", reason)
    import torchcodec

    return {"version": metadata.version("torchcodec"), "ffmpeg_major": torchcodec.ffmpeg_major_version}


def open_frames(
    request: DecodeRequest, opened: Source, plan: FramePlan
) -> tuple[dict[str, Any], Iterator[tuple[int, NDArray[np.uint8]]]]:
    """Open a file on the CPU and check that torchcodec counts the frames of the plan.

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
    reason = why_unavailable("torchcodec")
    if reason is not None:
        raise MediaError("crash", f"the {request.backend} backend does not work here: {reason}")
    decoder = open_decoder(request.backend, request.path, opened.video.index, len(plan.displayed), "cpu")
    import torchcodec

    return {"ffmpeg_major": torchcodec.ffmpeg_major_version}, _read(request, decoder, opened, plan)


def open_decoder(backend: str, path: str, stream: int, frames: int, device: str) -> Any:
    """Open a file on a device and check that torchcodec counts ``frames`` frames.

    Raises
    ------
    RefusalError
        If it cannot be opened, shows another number of frames, or would be decoded on the CPU instead.
    """
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(
            path, stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1, device=device, seek_mode="exact"
        )
    except PROBLEMS as error:
        raise RefusalError(backend, f"torchcodec cannot open it: {first_line(error)}") from error
    if decoder.cpu_fallback:
        raise RefusalError(backend, f"the video engine does not decode it ({decoder.cpu_fallback})")
    if len(decoder) != frames:
        raise RefusalError(backend, f"{len(decoder)} frames by torchcodec's count, {frames} on screen")
    return decoder


def check_time(backend: str, number: int, shown_s: float, wanted_s: float) -> None:
    """Raise ``RefusalError`` unless frame ``number`` is the one at ``wanted_s`` of the stream's own clock."""
    if not abs(shown_s - wanted_s) <= TOLERANCE_S:
        raise RefusalError(backend, f"frame {number} comes from {shown_s:.6f} s, not from {wanted_s:.6f} s")


def _read(
    request: DecodeRequest, decoder: Any, opened: Source, plan: FramePlan
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    clock = opened.video.time_base
    assert clock is not None
    for number, pts in enumerate(plan.displayed):
        if pts in plan.uses:
            yield pts, _frame(request, decoder, number, float(pts * clock))


def _frame(request: DecodeRequest, decoder: Any, number: int, time_s: float) -> NDArray[np.uint8]:
    """Return frame ``number`` as uint8 [H, W, 3]."""
    try:
        frame = decoder.get_frame_at(number)
    except PROBLEMS as error:
        problem = f"torchcodec cannot decode frame {number}: {first_line(error)}"
        raise RefusalError(request.backend, problem) from error
    check_time(request.backend, number, frame.pts_seconds, time_s)
    rgb: NDArray[np.uint8] = np.ascontiguousarray(frame.data.cpu().numpy())
    return rgb
