"""``hue_hog``: colour and edge histograms of each cell of a grid. No network, no torch, no weights.

The mean colour says what a cell looks like, the hue histogram which colours stand out in it, and the histogram of
oriented gradients (Navneet Dalal and Bill Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005)
which way its edges run: enough to tell coloured shapes apart, and to see where and how large they are. It is the tower
of the toy world, and a hand-made baseline for any trainer that reads maps.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from extractors.base import Extractor, Json, Model, OutputSpec, check_frames

HUES = 6
ORIENTATIONS = 4
CHANNELS = 3 + HUES + ORIENTATIONS
_CELL = 8


class HueHog(Extractor):
    """Histograms per cell of a ``grid`` × ``grid`` grid over the whole frame (aspect squashed, nothing cropped).

    The 13 channels are all in 0..1: mean R, G, B; six hues from red in steps of 60 degrees, weighted by chroma; edges
    with their normals at 0, 45, 90 and 135 degrees, weighted by the luminance step. The histograms are the square roots
    of means over the cell's pixels (Hellinger kernel), so that a small shape is not lost beside a large one.

    Attributes
    ----------
    grid
        Cells along one side.
    form
        ``map`` gives ``[grid, grid, 13] float32``, row-major from the top left; ``flat`` the same as
        ``[grid*grid*13]``; ``rows`` gives ``[2*grid*13]``, the mean and the maximum of each channel over each row of
        cells: what is seen at which height, wherever it stands from left to right.
    """

    name: ClassVar[str] = "hue_hog"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "frames"

    grid: int = Field(default=7, ge=1, le=64)
    form: Literal["map", "flat", "rows"] = "map"

    def spec(self) -> dict[str, Json]:
        """Return the spec: the grid, the form and the library that resizes."""
        resize: Json = {"size": self.grid * _CELL, "interpolation": "box", "library": f"Pillow {PIL.__version__}"}
        return {
            "extractor": self.name,
            "version": self.version,
            "grid": self.grid,
            "form": self.form,
            "preprocessing": resize,
            "compute_dtype": "float32",
        }

    def output(self) -> OutputSpec:
        """Return ``[grid, grid, 13]``, ``[grid*grid*13]`` or ``[2*grid*13]``."""
        shapes: dict[str, tuple[int, ...]] = {
            "map": (self.grid, self.grid, CHANNELS),
            "flat": (self.grid * self.grid * CHANNELS,),
            "rows": (2 * self.grid * CHANNELS,),
        }
        return OutputSpec(shapes[self.form], "mean RGB, hue and oriented-gradient histograms per grid cell, 0..1")

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(8*grid, 8*grid, 3)``."""
        return (self.grid * _CELL, self.grid * _CELL, 3)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        """Resize ``uint8 [N,H,W,3]`` into ``uint8 [N, 8*grid, 8*grid, 3]`` with Pillow's box filter."""
        check_frames(frames)
        prepared = np.empty((len(frames), *self.prepared_shape()), np.uint8)
        size = (self.grid * _CELL, self.grid * _CELL)
        for square, frame in zip(prepared, frames, strict=True):
            square[...] = np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BOX))
        return prepared

    def load(self, device: str, threads: int | None = None) -> HueHogModel:
        """Return the model. It runs on the CPU, whatever the device."""
        return HueHogModel(self.output(), self.grid, self.form == "rows")


class HueHogModel(Model):
    """Histograms of prepared frames.

    Parameters
    ----------
    output
        Shape of one step.
    grid
        Cells along one side.
    rows
        Give the mean and the maximum over each row of cells.
    """

    def __init__(self, output: OutputSpec, grid: int, rows: bool) -> None:
        self.output, self._grid, self._rows = output, grid, rows

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Turn ``uint8 [M, 8*grid, 8*grid, 3]`` into ``float32 [M, *step_shape]``."""
        rgb = batch.astype(np.float32) / np.float32(255)
        hue, chroma = _hue(rgb)
        red, green, blue = np.moveaxis(rgb, -1, 0)
        luminance = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
        weight, angle = _gradient(luminance)
        maps = [
            self._cells(rgb),
            np.sqrt(self._cells(_soft_bins(hue, HUES) * chroma[..., None])),
            np.sqrt(self._cells(_soft_bins(angle, ORIENTATIONS) * weight[..., None])),
        ]
        cells = np.concatenate(maps, axis=-1)  # [M, grid, grid, 13]
        if self._rows:
            cells = np.concatenate([cells.mean(2), cells.max(2)], axis=-1)  # [M, grid, 26]
        return cells.reshape(len(batch), *self.output.step_shape)

    def _cells(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Average over the pixels of each cell: ``[M, 8g, 8g, C]`` to ``[M, g, g, C]``."""
        count, grid = len(pixels), self._grid
        rows = pixels.reshape(count, grid, _CELL, grid * _CELL, -1).sum(2)  # one axis at a time is far quicker
        cells: NDArray[np.float32] = rows.reshape(count, grid, grid, _CELL, -1).sum(3) / np.float32(_CELL * _CELL)
        return cells

    def numerics(self) -> dict[str, Json]:
        """Return numpy's version, whose elementary functions in single precision decide the last bits."""
        return {"device_type": "cpu", "compute_dtype": "float32", "numpy": np.__version__}


def _hue(rgb: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return hue as a fraction of the circle, 0 for grey, and chroma (largest minus smallest channel), ``[M,H,W]``."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    largest = rgb.max(-1)
    chroma = largest - rgb.min(-1)
    safe = np.where(chroma > 0, chroma, np.float32(1))
    sixth = np.where(
        largest == red,
        (green - blue) / safe,
        np.where(largest == green, (blue - red) / safe + np.float32(2), (red - green) / safe + np.float32(4)),
    )
    return np.where(sixth < 0, sixth + np.float32(6), sixth) / np.float32(6), chroma


def _gradient(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return size (at most 1) and direction (a fraction of half a turn) of central differences, 0 at the border."""
    down, across = np.zeros_like(grey), np.zeros_like(grey)
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    size = np.minimum(np.hypot(down, across), np.float32(1))
    half_turns = np.arctan2(down, across) / np.float32(np.pi)
    return size, np.where(half_turns < 0, half_turns + np.float32(1), half_turns)


def _soft_bins(circle: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Share each value in 0..1 among its two nearest bins, centred at k / bins: ``[...]`` to ``[..., bins]``, sum 1."""
    distance = np.abs(circle[..., None] * np.float32(bins) - np.arange(bins, dtype=np.float32))
    distance = np.minimum(distance, np.float32(bins) - distance)
    share: NDArray[np.float32] = np.maximum(np.float32(0), np.float32(1) - distance)
    return share
