"""Small models and random batches."""

from __future__ import annotations

from typing import Any

import torch

from trainers.coqo.attention import Steps
from trainers.coqo.config import CoqoConfig
from trainers.coqo.data import Inputs
from trainers.coqo.model import Sizes

SMALL: dict[str, Any] = {
    "dim": 32,
    "question": {"embed": 16, "hidden": 16},
    "qgt": {"heads": 4, "ffn": 48, "tokens": 3},
    "spatial_chunk": 2,
    "hcrn": {"clips": 5, "frames": 6},
}


def settings(data: dict[str, Any] | None = None, loss: dict[str, Any] | None = None, **model: Any) -> CoqoConfig:
    """Return the settings of a small model: ``SMALL`` with the keys of ``model`` on top."""
    sections = {name: {**SMALL[name], **model.pop(name, {})} for name in ("question", "qgt", "hcrn")}
    raw = {"data": data or {}, "loss": loss or {}, "model": {**SMALL, **model, **sections}}
    return CoqoConfig.model_validate(raw)


def sizes(maps: bool = True) -> Sizes:
    return Sizes(words=20, answers=7, audio=(9,), visual=(3, 3, 10) if maps else (10,))


def steps(generator: torch.Generator, batch: int, count: int, step: tuple[int, ...]) -> Steps:
    valid = torch.ones(batch, count, dtype=torch.bool)
    valid[0, -1] = count == 1
    times = (torch.arange(count, dtype=torch.float64) + 0.5).expand(batch, -1).clone()
    return Steps(torch.randn(batch, count, *step, generator=generator), valid, times)


def inputs(batch: int = 3, questions: int = 4, count: int = 6, maps: bool = True, seed: int = 0) -> Inputs:
    """Make inputs of distinct videos: later ones have fewer questions; all questions but the first have fewer words."""
    generator = torch.Generator().manual_seed(seed)
    shapes = sizes(maps)
    words = torch.randint(1, shapes.words, (batch, questions, 5), generator=generator)
    words[:, 1:, -1] = 0
    q_mask = torch.ones(batch, questions, dtype=torch.bool)
    for row in range(1, batch):
        q_mask[row, max(1, questions - row) :] = False
    words[~q_mask] = 0
    labels = torch.randint(0, shapes.answers, (batch, questions), generator=generator).masked_fill(~q_mask, -1)
    audio, visual = steps(generator, batch, count, shapes.audio), steps(generator, batch, count, shapes.visual)
    return Inputs(words, q_mask, audio, visual, torch.arange(batch), labels)
