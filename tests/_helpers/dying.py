"""An extractor whose process dies once: the process that first makes the marker file is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from extractors.rgb_grid import RgbGrid, RgbGridModel


class Dying(RgbGrid):
    """A ``rgb_grid`` whose process dies once.

    The marker's path is an option, because workers do not share the driver's environment.
    """

    marker: str = Field(default_factory=lambda: os.environ.get("REELSTORE_TEST_DIED", ""))

    def load(self, device: str, threads: int | None = None) -> RgbGridModel:
        return _DyingModel(self)


class _DyingModel(RgbGridModel):
    def __init__(self, extractor: Dying) -> None:
        super().__init__(extractor.output())
        self._marker = Path(extractor.marker)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        try:
            self._marker.touch(exist_ok=False)
        except FileExistsError:
            return super().forward(batch)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")
