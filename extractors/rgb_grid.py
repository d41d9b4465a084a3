"""``rgb_grid``: the mean colour of each cell of a grid. No network, no torch, real numbers.

It is a colour baseline for retrieval and question answering, the fixture of the pipeline's tests, and the null model of
the overhead benchmarks: what a run costs with it is what the pipeline itself costs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from extractors.base import Extractor, Json, Model, OutputSpec, check_frames


class RgbGrid(Extractor):
    """Mean RGB per cell of a ``grid`` × ``grid`` grid over the whole frame (aspect squashed, nothing cropped).

    A step is ``[grid*grid*3] float32`` in 0..1, cells row-major, then R, G, B. The values are multiples of 1/255 and
    within 1/255 of the exact mean, because the frame is averaged in 8 bits when it is prepared.

    Attributes
    ----------
    grid
        Cells along one side.
    """

    name: ClassVar[str] = "rgb_grid"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "frames"

    grid: int = Field(default=4, ge=1, le=64)

    def spec(self) -> dict[str, Json]:
        """Return the spec: the grid and the library that averages."""
        resize: Json = {"interpolation": "box", "library": f"Pillow {PIL.__version__}"}
        return {
            "extractor": self.name,
            "version": self.version,
            "grid": self.grid,
            "preprocessing": resize,
            "compute_dtype": "float32",
        }

    def output(self) -> OutputSpec:
        """Return ``[grid*grid*3]``, mean RGB in 0..1."""
        return OutputSpec((self.grid * self.grid * 3,), "mean RGB per grid cell, 0..1")

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(grid, grid, 3)``."""
        return (self.grid, self.grid, 3)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        """Average ``uint8 [N,H,W,3]`` into ``uint8 [N,grid,grid,3]``.

        Pillow's box filter counts a pixel into the cell that its centre lies in, and rounds twice: after averaging
        along the rows and after averaging along the columns.
        """
        check_frames(frames)
        cells = np.empty((len(frames), *self.prepared_shape()), np.uint8)
        size = (self.grid, self.grid)
        for cell, frame in zip(cells, frames, strict=True):
            cell[...] = np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BOX))
        return cells

    def load(self, device: str, threads: int | None = None) -> RgbGridModel:
        """Return the model. It runs on the CPU, whatever the device."""
        return RgbGridModel(self.output())


class RgbGridModel(Model):
    """Scale prepared cells to 0..1.

    Parameters
    ----------
    output
        Shape of one step.
    """

    def __init__(self, output: OutputSpec) -> None:
        self.output = output

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Turn ``uint8 [M,grid,grid,3]`` into ``float32 [M,grid*grid*3]``."""
        return batch.reshape(len(batch), -1).astype(np.float32) / np.float32(255)

    def numerics(self) -> dict[str, Json]:
        """Return device and dtype: one division per number gives the same on every machine."""
        return {"device_type": "cpu", "compute_dtype": "float32"}
