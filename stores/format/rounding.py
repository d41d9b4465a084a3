"""Errors of stored numbers against float32, measured while they were computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

COMPUTE = "compute"
"""Kind of error: a network that computes in half precision, against the same network in float32."""
STORAGE = "storage"
"""Kind of error: values rounded to the stored dtype, against the values as computed."""


class RoundingError(BaseModel):
    """Difference between values and their float32 reference over some steps.

    Attributes
    ----------
    steps
        Number of steps compared.
    max_abs, mean_abs
        Largest and mean absolute difference over all numbers of these steps.
    min_cosine, mean_cosine
        Smallest and mean cosine between a flattened step and its reference.
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


def pooled_by_kind(errors: Mapping[str, Sequence[RoundingError]]) -> dict[str, RoundingError]:
    """Pool the errors of each kind; kinds are sorted."""
    return {kind: pooled(parts) for kind, parts in sorted(errors.items())}


def pooled(errors: Sequence[RoundingError]) -> RoundingError:
    """Return the error over all steps of several parts (at least one); the order of the parts does not matter."""
    steps = sum(error.steps for error in errors)
    return RoundingError(
        steps=steps,
        max_abs=max(error.max_abs for error in errors),
        mean_abs=math.fsum(error.mean_abs * error.steps for error in errors) / steps,
        min_cosine=min(error.min_cosine for error in errors),
        mean_cosine=math.fsum(error.mean_cosine * error.steps for error in errors) / steps,
    )
