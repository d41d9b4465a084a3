"""Small pictures of numbers: PNG files with a palette, without a library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from ..format.rows import Array

# Viridis (Smith and van der Walt, 2015) at nine equal distances; it reads in grey and to the colour-blind.
_ANCHORS = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (109, 205, 89), (253, 231, 37),
    ],
    np.float64,
)  # fmt: skip


def palette() -> Array:
    """Return 256 colours from dark to light, ``[256, 3] uint8``."""
    at = np.linspace(0, len(_ANCHORS) - 1, 256)
    channels = [np.interp(at, np.arange(len(_ANCHORS)), _ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def png(levels: Array) -> bytes:
    """Return a PNG file of ``levels``, ``[H, W] uint8``: each an index into the palette."""
    height, width = levels.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = levels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette().tobytes()), (b"IDAT", zlib.compress(lines.tobytes(), 9)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in (*chunks, (b"IEND", b"")))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def levels_of(values: Array, low: float, high: float) -> Array:
    """Return numbers as levels of the palette, ``uint8``: ``low`` and below is 0, ``high`` and above is 255."""
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)


def data_uri(picture: bytes) -> str:
    """Return a PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()
