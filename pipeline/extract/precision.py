"""Measures what half precision costs, on the rows of the run itself."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stores.format.rounding import RoundingError
from stores.format.rows import Array

MEASURED_STEPS = 8
"""Steps of one row that are compared: comparing every Swin map would take as long as a fast GPU takes to compute it."""


def measured_steps(empty: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Choose the steps of a row to compare: up to ``MEASURED_STEPS``, evenly spread over those without zero padding.

    Parameters
    ----------
    empty
        bool [T], where the stored step is zero.

    Returns
    -------
    numpy.ndarray
        int64 [N], indices of steps, ascending.
    """
    real = np.flatnonzero(~empty)
    count = min(len(real), MEASURED_STEPS)
    return real[np.linspace(0, len(real) - 1, count).round().astype(np.int64)] if count else real


def rounding_error(values: Array, reference: NDArray[np.float32]) -> RoundingError:
    """Compare steps with their reference, in float64.

    A step that is all zeros has cosine 1 with zeros and 0 with anything else.

    Parameters
    ----------
    values
        [N, *step] of any floating dtype, N >= 1.
    reference
        float32 [N, *step].
    """
    largest, means, cosines = [], [], []
    for step, true in zip(values, reference, strict=True):
        a, b = step.astype(np.float64).ravel(), true.astype(np.float64).ravel()
        difference = np.abs(a - b)
        largest.append(float(difference.max()))
        means.append(float(difference.mean()))
        # Sums of products, not dot products: the threads of a BLAS would take the CPUs of the decoders.
        norms = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
        cosines.append(min(1.0, float((a * b).sum()) / norms) if norms else float(not a.any() and not b.any()))
    return RoundingError(
        steps=len(values),
        max_abs=max(largest),
        mean_abs=float(np.mean(means)),
        min_cosine=min(cosines),
        mean_cosine=float(np.mean(cosines)),
    )
