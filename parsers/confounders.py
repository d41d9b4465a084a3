"""Fits confounder dictionaries: k-means over the vectors of a training split.

The published code (``sample_linguistic_feature.ipynb`` and ``sample_visual_feature.ipynb`` of CRA-GQA, described in
``docs/facts/cra.md`` section 4.4) fits scikit-learn's ``MiniBatchKMeans(n_clusters=512, random_state=43)`` and keeps
the centres and the mean of each cluster's members. It leaves the other parameters at scikit-learn's defaults. They are
spelt out here, because the default of ``n_init`` has changed since (from 3 to 1 for k-means++).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from parsers import kmeans
from parsers.kmeans import KMeansParameters, Progress, Vectors, no_progress


class DictionaryError(ValueError):
    """Raised when a dictionary cannot be fitted; one line that says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Dictionary:
    """A fitted dictionary of k clusters over N members with P numbers each.

    Attributes
    ----------
    centers
        ``[k, P] float32``, the centres of k-means.
    means
        ``[k, P] float32``, the mean of each cluster's members; for an empty cluster its centre (the published code has
        NaN).
    counts
        ``[k] int64``, the number of members.
    empty
        ``[k] bool``, whether the cluster has no member.
    assignment
        ``[N] int32``, the cluster of each member, in the order in which the members were given.
    distance
        ``[N] float32``, the Euclidean distance of each member from its centre.
    """

    centers: NDArray[np.float32]
    means: NDArray[np.float32]
    counts: NDArray[np.int64]
    empty: NDArray[np.bool_]
    assignment: NDArray[np.int32]
    distance: NDArray[np.float32]


def too_few_members(k: int, members: int) -> str:
    """Return what is wrong with k clusters of fewer members."""
    return f"{k} clusters need at least as many members, but there are {members}; set k to {members} or less"


def fit_dictionary(
    vectors: Vectors, keys: pa.Table, parameters: KMeansParameters | None = None, progress: Progress = no_progress
) -> Dictionary:
    """Cluster vectors with k-means; ``docs/facts/cra.md`` section 4.4.

    Members are sorted by key and fitted on one thread in float32. Equal members give equal bytes, whatever their order,
    as long as ``record`` is equal too. Memory holds blocks and mini-batches of members, never all of them.

    Parameters
    ----------
    vectors
        ``[N, P] float32``: an array, a memory map, or anything else that gives rows by their positions.
    keys
        N distinct keys in columns that can be sorted, the most significant first: video id and step, for example.
    parameters
        Those of the published dictionaries by default.
    progress
        Called between two blocks with a stage (``check``, ``initial``, ``fit``, ``assign``, ``describe``), how much of
        it is done (members; sets of initial centres; mini-batches) and how much there is at most, and a note. What it
        raises ends the fit.

    Raises
    ------
    DictionaryError
        If there are fewer members than clusters, a key is given twice, or a vector is not finite.
    """
    from threadpoolctl import threadpool_limits

    parameters = parameters or KMeansParameters()
    if len(vectors.shape) != 2 or vectors.dtype != np.float32 or vectors.shape[0] != keys.num_rows:
        got = f"{vectors.dtype} {list(vectors.shape)} for {keys.num_rows} keys"
        raise DictionaryError(f"vectors: must be float32 [N, P] for N keys (got {got})")
    if keys.num_rows < parameters.k:
        raise DictionaryError(too_few_members(parameters.k, keys.num_rows))
    order = _order(keys)
    members = vectors if order is None else _Reordered(vectors, order)
    _check_finite(members, keys, order, progress)
    with threadpool_limits(1):
        centers = kmeans.centers(members, parameters, progress)
        labels = kmeans.labels(members, centers, progress)
    means, counts, distance = _statistics(members, labels, centers, progress)
    if order is not None:
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        labels, distance = labels[back], distance[back]
    return Dictionary(centers, means, counts, counts == 0, labels, distance)


@dataclass(frozen=True, slots=True, eq=False)
class _Reordered:
    """Vectors in another order, without a copy of them."""

    vectors: Vectors
    order: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.vectors.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.vectors.dtype

    def __getitem__(self, rows: Any, /) -> Any:
        return self.vectors[self.order[rows]]


def _order(keys: pa.Table) -> NDArray[np.int64] | None:
    """Return the positions of the keys in ascending order, ``[N] int64``; None if they are in it already.

    Raises
    ------
    DictionaryError
        If a key is given twice.
    """
    ascending, _ = _compared(keys)
    if ascending.all():
        return None
    by_every_column = [(name, "ascending") for name in keys.column_names]
    order: NDArray[np.int64] = pc.sort_indices(keys, by_every_column).to_numpy().astype(np.int64)
    ordered = keys.take(pa.array(order))
    _, equal = _compared(ordered)
    if equal.any():
        raise DictionaryError(f"member {_named(ordered, int(equal.argmax()))!r} is given twice")
    return order


def _compared(keys: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each key but the last is less than the next one, and whether it equals it: ``[N - 1] bool``."""
    pairs = max(keys.num_rows - 1, 0)
    less, equal = np.zeros(pairs, np.bool_), np.ones(pairs, np.bool_)
    for column in keys.columns:
        first, second = column.slice(0, pairs), column.slice(1)
        less |= equal & pc.less(first, second).to_numpy().astype(np.bool_)
        equal &= pc.equal(first, second).to_numpy().astype(np.bool_)
    return less, equal


def _named(keys: pa.Table, row: int) -> Any:
    """Return a key: its only value, or a tuple of them."""
    values = tuple(column[row].as_py() for column in keys.columns)
    return values[0] if len(values) == 1 else values


def record() -> dict[str, Any]:
    """Return what a fit's bytes depend on besides members and parameters: libraries, BLAS kernels, CPU features."""
    import scipy
    import sklearn
    from threadpoolctl import threadpool_info

    pools = sorted(
        f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture', '')}".strip()
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and "torch" not in pool["filepath"]  # torch has no part in a fit
    )
    return {
        "scikit_learn": sklearn.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": list(dict.fromkeys(pools)),
        "machine": platform.machine(),
        "cpu_features": _cpu_features(),
        "threads": 1,
    }


def _cpu_features() -> list[str]:
    """Return the instruction sets that numpy uses on this machine."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return sorted({*simd.get("baseline", []), *simd.get("found", [])})


def _check_finite(members: Vectors, keys: pa.Table, order: NDArray[np.int64] | None, progress: Progress) -> None:
    for block in kmeans.blocks(members):
        bad = np.flatnonzero(~np.isfinite(members[block]).all(axis=1))
        if len(bad):
            row = block.start + int(bad[0])
            name = _named(keys, row if order is None else int(order[row]))
            raise DictionaryError(f"member {name!r} holds NaN or infinite values")
        progress("check", block.stop, keys.num_rows, "")


def _statistics(
    members: Vectors, labels: NDArray[np.int32], centers: NDArray[np.float32], progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Return the mean and the size of each cluster, and each member's distance from its centre; sums are in float64."""
    counts = np.bincount(labels, minlength=len(centers)).astype(np.int64)
    sums = np.zeros(centers.shape, np.float64)
    distance = np.empty(len(labels), np.float32)
    for block in kmeans.blocks(members):
        cluster = labels[block]
        values = members[block].astype(np.float64)
        order = np.argsort(cluster, kind="stable")
        starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
        sums[cluster[order][starts]] += np.add.reduceat(values[order], starts, axis=0)
        values -= centers[cluster]
        distance[block] = np.sqrt((values**2).sum(axis=1))
        progress("describe", block.stop, len(labels), "")
    means = np.where(counts[:, np.newaxis] == 0, centers, sums / np.maximum(counts, 1)[:, np.newaxis])
    return means.astype(np.float32), counts, distance
