"""A small torch tower that computes in the dtype of its option ``compute_dtype``."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors.base import Execution, Extractor, Json, Model, OutputSpec
from extractors.dtypes import ComputeDtype, spec_entry, used_on
from extractors.rgb_grid import RgbGrid
from extractors.torch_model import TorchModel, dtype_of


class Linear(Extractor):
    """One linear layer over the mean colours of a 2 × 2 grid."""

    name: ClassVar[str] = "linear"
    version: ClassVar[int] = 1

    compute_dtype: ComputeDtype = "bfloat16"

    def spec(self) -> dict[str, Json]:
        return {"extractor": self.name, "compute_dtype": spec_entry(self.compute_dtype)}

    def output(self) -> OutputSpec:
        return OutputSpec((5,), "numbers")

    def prepared_shape(self) -> tuple[int, ...]:
        return (2, 2, 3)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        return RgbGrid(grid=2).prepare(frames)

    def load(self, device: str, threads: int | None = None) -> Model:
        execution = Execution("cpu", used_on("cpu", self.compute_dtype), 1)
        network = nn.Linear(12, 5)
        with torch.no_grad():
            network.weight.copy_(torch.linspace(-1, 1, 60).view(5, 12))
            network.bias.zero_()
        return _LinearModel(network, self.output(), execution, {}, None)


class _LinearModel(TorchModel):
    def _features(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return network((batch.flatten(1).float() / 255).to(dtype_of(network)))
