"""Frames to square uint8 images with Pillow, by one of three crop policies.

``center_crop`` is the evaluation transform of open_clip, OpenAI and timm: the short side is resized to ``short_side``
(``size`` unless another is given), the long side in proportion (truncated to whole pixels as torchvision does), and
the middle square of ``size`` pixels is kept; 44 % of the width of a 16:9 frame is lost. ``squash`` resizes both sides
to ``size``: nothing is lost, the aspect changes; with a ``short_side``, both sides are resized to that and the middle
is kept. ``letterbox`` resizes the long side to ``size`` and pads the rest evenly: nothing is lost, the picture gets
smaller.

Pillow filters over the area that one output pixel covers, so shrinking is antialiased by construction. Frames that lie
on a GPU are resized there, to the same bytes. A few models want pictures that are not rounded to bytes when they are
resized; Pillow then resizes each channel in float32.
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
        Pixels of the short side before a centre crop, or of both sides before the crop of a squashed picture; at least
        ``size``. None is ``size``.
    odd_margin
        Where a crop begins whose margin is an odd number of pixels: ``even`` rounds half of it to an even number, as
        torchvision's ``CenterCrop`` does, ``down`` rounds it down, as the image processors of transformers do.
    rounded
        True gives bytes. False gives float32 on the 0..255 scale, not rounded between resizing and the network.
    """

    size: int
    crop: Crop
    interpolation: Interpolation
    mean: Rgb
    std: Rgb
    short_side: int | None = None
    odd_margin: Literal["even", "down"] = "even"
    rounded: bool = True

    @property
    def fill(self) -> tuple[int, int, int]:
        """Colour of the letterbox bars: the mean colour, which the normalisation takes to within 1/510 of zero."""
        red, green, blue = (round(255 * channel) for channel in self.mean)
        return red, green, blue

    def spec(self) -> dict[str, Json]:
        """Return this preprocessing as JSON, with the library that resizes; the last three only if they are given."""
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
        return spec | self._uncommon() | ({} if self.short_side is None else {"short_side": self.short_side})

    def _uncommon(self) -> dict[str, Json]:
        margin: dict[str, Json] = {} if self.odd_margin == "even" else {"odd_margin": self.odd_margin}
        return margin if self.rounded else {**margin, "resized_in": "float32"}

    def geometry(self) -> dict[str, Json]:
        """Return all that ``apply`` depends on: the normalisation is the device's."""
        return {
            "image": self.size,
            "crop": self.crop,
            "fill": list(self.fill) if self.crop == "letterbox" else None,
            "interpolation": self.interpolation,
            "short_side": (self.short_side or self.size) if self.crop == "center_crop" else self.short_side,
            **self._uncommon(),
        }

    def apply(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Resize and crop ``uint8 [N,H,W,3]`` into ``uint8 [N,size,size,3]``, or float32 if it is not rounded.

        Raises
        ------
        ExtractorError
            If the frames have another shape or dtype.
        """
        check_frames(frames)
        prepared = np.empty((len(frames), self.size, self.size, 3), np.uint8 if self.rounded else np.float32)
        for square, frame in zip(prepared, frames, strict=True):
            if self.rounded:
                square[...] = np.asarray(self._square(Image.fromarray(np.ascontiguousarray(frame))))
            else:
                for channel in range(3):
                    square[..., channel] = np.asarray(self._square(Image.fromarray(frame[..., channel].astype("f4"))))
        return prepared

    def apply_tensor(self, frames: torch.Tensor) -> torch.Tensor:
        """Do what ``apply`` does where the frames lie: ``uint8 [N,H,W,3]`` to ``uint8 [N,size,size,3]``, equal bytes.

        Only for pictures that are rounded.

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
        if self.crop == "letterbox":
            square = Image.new("RGB", (self.size, self.size), self.fill)
            square.paste(inner, (left, top))
            return square
        return inner.crop((left, top, left + self.size, top + self.size))

    def _inner(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of a resized frame, before the crop or the bars."""
        size, short_side = self.size, self.short_side or self.size
        if self.crop == "squash":
            return short_side, short_side
        if self.crop == "letterbox":
            # open_clip's ResizeKeepRatio(longest=1) rounds the side.
            ratio = max(width, height) / size
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        # torchvision's Resize(int) truncates the long side.
        short = min(width, height)
        return int(short_side * width / short), int(short_side * height / short)

    def _offset(self, width: int, height: int) -> tuple[int, int]:
        """Return (left, top) of the crop inside the resized frame, or of the resized frame between its bars."""
        if self.crop == "letterbox":  # open_clip's CenterCropOrPad floors the first bar
            return (self.size - width) // 2, (self.size - height) // 2
        if self.odd_margin == "down":
            return (width - self.size) // 2, (height - self.size) // 2
        # torchvision's CenterCrop rounds the offset (halves to even).
        return round((width - self.size) / 2.0), round((height - self.size) / 2.0)

    def _resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), _FILTERS[self.interpolation])
