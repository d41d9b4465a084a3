"""Frames to square uint8 images with Pillow, by one of three crop policies.

``center_crop`` is the evaluation transform of open_clip, OpenAI and timm: the short side is resized to ``short_side``
(``size`` unless another is given), the long side in proportion (truncated to whole pixels as torchvision does), and
the middle square of ``size`` pixels is kept; 44 % of the width of a 16:9 frame is lost. ``squash`` resizes both sides
to ``size``: nothing is lost, the aspect changes. ``letterbox`` resizes the long side to ``size`` and pads the rest
evenly: nothing is lost, the picture gets smaller.

Pillow filters over the area that one output pixel covers, so shrinking is antialiased by construction. Frames that lie
on a GPU are resized there, to the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from extractors.base import Json, check_frames

if TYPE_CHECKING:
    import torch

Crop = Literal["center_crop", "squash", "letterbox"]
Interpolation = Literal["bicubic", "bilinear"]
Rgb = tuple[float, float, float]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Geometry, on the CPU (``apply``) or any device, and the normalisation that the model does on its own.

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

    def apply_tensor(self, frames: torch.Tensor) -> torch.Tensor:
        """Do what ``apply`` does where the frames lie: ``uint8 [N,H,W,3]`` to ``uint8 [N,size,size,3]``, equal bytes.

        Raises
        ------
        ValueError
            If this device does not come to the bytes of this release of Pillow.
        """
        from extractors.resampling import resize  # here, because it imports torch

        size = self.size
        count, height, width, channels = frames.shape
        inner_width, inner_height = self._inner(width, height)
        inner = resize(frames, inner_height, inner_width, self.interpolation)
        left, top = self._offset(inner_width, inner_height)
        if self.crop != "letterbox":
            return inner[:, top : top + size, left : left + size]
        square = frames.new_tensor(self.fill).expand(count, size, size, channels).clone()
        square[:, top : top + inner_height, left : left + inner_width] = inner
        return square

    def _square(self, image: Image.Image) -> Image.Image:
        inner = self._resize(image, *self._inner(*image.size))
        left, top = self._offset(*inner.size)
        if self.crop == "squash":
            return inner
        if self.crop == "letterbox":
            square = Image.new("RGB", (self.size, self.size), self.fill)
            square.paste(inner, (left, top))
            return square
        return inner.crop((left, top, left + self.size, top + self.size))

    def _inner(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of a resized frame, before the crop or the bars."""
        size = self.size
        if self.crop == "squash":
            return size, size
        if self.crop == "letterbox":
            # open_clip's ResizeKeepRatio(longest=1) rounds the side.
            ratio = max(width, height) / size
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        # torchvision's Resize(int) truncates the long side.
        short = min(width, height)
        short_side = self.short_side or size
        return int(short_side * width / short), int(short_side * height / short)

    def _offset(self, width: int, height: int) -> tuple[int, int]:
        """Return (left, top) of the crop inside the resized frame, or of the resized frame between its bars."""
        if self.crop == "letterbox":  # open_clip's CenterCropOrPad floors the first bar
            return (self.size - width) // 2, (self.size - height) // 2
        # torchvision's CenterCrop rounds the offset (halves to even).
        return round((width - self.size) / 2.0), round((height - self.size) / 2.0)

    def _resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), _FILTERS[self.interpolation])
