"""Frames to square uint8 images with Pillow, by one of three crop policies.

``center_crop`` is the evaluation transform of open_clip, OpenAI and timm: the short side is resized to ``short_side``
(``size`` unless another is given), the long side in proportion (truncated to whole pixels as torchvision does), and
the middle square of ``size`` pixels is kept; 44 % of the width of a 16:9 frame is lost. ``squash`` resizes both sides
to ``size``: nothing is lost, the aspect changes. ``letterbox`` resizes the long side to ``size`` and pads the rest
evenly: nothing is lost, the picture gets smaller.

Pillow filters over the area that one output pixel covers, so shrinking is antialiased by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from extractors.base import Json, check_frames

Crop = Literal["center_crop", "squash", "letterbox"]
Interpolation = Literal["bicubic", "bilinear"]
Rgb = tuple[float, float, float]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Geometry on the CPU (``apply``) and the normalisation that the model does on its device.

    Attributes
    ----------
    size
        Side of the square image in pixels.
    crop
        Policy that makes a frame square.
    interpolation
        Filter that resizes.
    mean, std
        Per channel, on the 0..1 scale: the network sees ``(pixel/255 - mean) / std``.
    short_side
        Pixels of the short side before a centre crop, at least ``size``; None is ``size``.
    """

    size: int
    crop: Crop
    interpolation: Interpolation
    mean: Rgb
    std: Rgb
    short_side: int | None = None

    @property
    def fill(self) -> tuple[int, int, int]:
        """Colour of the letterbox bars: the mean colour, which the normalisation takes to within 1/510 of zero."""
        red, green, blue = (round(255 * channel) for channel in self.mean)
        return red, green, blue

    def spec(self) -> dict[str, Json]:
        """Return this preprocessing as JSON, with the library that resizes; ``short_side`` only if one is given."""
        spec: dict[str, Json] = {
            "size": self.size,
            "crop": self.crop,
            "fill": list(self.fill) if self.crop == "letterbox" else None,
            "interpolation": self.interpolation,
            "antialias": True,
            "mean": list(self.mean),
            "std": list(self.std),
            "library": f"Pillow {PIL.__version__}",
        }
        return spec if self.short_side is None else {**spec, "short_side": self.short_side}

    def geometry(self) -> dict[str, Json]:
        """Return all that ``apply`` depends on: the normalisation is the device's."""
        return {
            "image": self.size,
            "crop": self.crop,
            "fill": list(self.fill) if self.crop == "letterbox" else None,
            "interpolation": self.interpolation,
            "short_side": (self.short_side or self.size) if self.crop == "center_crop" else None,
        }

    def apply(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        """Resize and crop ``uint8 [N,H,W,3]`` into ``uint8 [N,size,size,3]``.

        Raises
        ------
        ExtractorError
            If the frames have another shape or dtype.
        """
        check_frames(frames)
        prepared = np.empty((len(frames), self.size, self.size, 3), np.uint8)
        for square, frame in zip(prepared, frames, strict=True):
            square[...] = np.asarray(self._square(Image.fromarray(np.ascontiguousarray(frame))))
        return prepared

    def _square(self, image: Image.Image) -> Image.Image:
        size = self.size
        if self.crop == "squash":
            return self._resize(image, size, size)
        width, height = image.size
        if self.crop == "letterbox":
            # open_clip's ResizeKeepRatio(longest=1) and CenterCropOrPad: round the side, floor the first bar.
            ratio = max(width, height) / size
            inner = self._resize(image, max(1, round(width / ratio)), max(1, round(height / ratio)))
            square = Image.new("RGB", (size, size), self.fill)
            square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
            return square
        # torchvision's Resize(int) and CenterCrop: truncate the long side, round the offset (halves to even).
        short = min(width, height)
        short_side = self.short_side or size
        resized = self._resize(image, int(short_side * width / short), int(short_side * height / short))
        left = round((resized.width - size) / 2.0)
        top = round((resized.height - size) / 2.0)
        return resized.crop((left, top, left + size, top + size))

    def _resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), _FILTERS[self.interpolation])
