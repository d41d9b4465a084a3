"""Delivers picked frames on the device of the models; no frame is copied to the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.media.errors import RefusalError, first_line
from pipeline.media.torchcodec_backend import PROBLEMS, check_time, open_decoder
from pipeline.media.types import Picks

if TYPE_CHECKING:
    import torch

_BACKEND = "nvdec"
_CHUNK_BYTES = 32 << 20  # of RGB on the device at a time; resizing needs ten times as much for a moment


def read_picks(path: str, picks: Picks, size: tuple[int, int], device: str) -> Iterator[tuple[range, torch.Tensor]]:
    """Decode the picked frames of a local file on a device, a few at a time.

    Parameters
    ----------
    path
        A local file.
    picks
        What to read.
    size
        (height, width) that the frames must have.
    device
        A torch device; on ``cpu``, which tests use, FFmpeg decodes.

    Yields
    ------
    places, frames
        Which of the picks these are, and ``uint8 [n,H,W,3]`` on the device.

    Raises
    ------
    RefusalError
        If the file is refused: it cannot be decoded there, or shows frames of another number, time or size. Its cause
        is what the library raised, if it did.
    """
    if not picks.numbers:
        return
    decoder = open_decoder(_BACKEND, path, picks.stream, picks.frames, device)
    step = max(1, _CHUNK_BYTES // (3 * size[0] * size[1]))
    for start in range(0, len(picks.numbers), step):
        places = range(start, min(start + step, len(picks.numbers)))
        yield places, _chunk(decoder, picks, places, size)


def _chunk(decoder: Any, picks: Picks, places: range, size: tuple[int, int]) -> torch.Tensor:
    numbers = list(picks.numbers[places.start : places.stop])
    try:
        batch = decoder.get_frames_at(numbers)
    except PROBLEMS as error:
        problem = f"torchcodec cannot decode frames {numbers[0]} to {numbers[-1]}: {first_line(error)}"
        raise RefusalError(_BACKEND, problem) from error
    shown = batch.pts_seconds.tolist()
    if len(shown) != len(numbers):
        raise RefusalError(_BACKEND, f"torchcodec gives {len(shown)} of {len(numbers)} frames")
    for number, shown_s, wanted_s in zip(numbers, shown, picks.clock_s[places.start : places.stop], strict=True):
        check_time(_BACKEND, number, shown_s, wanted_s)
    frames: torch.Tensor = batch.data
    if tuple(frames.shape) != (len(numbers), *size, 3):
        height, width = frames.shape[1:3]
        raise RefusalError(_BACKEND, f"torchcodec shows {width}x{height} pixels, not {size[1]}x{size[0]}")
    return frames
