"""Torch-free audio extractors: the root mean square of each window, and the window itself."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.base import Extractor, Json, Model, OutputSpec


class Loudness(Extractor):
    name: ClassVar[str] = "loudness"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "audio"
    prepared_dtype: ClassVar[str] = "float32"

    def spec(self) -> dict[str, Json]:
        return {"extractor": self.name}

    def output(self) -> OutputSpec:
        return OutputSpec((1,), "root mean square")

    def prepared_shape(self) -> tuple[int, ...]:
        return (1,)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        assert frames.shape[1:] == (self.window_samples,)
        return np.sqrt((frames.astype(np.float64) ** 2).mean(1, keepdims=True)).astype(np.float32)

    def load(self, device: str, threads: int | None = None) -> Model:
        return _Identity(self.output())


class Windows(Loudness):
    name: ClassVar[str] = "windows"

    def output(self) -> OutputSpec:
        return OutputSpec((self.window_samples,), "samples")

    def prepared_shape(self) -> tuple[int, ...]:
        return (self.window_samples,)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        return frames


class _Identity(Model):
    def __init__(self, output: OutputSpec) -> None:
        self.output = output

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        return batch.copy()

    def numerics(self) -> dict[str, Json]:
        return {"device_type": "cpu"}
