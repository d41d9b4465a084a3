"""An extractor that takes its time, so that a test can stop a run in the middle."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.rgb_grid import RgbGrid, RgbGridModel

SECONDS = 0.15


class Slow(RgbGrid):
    def load(self, device: str, threads: int | None = None) -> RgbGridModel:
        return _SlowModel(self.output())


class _SlowModel(RgbGridModel):
    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        time.sleep(SECONDS)
        return super().forward(batch)
