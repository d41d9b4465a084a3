"""How far two sets of rows of the same videos are from each other."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..format import layout
from ..format.rows import Array
from ..store import Store
from .files import RowSource, open_files

_WORST = 5
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """One row against its counterpart.

    ``max_abs`` and ``mean_abs`` are in the rows' own units; ``min_cosine`` and ``mean_cosine`` are over steps (two
    steps of zeros count as 1, one alone as 0). ``finite`` is False where NaN or infinite values differ; the numbers
    are then 0 and count for nothing.
    """

    key: str
    identical: bool
    finite: bool = True
    max_abs: float = 0.0
    mean_abs: float = 0.0
    min_cosine: float = 1.0
    mean_cosine: float = 1.0


@dataclass(slots=True)
class Comparison:
    """What :func:`compare` found. ``differing`` counts common rows that are not within ``atol``."""

    atol: float
    common: int = 0
    identical: int = 0
    differing: int = 0
    only_here: list[str] = field(default_factory=list)
    only_there: list[str] = field(default_factory=list)
    other_shape: list[dict[str, object]] = field(default_factory=list)
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


class StoreRows:
    """The rows of one feature of a store."""

    def __init__(self, store: Store, feature: str) -> None:
        self._store = store
        self._feature = feature

    def keys(self) -> list[str]:
        return self._store.keys(self._feature)

    def row(self, key: str) -> Array:
        return self._store.row(self._feature, key)


def open_other(path: Path, feature: str, dataset: str | None) -> RowSource:
    """The rows to compare with: a feature of another store, legacy HDF5 files, or a folder of ``.npy`` files.

    Parameters
    ----------
    feature : the feature's name, should ``path`` be a store.
    dataset : its name there where that differs; the feature dataset of an HDF5 file.
    """
    if (path / layout.IDENTITY).exists():
        return StoreRows(Store.open(path, lease=False), dataset or feature)
    return open_files([path], dataset=dataset)


def compare(here: RowSource, there: RowSource, atol: float = 0.0) -> Comparison:
    """Compare the rows of all common keys, one at a time.

    Rows are brought to the dtype that holds both. With ``atol`` 0 they match when their bytes are then equal;
    otherwise when no value differs by more.
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
            result.other_shape.append({"key": key, "here": list(a.shape), "there": list(b.shape)})
            result.differing += 1
            continue
        found = difference(key, a, b)
        result.identical += found.identical
        if not found.finite:
            result.not_finite.append(key)
            result.differing += 1
            continue
        result.differing += not (found.identical or (atol > 0 and found.max_abs <= atol))
        result.max_abs = max(result.max_abs, found.max_abs)
        result.min_cosine = min(result.min_cosine, found.min_cosine)
        values, steps = values + a.size, steps + len(a)
        result.mean_abs += (found.mean_abs - result.mean_abs) * a.size / max(values, 1)
        result.mean_cosine += (found.mean_cosine - result.mean_cosine) * len(a) / max(steps, 1)
        if not found.identical:
            ranked.append(found)
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
    """Steps of both rows, flattened to ``[n, C]`` in their common dtype, about a million values at a time."""
    dtype = np.result_type(a.dtype, b.dtype).newbyteorder("<")
    width = a[0].size if len(a) else 0
    count = max(1, _BLOCK // max(width, 1))
    for first in range(0, len(a) if width else 0, count):
        pair = (part[first : first + count] for part in (a, b))
        x, y = (np.ascontiguousarray(part, dtype).reshape(-1, width) for part in pair)
        yield x, y


def _equal_bits(x: Array, y: Array) -> Array:
    size = x.dtype.itemsize
    bits = x.view(f"u{size}") == y.view(f"u{size}")
    return np.asarray(bits)


def _cosines(p: Array, q: Array) -> Array:
    """Cosine of each row of ``[n, C] float64``, scaled first so that no square overflows."""
    units = []
    for part in (p, q):
        scale = np.abs(part).max(axis=1, keepdims=True)
        scaled = part / np.where(scale == 0, 1.0, scale)
        norm = np.linalg.norm(scaled, axis=1, keepdims=True)
        units.append(scaled / np.where(norm == 0, 1.0, norm))
    cosine = np.clip((units[0] * units[1]).sum(axis=1), -1.0, 1.0)
    return np.where((p == q).all(axis=1), 1.0, cosine)
