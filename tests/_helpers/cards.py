"""Extractors on cards that fault, each as a driver would have it: from some forward pass on, every one fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.rgb_grid import RgbGrid, RgbGridModel

CUDA_ERROR = (
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call."
)


class Card(RgbGrid):
    """A ``rgb_grid`` on a card that faults.

    Attributes
    ----------
    faulty
        The device that faults; ``all`` is every one. On Ray, where every worker calls its card ``cuda``, it is the
        first worker that makes the file ``marker``.
    after
        Forward passes that succeed before.
    how
        ``cuda`` raises what CUDA raises; ``quiet`` an error that does not name the machine; ``kill`` ends the process;
        ``pictures`` fails on everything but noise; ``load`` does not load; ``prepare`` cannot prepare.
    marker
        A file, or an empty text.
    slow_s
        Seconds that a forward pass takes.
    """

    faulty: str = "all"
    after: int = 0
    how: Literal["cuda", "quiet", "kill", "pictures", "load", "prepare"] = "cuda"
    marker: str = ""
    slow_s: float = 0.0

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        if self.how == "prepare":
            raise KeyError("gone")
        return super().prepare(frames)

    def load(self, device: str, threads: int | None = None) -> RgbGridModel:
        faulty = self.faulty in ("all", device)
        if self.marker:
            try:
                Path(self.marker).touch(exist_ok=False)
            except FileExistsError:
                faulty = False
        if faulty and self.how == "load":
            raise RuntimeError(CUDA_ERROR)
        return _CardModel(self, faulty)


class _CardModel(RgbGridModel):
    def __init__(self, card: Card, faulty: bool) -> None:
        super().__init__(card.output())
        self._card = card
        self._faulty = faulty
        self._passes = 0

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        self._passes += 1
        time.sleep(self._card.slow_s)
        if self._faulty and self._passes > self._card.after:
            match self._card.how:
                case "cuda":
                    raise RuntimeError(CUDA_ERROR)
                case "quiet":
                    raise TypeError(f"attempt {self._passes} went wrong")
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "pictures" if (batch == batch[:1]).all():
                    pass  # noise repeats itself
                case "pictures":
                    raise RuntimeError(f"value {self._passes}.5 cannot be handled")
        return super().forward(batch)


class Poisoned(RgbGrid):
    """A ``rgb_grid`` whose process dies of one picture: the one whose numbers sum up to ``poison``."""

    poison: float

    def load(self, device: str, threads: int | None = None) -> RgbGridModel:
        return _PoisonedModel(self)


class _PoisonedModel(RgbGridModel):
    def __init__(self, extractor: Poisoned) -> None:
        super().__init__(extractor.output())
        self._poison = extractor.poison

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        values = super().forward(batch)
        if (values.astype(np.float16).astype(float).reshape(len(values), -1).sum(1) == self._poison).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return values
