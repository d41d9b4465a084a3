"""A torch-free extractor of clips: the mean colours of each frame, or their mean over the clip."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from extractors.base import Extractor, Input, Json, Model, OutputSpec, check_clips, frame_by_frame
from extractors.rgb_grid import RgbGrid


class ClipGrid(Extractor):
    """The numbers of ``rgb_grid`` for each frame of a clip, ``[frames, grid*grid*3]``."""

    name: ClassVar[str] = "clip_grid"
    version: ClassVar[int] = 1
    input: ClassVar[Input] = "clips"

    frames: int = 4
    grid: int = 2

    def spec(self) -> dict[str, Json]:
        return {"extractor": self.name, "version": self.version, "frames": self.frames, "grid": self.grid}

    def output(self) -> OutputSpec:
        return OutputSpec((self.frames, self.grid * self.grid * 3), "mean RGB per frame and grid cell, 0..1")

    def prepared_shape(self) -> tuple[int, ...]:
        return (self.frames, self.grid, self.grid, 3)

    def prepare(self, frames: NDArray[Any]) -> NDArray[Any]:
        check_clips(frames)
        return frame_by_frame(RgbGrid(grid=self.grid).prepare, frames)

    def load(self, device: str, threads: int | None = None) -> Model:
        return _ClipGridModel(self.output())


class FlatClipGrid(ClipGrid):
    """The same in one dimension, ``[frames*grid*grid*3]``: with one frame, what ``rgb_grid`` gives."""

    name: ClassVar[str] = "flat_clip_grid"

    def output(self) -> OutputSpec:
        return OutputSpec((self.frames * self.grid * self.grid * 3,), "mean RGB per frame and grid cell, 0..1")


class _ClipGridModel(Model):
    def __init__(self, output: OutputSpec) -> None:
        self.output = output

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = batch.reshape(len(batch), *self.output.step_shape).astype(np.float32)
        return values / np.float32(255)

    def numerics(self) -> dict[str, Json]:
        return {"device_type": "cpu", "compute_dtype": "float32"}
