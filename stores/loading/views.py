"""``View``: the steps of a feature that a trainer wants, and their form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..errors import StoreError
from ..wording import available

_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class View:
    """A feature as a batch shows it. Reading it touches the bytes of the wanted steps and no others.

    Parameters
    ----------
    name
        Feature, ``name`` or ``name@digest``.
    steps
        All steps (None), a slice (``slice(None, None, 6)`` is every sixth, ``slice(10)`` the first ten), one step, or a
        list of steps. Negative steps count from the end of each row. A single step keeps its axis: T is 1.
    pool
        ``"mean"`` averages over all axes of a step except the last, in float32: ``[T, 7, 7, C]`` becomes ``[T, C]``.
    dtype
        Floating dtype of the batch (float16, bfloat16, float32, float64); None keeps the stored one.

    Raises
    ------
    StoreError
        If ``pool`` or ``dtype`` is unknown.
    """

    name: str
    steps: slice | int | Sequence[int] | None = None
    pool: str | None = None
    dtype: str | None = "float32"

    def __post_init__(self) -> None:
        if self.pool not in (None, "mean"):
            raise StoreError(f"view of {self.name!r}: pool={self.pool!r} is unknown; use 'mean' or None")
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise StoreError(f"view of {self.name!r}: dtype={self.dtype!r} is unknown ({available(_DTYPES)})")
        if isinstance(self.steps, int | np.integer):
            object.__setattr__(self, "steps", (int(self.steps),))
        elif self.steps is not None and not isinstance(self.steps, slice):
            object.__setattr__(self, "steps", tuple(int(step) for step in self.steps))

    def selection(self, length: int) -> slice | list[int]:
        """Return the wanted steps of a row of ``length`` steps: an ascending slice, or a list of indices from 0 on.

        Raises
        ------
        IndexError
            If the list contains a step that the row does not have.
        """
        steps = slice(None) if self.steps is None else self.steps
        if isinstance(steps, slice):
            start, stop, stride = steps.indices(length)
            return slice(start, max(start, stop), stride) if stride > 0 else list(range(start, stop, stride))
        assert not isinstance(steps, int)
        outside = [step for step in steps if not -length <= step < length]
        if outside:
            raise IndexError(f"has {length} steps, no step {outside[0]}")
        return [step % length for step in steps]

    def step_shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a step in a batch, given its stored shape."""
        return stored[-1:] if self.pool else stored

    def torch_dtype(self, stored: torch.dtype) -> torch.dtype:
        """Return the dtype of a batch, given the stored dtype."""
        if self.dtype is None:
            return stored
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def as_views(features: Mapping[str, View] | Sequence[str | View]) -> dict[str, View]:
    """Return views by their names in a batch; a feature's name alone stands for all of its steps as float32.

    Raises
    ------
    StoreError
        If ``features`` is a single string, or a list with two views of one feature.
    """
    if isinstance(features, Mapping):
        return dict(features)
    if isinstance(features, str):
        raise StoreError(f"features={features!r}: name features in a list, [{features!r}]")
    views = [View(feature) if isinstance(feature, str) else feature for feature in features]
    names = [view.name for view in views]
    if len(set(names)) < len(names):
        raise StoreError(f"features {names}: two views of one feature need names; use features={{name: View(...)}}")
    return dict(zip(names, views, strict=True))


def runs(selection: slice | list[int], length: int, gap: int) -> list[tuple[int, int]]:
    """Return (first, count) of each run of steps that a selection covers, bridging up to ``gap`` unwanted steps."""
    steps = range(length)[selection] if isinstance(selection, slice) else sorted(set(selection))
    if not steps:
        return []
    breaks = [(before, after) for before, after in pairwise(steps) if after - before > gap + 1]
    starts = [steps[0], *(after for _, after in breaks)]
    ends = [*(before for before, _ in breaks), steps[-1]]
    return [(start, end - start + 1) for start, end in zip(starts, ends, strict=True)]
