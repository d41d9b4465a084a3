"""``View``: which steps of a feature a trainer wants, and in what form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..errors import StoreError

_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class View:
    """A feature as a batch shows it. Reading it touches the bytes of its steps and no others.

    Parameters
    ----------
    name : feature, ``name`` or ``name@digest``.
    steps : all (None), a slice (``slice(None, None, 6)``: every sixth; ``slice(10)``: the first ten), one
        step, or a list of steps. Negative steps count from a row's own end. One step keeps its axis: T is 1.
    pool : ``"mean"`` averages over all axes of a step but its last, in float32: ``[T, 7, 7, C]`` to ``[T, C]``.
    dtype : floating dtype of the batch (float16, bfloat16, float32, float64); None keeps the stored one.
    """

    name: str
    steps: slice | int | Sequence[int] | None = None
    pool: str | None = None
    dtype: str | None = "float32"

    def __post_init__(self) -> None:
        if self.pool not in (None, "mean"):
            raise StoreError(f"view of {self.name!r}: pool={self.pool!r}; it is 'mean' or None")
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise StoreError(f"view of {self.name!r}: dtype={self.dtype!r}; it is None or one of {', '.join(_DTYPES)}")
        if isinstance(self.steps, int | np.integer):
            object.__setattr__(self, "steps", (int(self.steps),))
        elif self.steps is not None and not isinstance(self.steps, slice):
            object.__setattr__(self, "steps", tuple(int(step) for step in self.steps))

    def selection(self, length: int) -> slice | list[int]:
        """The steps wanted of a row of ``length`` steps: an ascending slice, or indices that are not negative.

        Raises
        ------
        IndexError
            If an index list names a step that the row does not have.
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
        """The shape of a step in the batch, from its stored shape."""
        return stored[-1:] if self.pool else stored

    def torch_dtype(self, stored: torch.dtype) -> torch.dtype:
        if self.dtype is None:
            return stored
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def as_views(features: Mapping[str, View] | Sequence[str | View]) -> dict[str, View]:
    """Views by the name that a batch gives them; names alone stand for whole features as float32."""
    if isinstance(features, Mapping):
        return dict(features)
    if isinstance(features, str):
        raise StoreError(f"features={features!r}: name features in a list, [{features!r}]")
    views = [View(feature) if isinstance(feature, str) else feature for feature in features]
    names = [view.name for view in views]
    if len(set(names)) < len(names):
        raise StoreError(f"features {names}: two views of one feature need names: features={{name: View(...)}}")
    return dict(zip(names, views, strict=True))


def runs(selection: slice | list[int], length: int, gap: int) -> list[tuple[int, int]]:
    """(first, count) of the stretches of steps that a selection covers, bridging up to ``gap`` unwanted steps."""
    steps = range(length)[selection] if isinstance(selection, slice) else sorted(set(selection))
    if not steps:
        return []
    breaks = [(before, after) for before, after in pairwise(steps) if after - before > gap + 1]
    starts = [steps[0], *(after for _, after in breaks)]
    ends = [*(before for before, _ in breaks), steps[-1]]
    return [(start, end - start + 1) for start, end in zip(starts, ends, strict=True)]
