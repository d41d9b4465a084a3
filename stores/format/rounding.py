"""How far stored numbers are from float32, as measured while they were computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

COMPUTE = "compute"
"""Error of a network that computes in half precision, against the same network in float32."""
STORAGE = "storage"
"""Error of rounding to the stored dtype, against the computed values."""


class RoundingError(BaseModel):
    """Difference between values and their float32 reference over some steps.

    Attributes
    ----------
    steps : how many steps were compared.
    max_abs, mean_abs : of the differences of all their numbers.
    min_cosine, mean_cosine : of each step, flattened, with its reference; over the steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    max_abs: float
    mean_abs: float
    min_cosine: float
    mean_cosine: float

    def __str__(self) -> str:
        return (
            f"largest error {self.max_abs:.3g}, mean {self.mean_abs:.3g}; cosine at least {self.min_cosine:.8f}, "
            f"mean {self.mean_cosine:.8f}; over {self.steps} steps"
        )


def pooled(errors: Sequence[RoundingError]) -> RoundingError:
    """The error over all steps of one feature's parts, at least one; the same in whatever order they come."""
    steps = sum(error.steps for error in errors)
    return RoundingError(
        steps=steps,
        max_abs=max(error.max_abs for error in errors),
        mean_abs=math.fsum(error.mean_abs * error.steps for error in errors) / steps,
        min_cosine=min(error.min_cosine for error in errors),
        mean_cosine=math.fsum(error.mean_cosine * error.steps for error in errors) / steps,
    )
