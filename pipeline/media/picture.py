"""Converts one decoded frame to one upright RGB picture with square pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from pipeline.media.types import Limits, MediaError

_FULL, _LIMITED = int(ColorRange.JPEG), int(ColorRange.MPEG)
# AVCOL_SPC_*: ITU-T H.273, table 4.
_MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}


class ImageKind(NamedTuple):
    """A format of still pictures: its decoder in libavcodec, and its name."""

    codec: str
    name: str


_TIFF = ImageKind("tiff", "TIFF")
_IMAGES = (
    (b"\x89PNG", ImageKind("png", "PNG")),
    (b"\xff\xd8\xff", ImageKind("mjpeg", "JPEG")),
    (b"BM", ImageKind("bmp", "BMP")),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
)
SQUARE = Fraction(1)
"""The aspect of pixels whose file says nothing about it."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture is turned for display: axes swapped first, then flipped."""

    swap: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a picture, uint8 [H, W, 3], and return it contiguous."""
        if self.swap:
            rgb = rgb.transpose(1, 0, 2)
        if self.flip_rows:
            rgb = rgb[::-1]
        if self.flip_columns:
            rgb = rgb[:, ::-1]
        return np.ascontiguousarray(rgb)

    @property
    def clockwise(self) -> int | None:
        """Degrees of clockwise rotation, or None if the picture is mirrored."""
        turns = {
            (False, False, False): 0,
            (True, False, True): 90,
            (False, True, True): 180,
            (True, True, False): 270,
        }
        return turns.get((self.swap, self.flip_rows, self.flip_columns))


def image_kind(data: bytes) -> ImageKind | None:
    """Return which still picture a file holds, by its first bytes; None if it is none of those that are known."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageKind("webp", "WebP")
    return next((kind for magic, kind in _IMAGES if data.startswith(magic)), None)


def orientation(frame: VideoFrame) -> Orientation:
    """Read the display matrix (ISO/IEC 14496-12, 6.2.2); angles other than quarter turns are ignored."""
    items: list[Any] = list(frame.side_data)  # PyAV's stubs do not say that the container holds items
    data = next((bytes(item) for item in items if item.type == Type.DISPLAYMATRIX), None)
    if data is None:
        return Orientation()
    matrix = np.frombuffer(data, dtype=np.int32).reshape(3, 3)[:2, :2] / 65536
    (a, b), (c, d) = matrix.tolist()
    if abs(b) < 1e-3 and abs(c) < 1e-3:
        return Orientation(flip_rows=d < 0, flip_columns=a < 0)
    if abs(a) < 1e-3 and abs(d) < 1e-3:
        return Orientation(swap=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation()


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Return the size in square pixels; the short side grows, so that no detail is lost."""
    if aspect == SQUARE:
        return width, height
    if aspect > 1:
        return max(1, round(width * aspect)), height
    return width, max(1, round(height / aspect))


def to_rgb(reformatter: VideoReformatter, frame: VideoFrame, aspect: Fraction, limits: Limits) -> NDArray[np.uint8]:
    """Convert one frame; one reformatter serves all frames of a pass and keeps its tables.

    Matrix and range are the frame's own tags, as swscale reads them; a frame with square pixels and no rotation is
    bit-identical to ``frame.to_ndarray(format="rgb24")``.

    Returns
    -------
    numpy.ndarray
        uint8 [H, W, 3].

    Raises
    ------
    MediaError
        ``too_large`` if the picture, or its square-pixel form, exceeds the limits.
    """
    width, height = square_size(frame.width, frame.height, aspect)
    if max(width * height, frame.width * frame.height) > limits.max_pixels:
        raise MediaError("too_large", f"{width}x{height} pixels; the limit is {limits.max_pixels} pixels")
    rgb = reformatter.reformat(frame, format="rgb24", width=width, height=height, threads=1).to_ndarray()
    return orientation(frame).apply(rgb.view(np.uint8))


def describe(frame: VideoFrame, aspect: Fraction) -> dict[str, Any]:
    """Return what the media record says about the pictures, JSON-able, from the first wanted frame."""
    turn = orientation(frame)
    width, height = square_size(frame.width, frame.height, aspect)
    if turn.swap:
        width, height = height, width
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    return {
        "pixel_format": frame.format.name,
        "display_width": width,
        "display_height": height,
        "rotation_clockwise": turn.clockwise,
        "mirrored": turn.clockwise is None,
        "sample_aspect_ratio": f"{aspect.numerator}:{aspect.denominator}",
        "color_range": "full" if full else "limited" if frame.color_range == _LIMITED else "unspecified",
        "color_matrix": _MATRICES.get(frame.colorspace, "unspecified"),
        "interlaced": frame.interlaced_frame,
    }
