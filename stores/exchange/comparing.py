"""Compare two sets of rows of the same videos."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..format import layout
from ..format.rows import Array
from ..store import Store
from .files import open_files
from .rows import StoreRows

_WORST = 5
"""Number of differing rows to report in detail."""
_BLOCK = 1 << 20
"""Number of values compared at a time."""


class RowSource(Protocol):
    """Rows by key, whether they lie in a store or in other files."""

    def keys(self) -> list[str]:
        """Return all keys."""

    def row(self, key: str) -> Array:
        """Return a row, ``[T, *step]``."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between a row and its counterpart.

    Attributes
    ----------
    identical
        Whether all bits are equal in the common dtype.
    finite
        False if NaN or infinite values differ. The other numbers then keep their defaults and mean nothing.
    max_abs, mean_abs
        Largest and mean absolute difference of values, in the rows' own units.
    min_cosine, mean_cosine
        Smallest and mean cosine between corresponding steps. Two steps of zeros count as 1, a single one as 0.
    """

    key: str
    identical: bool
    finite: bool = True
    max_abs: float = 0.0
    mean_abs: float = 0.0
    min_cosine: float = 1.0
    mean_cosine: float = 1.0


@dataclass(frozen=True, slots=True)
class ShapeMismatch:
    """Shapes of a row that differs in shape from its counterpart."""

    key: str
    here: list[int]
    there: list[int]


@dataclass(slots=True)
class Comparison:
    """Result of ``compare``.

    Attributes
    ----------
    common, identical, differing
        Number of rows on both sides, of those with equal bits, and of those that are not within ``atol``.
    only_here, only_there
        Keys on one side only.
    other_shape, not_finite
        Common rows that cannot be compared by value; they count as differing.
    max_abs, mean_abs, min_cosine, mean_cosine
        As in ``Difference``, over all values and steps of comparable rows.
    worst
        The rows that differ most.
    """

    atol: float
    common: int = 0
    identical: int = 0
    differing: int = 0
    only_here: list[str] = field(default_factory=list)
    only_there: list[str] = field(default_factory=list)
    other_shape: list[ShapeMismatch] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    max_abs: float = 0.0
    mean_abs: float = 0.0
    min_cosine: float = 1.0
    mean_cosine: float = 1.0
    worst: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are common rows and all of them match."""
        return self.common > 0 and self.differing == 0


def open_other(path: Path, feature: str, dataset: str | None) -> RowSource:
    """Open the rows to compare with: those of another store, of HDF5 files, or of a folder of ``.npy`` files.

    Parameters
    ----------
    path
        The other store, file or folder.
    feature
        The feature's name, used if ``path`` is a store.
    dataset
        Its name there, if that differs, or the feature dataset of HDF5 files.

    Raises
    ------
    ExchangeError
        If the files cannot be used.
    StoreError
        If the other store cannot be opened.
    """
    if (path / layout.IDENTITY).exists():
        return StoreRows(Store.open(path, lease=False), dataset or feature)
    return open_files([path], dataset=dataset)


def compare(here: RowSource, there: RowSource, atol: float = 0.0) -> Comparison:
    """Compare the rows of all common keys, one at a time.

    Rows are converted to the smallest dtype that holds both. They match if all bits are then equal or, with ``atol``
    above 0, if no value differs by more than that.
    """
    mine, others = here.keys(), set(there.keys())
    result = Comparison(atol, only_there=sorted(others.difference(mine)))
    steps = values = 0
    ranked: list[Difference] = []
    for key in mine:
        if key not in others:
            result.only_here.append(key)
            continue
        result.common += 1
        a, b = here.row(key), there.row(key)
        if a.shape != b.shape:
            result.other_shape.append(ShapeMismatch(key, list(a.shape), list(b.shape)))
            result.differing += 1
            continue
        row = difference(key, a, b)
        if not row.finite:
            result.not_finite.append(key)
            result.differing += 1
            continue
        if row.identical:
            result.identical += 1
        elif atol <= 0 or row.max_abs > atol:
            result.differing += 1
        result.max_abs = max(result.max_abs, row.max_abs)
        result.min_cosine = min(result.min_cosine, row.min_cosine)
        values, steps = values + a.size, steps + len(a)
        result.mean_abs += (row.mean_abs - result.mean_abs) * a.size / max(values, 1)
        result.mean_cosine += (row.mean_cosine - result.mean_cosine) * len(a) / max(steps, 1)
        if not row.identical:
            ranked.append(row)
            ranked = heapq.nlargest(_WORST, ranked, lambda row: (row.max_abs, -row.min_cosine))
    result.worst = ranked
    return result


def difference(key: str, a: Array, b: Array) -> Difference:
    """Compare two rows ``[T, *step]`` of equal shape."""
    identical = True
    total = largest = cosines = 0.0
    smallest = 1.0
    for x, y in _blocks(a, b):
        same = _equal_bits(x, y)
        if same.all():
            cosines += len(x)
            continue
        identical = False
        p, q = x.astype(np.float64), y.astype(np.float64)
        odd = ~(np.isfinite(p) & np.isfinite(q))
        if (odd & ~same).any():
            return Difference(key, identical=False, finite=False)
        p[odd] = q[odd] = 0.0
        error = np.abs(p - q)
        total += float(error.sum())
        largest = max(largest, float(error.max()))
        cosine = _cosines(p, q)
        cosines += float(cosine.sum())
        smallest = min(smallest, float(cosine.min()))
    return Difference(
        key, identical, True, largest, total / max(a.size, 1), smallest, cosines / len(a) if len(a) else 1.0
    )


def _blocks(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    """Yield steps of both rows, flattened to ``[n, C]`` in their common dtype, about a million values at a time."""
    dtype = np.result_type(a.dtype, b.dtype).newbyteorder("<")
    width = a[0].size if len(a) else 0
    count = max(1, _BLOCK // max(width, 1))
    for first in range(0, len(a) if width else 0, count):
        pair = (part[first : first + count] for part in (a, b))
        x, y = (np.ascontiguousarray(part, dtype).reshape(-1, width) for part in pair)
        yield x, y


def _equal_bits(x: Array, y: Array) -> Array:
    """Return where the bits of two arrays are equal, as a bool array of their shape."""
    size = x.dtype.itemsize
    bits = x.view(f"u{size}") == y.view(f"u{size}")
    return np.asarray(bits)


def _cosines(p: Array, q: Array) -> Array:
    """Return the cosine of each row of ``[n, C] float64``, scaled first so that no square overflows."""
    units = []
    for part in (p, q):
        scale = np.abs(part).max(axis=1, keepdims=True)
        scaled = part / np.where(scale == 0, 1.0, scale)
        norm = np.linalg.norm(scaled, axis=1, keepdims=True)
        units.append(scaled / np.where(norm == 0, 1.0, norm))
    cosine = np.clip((units[0] * units[1]).sum(axis=1), -1.0, 1.0)
    return np.where((p == q).all(axis=1), 1.0, cosine)
