"""Frames and sound of a video's file, for panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from settings.files import open_regular
from trainers.errors import TrainingError

Frame = NDArray[np.uint8]
"""An image, ``[H, W, 3] uint8``."""
_ALONE = {"protocol_whitelist": "none"}  # whatever a file refers to is not opened
RATE = 16_000
"""Samples per second of what ``read_waveform`` returns."""


def read_frames(path: str | Path, times: Sequence[float], start_s: float = 0.0, height: int = 90) -> list[Frame]:
    """Read the frames that a player shows at ``times``.

    Parameters
    ----------
    path
        The file.
    times
        Seconds after ``start_s``, ascending.
    start_s
        When the clip begins in the file, in seconds.
    height
        The frames are scaled to this height in pixels.

    Raises
    ------
    TrainingError
        If the file cannot be decoded or holds no frame.
    """
    import av  # only panels decode

    thumbnails: list[Frame] = []
    try:
        with open_regular(path) as file, av.open(file, "r", options=_ALONE) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise TrainingError(f"{path}: no video stream")
            shown = None
            frames: Any = container.decode(stream)  # PyAV types them as frames of any stream
            for frame in frames:
                if frame.time is None:
                    raise TrainingError(f"{path}: its frames have no times")
                while (
                    shown is not None and len(thumbnails) < len(times) and frame.time > start_s + times[len(thumbnails)]
                ):
                    thumbnails.append(_thumbnail(shown, height))
                shown = frame
                if len(thumbnails) == len(times):
                    break
    except (av.FFmpegError, OSError) as error:
        raise TrainingError(f"{path}: not readable ({error.strerror})") from error
    if shown is None:
        raise TrainingError(f"{path}: no frame could be decoded")
    last = _thumbnail(shown, height)
    return thumbnails + [last] * (len(times) - len(thumbnails))


def _thumbnail(frame: Any, height: int) -> Frame:
    width = max(1, round(frame.width * height / frame.height))
    pixels: Frame = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return pixels


def read_waveform(path: Path, start_s: float = 0.0, seconds: float = math.inf) -> NDArray[np.float32] | None:
    """Read the first audio stream as mono ``[S] float32`` at 16 kHz; return None if there is none.

    Parameters
    ----------
    path
        The file.
    start_s
        When the clip begins in the file, in seconds.
    seconds
        Length of the clip in seconds.

    Raises
    ------
    TrainingError
        If the file cannot be decoded.
    """
    import av  # only panels decode

    try:
        with open_regular(path) as file, av.open(file, "r", options=_ALONE) as container:
            if not container.streams.audio:
                return None
            resampler = av.AudioResampler("flt", "mono", RATE)
            blocks = [
                block.to_ndarray().reshape(-1)
                for frame in container.decode(audio=0)
                for block in resampler.resample(frame)
            ]
    except (av.FFmpegError, OSError) as error:
        raise TrainingError(f"{path}: its sound is not readable ({error.strerror})") from error
    if not blocks:
        return None
    wave: NDArray[np.float32] = np.concatenate(blocks)
    last = len(wave) if math.isinf(seconds) else round((start_s + seconds) * RATE)
    return wave[round(start_s * RATE) : last]
