"""A task that is quick and has dropout: separate two clouds of points."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainers.config import LoopConfig
from trainers.distributed import join, leave
from trainers.loop import train
from trainers.progress import Progress
from trainers.task import Evaluation, Json, Task


@dataclass
class Points:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Points:
        return Points(self.x.to(device), self.y.to(device))


class Clouds(Task):
    """``steps`` batches of 8 an epoch; ``break_at`` kills the process before that global step."""

    select = "accuracy"

    def __init__(self, steps: int = 5, rank: int = 0, break_at: int | None = None, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 2))
        self._steps, self._rank, self._break_at, self._scale = steps, rank, break_at, scale

    def steps_per_epoch(self) -> int:
        return self._steps

    def batches(self, epoch: int, start_step: int) -> Iterator[Points]:
        for step in range(start_step, self._steps):
            if self._break_at is not None and epoch * self._steps + step >= self._break_at:
                sys.stdout.flush()
                import os
                import signal

                os.kill(os.getpid(), signal.SIGKILL)
            yield self._points([epoch, step, self._rank])

    def _points(self, seed: list[int]) -> Points:
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 8)
        x = rng.normal(size=(8, 4)) + 2 * y[:, None] * self._scale
        return Points(torch.tensor(x, dtype=torch.float32), torch.tensor(y))

    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        total = F.cross_entropy(self.model(batch.x), batch.y)
        return {"total": total, "half": total / 2}

    def evaluate(self, split: str) -> Evaluation:
        points = self._points([1000])
        right = (self.model(points.x).argmax(1) == points.y).float().mean()
        return Evaluation({"accuracy": 100 * float(right)}, {"answers": {}})

    def splits(self) -> Sequence[str]:
        return ("val",)

    def describe(self) -> dict[str, Json]:
        return {"steps": self._steps}


def main(folder: str, settings: str) -> None:
    """Train in a process of its own; ``settings`` is JSON: loop and task options."""
    options = json.loads(settings)
    ranks = join("cpu")
    task = Clouds(rank=ranks.rank, **options.get("task", {}))
    train(task, LoopConfig(**options["loop"]), Path(folder), ranks, Progress())
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
