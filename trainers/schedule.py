"""Learning-rate schedules: factors of the peak rate as functions of the optimiser step."""

from __future__ import annotations

import math


def cosine(step: int, warmup: int, total: int, final: float) -> float:
    """Linear warm-up from 0 to 1 over ``warmup`` steps, then half a cosine down to ``final`` at ``total``.

    What CRA's released configuration calls ``warmup`` (facts: 533 steps of 15,990, final 1e-3).
    """
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def staircase(step: int, every: int, factor: float) -> float:
    """``factor`` to the number of completed periods of ``every`` steps (the MUSIC-AVQA family's StepLR)."""
    return factor ** (step // every)
