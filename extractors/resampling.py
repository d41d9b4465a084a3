"""Resizes frames on any torch device to the very bytes that Pillow gives.

Pillow resizes 8-bit pictures in integers: along the rows and along the columns, each time with weights rounded to 22
bits, and each time rounding to a byte (``Resample.c``, ``ImagingResampleHorizontal_8bpc``). The same sums are formed
here by matrix products. Every weight is cut into two parts so small that each sum of one part stays below 2**24:
float32 holds it exactly, in whatever order a device adds.

Which of the two passes comes first is Pillow's own choice, and it differs from release to release. It is asked once for
every geometry, with a picture of noise, and the device must give the same bytes.

Only the few columns of the weights that are not zero are multiplied: neighbouring outputs form blocks, and a block
looks at the stretch of input that it needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

Filter = Literal["bicubic", "bilinear"]

_PRECISION = 22  # bits of a weight, as in Pillow
_LOW_BITS = 7  # bits of the smaller part of a weight
_MOST_TAPS = 500  # 255 * (2**_LOW_BITS - 1) * taps stays below 2**24
_BLOCK = 32  # outputs that share one stretch of input
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
_PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resize(frames: torch.Tensor, height: int, width: int, interpolation: Filter) -> torch.Tensor:
    """Resize ``uint8 [N,H,W,3]`` to ``uint8 [N,height,width,3]`` as Pillow does.

    Raises
    ------
    ValueError
        If this device, or this release of Pillow, does not come to the same bytes; or if a side shrinks more than a
        hundredfold, so that float32 does not hold the sums.
    """
    _, rows, columns, _ = frames.shape
    if (rows, columns) == (height, width):
        return frames
    rows_first = _takes_rows_first(rows, columns, height, width, interpolation, str(frames.device))
    return _passes(frames, height, width, interpolation, rows_first)


@lru_cache(maxsize=256)
def _takes_rows_first(rows: int, columns: int, height: int, width: int, interpolation: Filter, device: str) -> bool:
    """Ask Pillow, with a picture of noise, whether it resizes along the rows first."""
    noise = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)
    pillow = np.asarray(Image.fromarray(noise).resize((width, height), _PILLOW[interpolation]))
    frames = torch.from_numpy(noise).to(device)[None]
    for rows_first in (True, False):
        ours = _passes(frames, height, width, interpolation, rows_first)[0].cpu().numpy()
        if np.array_equal(ours, pillow):
            return rows_first
    raise ValueError(f"{device} does not resize {columns}x{rows} to {width}x{height} as Pillow {PIL.__version__} does")


def _passes(frames: torch.Tensor, height: int, width: int, interpolation: Filter, rows_first: bool) -> torch.Tensor:
    if rows_first:
        return _to_height(_to_width(frames, width, interpolation), height, interpolation)
    return _to_width(_to_height(frames, height, interpolation), width, interpolation)


def _to_width(frames: torch.Tensor, width: int, interpolation: Filter) -> torch.Tensor:
    count, rows, columns, channels = frames.shape
    if columns == width:
        return frames
    lines = _resample(frames.reshape(count * rows, columns, channels), width, interpolation)
    return lines.reshape(count, rows, width, channels)


def _to_height(frames: torch.Tensor, height: int, interpolation: Filter) -> torch.Tensor:
    count, rows, columns, channels = frames.shape
    if rows == height:
        return frames
    lines = _resample(frames.reshape(count, rows, columns * channels), height, interpolation)
    return lines.reshape(count, height, columns, channels)


def _resample(lines: torch.Tensor, size: int, interpolation: Filter) -> torch.Tensor:
    """Resample the middle axis of ``uint8 [M,L,C]`` to ``uint8 [M,size,C]``."""
    plan = _plan(lines.shape[1], size, interpolation)
    count, _, channels = lines.shape
    places = torch.from_numpy(plan.places).to(lines.device)
    high = torch.from_numpy(plan.high).to(lines.device)
    low = torch.from_numpy(plan.low).to(lines.device)
    blocks, outputs, taps = plan.high.shape
    # [M,L,C] -> [M,blocks,taps,C] -> [blocks,taps,M*C]
    stretches = lines.index_select(1, places).view(count, blocks, taps, channels).permute(1, 2, 0, 3)
    stretches = stretches.reshape(blocks, taps, count * channels).to(torch.float32)
    sums = torch.bmm(high, stretches).to(torch.int32).bitwise_left_shift_(_LOW_BITS)
    sums.add_(torch.bmm(low, stretches).to(torch.int32)).add_(1 << (_PRECISION - 1))
    bytes_ = sums.bitwise_right_shift_(_PRECISION).clamp_(0, 255).to(torch.uint8)
    # [blocks,outputs,M*C] -> [M,blocks*outputs,C]; the last block may reach beyond the last output
    whole = bytes_.view(blocks, outputs, count, channels).permute(2, 0, 1, 3).reshape(count, blocks * outputs, channels)
    return whole[:, :size]


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """The weights of one axis.

    Attributes
    ----------
    places
        int64 [blocks * taps]: which inputs each block looks at, one block after the other.
    high, low
        float32 [blocks, outputs, taps]: whole numbers; a weight is ``(high << _LOW_BITS) + low``.
    """

    places: NDArray[np.int64]
    high: NDArray[np.float32]
    low: NDArray[np.float32]


@lru_cache(maxsize=64)
def _plan(length: int, size: int, interpolation: Filter) -> _Plan:
    starts, weights = _weights(length, size, interpolation)
    if weights.shape[1] > _MOST_TAPS:
        raise ValueError(f"{length} pixels are too many for {size}")
    blocks = math.ceil(size / _BLOCK)
    last = [min(size, (block + 1) * _BLOCK) - 1 for block in range(blocks)]
    ends = [min(length, int(starts[number]) + weights.shape[1]) for number in last]
    taps = max(end - int(starts[block * _BLOCK]) for block, end in enumerate(ends))
    dense = np.zeros((blocks, _BLOCK, taps), np.int64)
    places = np.empty((blocks, taps), np.int64)
    for block in range(blocks):
        first = min(int(starts[block * _BLOCK]), length - taps)
        places[block] = first + np.arange(taps)
        for number in range(block * _BLOCK, last[block] + 1):
            offset = int(starts[number]) - first
            used = min(weights.shape[1], taps - offset)
            dense[block, number - block * _BLOCK, offset : offset + used] = weights[number, :used]
    low = dense & ((1 << _LOW_BITS) - 1)
    return _Plan(places.reshape(-1), (dense >> _LOW_BITS).astype(np.float32), low.astype(np.float32))


def _weights(length: int, size: int, interpolation: Filter) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first input and the weights of each output: int64 [size], int64 [size, taps]."""
    scale = length / size
    stretch = max(scale, 1.0)
    support = _SUPPORT[interpolation] * stretch
    taps = math.ceil(support) * 2 + 1
    centre = (np.arange(size) + 0.5) * scale
    # Both casts truncate towards zero, as C does.
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), length)
    tap = np.arange(taps)
    distance = (tap[None] + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch)
    kernel = _bicubic(distance) if interpolation == "bicubic" else np.maximum(1.0 - np.abs(distance), 0.0)
    kernel[tap[None] >= (end - first)[:, None]] = 0.0
    total = np.zeros(size)
    for column in kernel.T:  # one after the other, as C adds
        total += column
    kernel /= total[:, None]
    return first, np.trunc(kernel * (1 << _PRECISION) + np.where(kernel < 0, -0.5, 0.5)).astype(np.int64)


def _bicubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys' cubic with a = -0.5, in the order of operations of ``bicubic_filter``."""
    x, a = np.abs(distance), -0.5
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))
