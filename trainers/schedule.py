"""Learning-rate schedules: factors of the peak rate as functions of the optimiser step."""

from __future__ import annotations

import math


def cosine(step: int, warmup: int, total: int, final: float) -> float:
    """Return the factor after a linear warm-up from 0 to 1, then along half a cosine down to ``final`` at ``total``.

    This is the schedule that CRA's published configuration calls ``warmup``: 533 of 15,990 steps warm up, and
    ``final`` is 1e-3 (``docs/facts/cra.md`` section 5.6).
    """
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(step: int, warmup: int, total: int) -> float:
    """Return the factor after a linear warm-up from 0 to 1, then along a line down to 0 at ``total``.

    FrozenBiLM is published with it (``docs/facts/frozenbilm.md`` section 6), but there each rate is set after a step,
    so that the very first step has the full rate.
    """
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def staircase(step: int, every: int, factor: float) -> float:
    """Return ``factor`` to the power of the completed periods of ``every`` steps (StepLR in MUSIC-AVQA's code)."""
    return factor ** (step // every)
