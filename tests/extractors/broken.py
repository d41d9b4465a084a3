"""An extractor and a text encoder that break one promise of their contract at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors import OutputSpec
from extractors.base import Json
from extractors.rgb_grid import RgbGrid, RgbGridModel
from extractors.text import TextModel
from extractors.text.hashed import HashedText

_CALLS = itertools.count()


class Broken(RgbGrid):
    """An extractor that keeps all promises but the one that ``breaks`` names."""

    breaks: str = ""

    def spec(self) -> dict[str, Json]:
        spec: dict[str, Any] = super().spec()
        extra = {
            "spec: JSON": {1, 2},
            "spec: lists": (1, 2),
            "spec: finite": float("nan"),
            "spec: stable": next(_CALLS),
            "spec: object": id(self),
            "spec: process": os.getpid(),
        }
        if self.breaks in extra:
            return {**spec, "extra": extra[self.breaks]}
        missing = {"spec: name": "extractor", "spec: version": "version"}.get(self.breaks)
        return {key: value for key, value in spec.items() if key != missing}

    def output(self) -> OutputSpec:
        output = super().output()
        if self.breaks == "output: shape":
            return OutputSpec((0, 4), output.units)
        return OutputSpec(output.step_shape, "") if self.breaks == "output: units" else output

    def __getstate__(self) -> dict[Any, Any]:
        if self.breaks == "pickling":
            raise TypeError("cannot pickle 'lock' object")
        state = super().__getstate__()
        return {**state, "__dict__": {"grid": 1, "breaks": ""}} if self.breaks == "pickling: changes" else state

    def prepare(self, frames: NDArray[Any]) -> NDArray[Any]:
        if self.breaks == "prepare: refuses":
            frames = frames.astype(np.uint8)
        if self.breaks == "prepare: imports":
            import torch  # noqa: F401
        prepared: NDArray[Any] = super().prepare(frames)
        match self.breaks:
            case "prepare: pure":
                frames[:, 0] = 0
            case "prepare: shape":
                return prepared[:, 1:]
            case "prepare: dtype":
                return prepared.astype(np.float32)
            case "prepare: again":
                return prepared + np.uint8(next(_CALLS))
            case "prepare: strided" if not frames.flags.c_contiguous:
                return prepared // 2
            case "prepare: alone":
                return prepared - prepared.min(0)
            case "prepare: order":
                return prepared + np.arange(len(prepared), dtype=np.uint8)[:, None, None, None]
        return prepared

    def load(self, device: str, threads: int | None = None) -> RgbGridModel:
        return _BrokenModel(self)


class _BrokenModel(RgbGridModel):
    def __init__(self, extractor: Broken) -> None:
        super().__init__(extractor.output())
        self._breaks = extractor.breaks
        self._number = next(_CALLS)
        self._buffers: dict[int, NDArray[np.float32]] = {}
        if self._breaks == "forward: output":
            self.output = OutputSpec((3,), "another")

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        values = super().forward(batch)
        match self._breaks:
            case "forward: shape":
                return values[:, 1:]
            case "forward: dtype":
                return values.astype(np.float64)
            case "forward: finite":
                return np.where(values > values.mean(), values, np.float32("inf"))
            case "forward: again":
                return values + np.float32(next(_CALLS))
            case "forward: neighbours":
                return values - values.mean(0, keepdims=True)
            case "forward: buffer":
                buffer = self._buffers.setdefault(len(batch), np.empty_like(values))
                buffer[...] = values
                return buffer
            case "forward: load":
                return values + np.float32(self._number)
        return values

    def reference(self, batch: NDArray[Any]) -> NDArray[np.float32] | None:
        return super().forward(batch)[:1] if self._breaks == "reference" else None

    def numerics(self) -> dict[str, Json]:
        numerics: dict[str, Any] = {"library": np.dtype("float32")} if self._breaks == "numerics" else {}
        return numerics


class BrokenText(HashedText):
    """A text encoder that keeps all promises but the one that ``breaks`` names."""

    breaks: str = ""

    def spec(self) -> dict[str, Json]:
        missing = {"spec: name": "encoder", "spec: version": "version"}.get(self.breaks)
        return {key: value for key, value in super().spec().items() if key != missing}

    @property
    def dim(self) -> int:
        return {"dim": 0, "encode: shape": self.size + 1}.get(self.breaks, self.size)

    def load(self, device: str = "cpu", threads: int | None = None) -> TextModel:
        return _BrokenTextModel(self.breaks, super().load(device, threads))


class _BrokenTextModel(TextModel):
    def __init__(self, breaks: str, model: TextModel) -> None:
        self._breaks, self._model = breaks, model
        self._number = next(_CALLS)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._model.encode(texts)
        match self._breaks:
            case "encode: dtype":
                return vectors.astype(np.float64)
            case "encode: finite":
                return vectors / np.float32(0)
            case "encode: none":
                return vectors if texts else np.zeros((1, vectors.shape[1]), np.float32)
            case "encode: again":
                return vectors + np.float32(next(_CALLS))
            case "encode: neighbours":
                return vectors - vectors[:1]
            case "encode: order":
                return vectors + np.arange(len(texts), dtype=np.float32)[:, None]
            case "encode: load":
                return vectors + np.float32(self._number)
        return vectors

    def numerics(self) -> dict[str, Json]:
        return {"loss": float("nan")} if self._breaks == "numerics" else {}
