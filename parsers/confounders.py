"""Fits confounder dictionaries: k-means over the vectors of a training split.

The published code (``sample_linguistic_feature.ipynb`` and ``sample_visual_feature.ipynb`` of CRA-GQA, described in
``docs/facts/cra.md`` section 4.4) fits scikit-learn's ``MiniBatchKMeans(n_clusters=512, random_state=43)`` and keeps
the centres and the mean of each cluster's members. It leaves the other parameters at scikit-learn's defaults. They are
spelt out here, because the default of ``n_init`` has changed since (from 3 to 1 for k-means++).
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_BLOCK_VALUES = 1 << 20  # numbers in a block of members; a pass holds three float64 copies of one: 24 MB


class DictionaryError(ValueError):
    """Raised when a dictionary cannot be fitted; one line that says what to do."""


class KMeansParameters(BaseModel):
    """Parameters of scikit-learn's ``MiniBatchKMeans``; the defaults are those of the published dictionaries.

    Attributes
    ----------
    k
        Number of clusters (``n_clusters``).
    seed
        Random seed (``random_state``).
    init, n_init, batch_size, max_iter, tol, max_no_improvement, init_size, reassignment_ratio
        As in scikit-learn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: Annotated[int, Field(ge=1)] = 512
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 43
    init: Literal["k-means++", "random"] = "k-means++"
    n_init: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=1)] = 1024
    max_iter: Annotated[int, Field(ge=1)] = 100
    tol: Annotated[float, Field(ge=0)] = 0.0
    max_no_improvement: Annotated[int, Field(ge=1)] | None = 10
    init_size: Annotated[int, Field(ge=1)] | None = None
    reassignment_ratio: Annotated[float, Field(ge=0)] = 0.01


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
    vectors: NDArray[np.float32], keys: Sequence[Any], parameters: KMeansParameters | None = None
) -> Dictionary:
    """Cluster vectors with k-means; ``docs/facts/cra.md`` section 4.4.

    Members are sorted by key and fitted on one thread in float32. Equal members give equal bytes, whatever their order,
    as long as ``record`` is equal too.

    Parameters
    ----------
    vectors
        ``[N, P] float32`` in C order. A memory map is read as needed, and copied only if the keys are not sorted.
    keys
        N distinct keys that can be sorted, such as video ids or pairs of video id and step.
    parameters
        Those of the published dictionaries by default.

    Raises
    ------
    DictionaryError
        If there are fewer members than clusters, a key is given twice, or a vector is not finite.
    """
    parameters = parameters or KMeansParameters()
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(keys):
        got = f"{vectors.dtype} {list(vectors.shape)} for {len(keys)} keys"
        raise DictionaryError(f"vectors: must be float32 [N, P] for N keys (got {got})")
    if len(keys) < parameters.k:
        raise DictionaryError(too_few_members(parameters.k, len(keys)))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for first, second in itertools.pairwise(order):
        if keys[first] == keys[second]:
            raise DictionaryError(f"member {keys[first]!r} is given twice")
    is_sorted = order == list(range(len(keys)))
    members = vectors if is_sorted else vectors[order]
    _check_finite(members, [keys[i] for i in order])
    centers, labels = _fit(members, parameters)
    means, counts, distance = _statistics(members, labels, centers)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return Dictionary(centers, means, counts, counts == 0, labels[back], distance[back])


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


def _fit(members: NDArray[np.float32], parameters: KMeansParameters) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the centres ``[k, P]`` and the cluster of each member ``[N]``."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    options = parameters.model_dump(exclude={"k", "seed"})
    kmeans = MiniBatchKMeans(n_clusters=parameters.k, random_state=parameters.seed, **options)
    # With two threads, sums would be split at other places and round differently.
    with threadpool_limits(1):
        kmeans.fit(members)
    return np.ascontiguousarray(kmeans.cluster_centers_, np.float32), kmeans.labels_.astype(np.int32)


def _blocks(vectors: NDArray[np.float32]) -> list[slice]:
    """Return slices of members, each small enough for a float64 copy."""
    step = max(1, _BLOCK_VALUES // max(1, vectors.shape[1]))
    return [slice(start, start + step) for start in range(0, len(vectors), step)]


def _check_finite(members: NDArray[np.float32], keys: Sequence[Any]) -> None:
    for block in _blocks(members):
        bad = np.flatnonzero(~np.isfinite(members[block]).all(axis=1))
        if len(bad):
            raise DictionaryError(f"member {keys[block.start + int(bad[0])]!r} holds NaN or infinite values")


def _statistics(
    members: NDArray[np.float32], labels: NDArray[np.int32], centers: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Return the mean and the size of each cluster, and each member's distance from its centre; sums are in float64."""
    counts = np.bincount(labels, minlength=len(centers)).astype(np.int64)
    sums = np.zeros(centers.shape, np.float64)
    distance = np.empty(len(members), np.float32)
    for block in _blocks(members):
        cluster = labels[block]
        values = members[block].astype(np.float64)
        order = np.argsort(cluster, kind="stable")
        starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
        sums[cluster[order][starts]] += np.add.reduceat(values[order], starts, axis=0)
        values -= centers[cluster]
        distance[block] = np.sqrt((values**2).sum(axis=1))
    means = np.where(counts[:, np.newaxis] == 0, centers, sums / np.maximum(counts, 1)[:, np.newaxis])
    return means.astype(np.float32), counts, distance
