"""Confounder dictionaries: k-means over the vectors of a training split.

The published method (CRA-GQA, `sample_linguistic_feature.ipynb` and `sample_visual_feature.ipynb`) fits scikit-learn's
`MiniBatchKMeans(n_clusters=512, random_state=43)` and keeps the centres and the mean of each cluster's members.
Its other parameters were the defaults of its day; they are spelt out here, since the default of `n_init` has changed
since (3 then, 1 for k-means++ now).
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

_BLOCK_VALUES = 1 << 20  # numbers of a block of members; a pass holds three copies of one in float64: 24 MB


class DictionaryError(ValueError):
    """A dictionary cannot be fitted. The message is one line that says what to do."""


class KMeansParameters(BaseModel):
    """Parameters of scikit-learn's MiniBatchKMeans; the defaults are those of the published dictionaries.

    Attributes
    ----------
    k:
        Clusters (`n_clusters`).
    seed:
        `random_state`.
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
    """A fitted dictionary of k clusters over N members of P numbers.

    Attributes
    ----------
    centers:
        `[k, P] float32`, k-means' centres.
    means:
        `[k, P] float32`, mean of the cluster's members; of an empty cluster its centre (the published code has NaN).
    counts:
        `[k] int64`, members.
    empty:
        `[k] bool`, clusters without a member.
    assignment:
        `[N] int32`, cluster of each member, in the order in which members were given.
    distance:
        `[N] float32`, Euclidean distance of each member from its centre.
    """

    centers: NDArray[np.float32]
    means: NDArray[np.float32]
    counts: NDArray[np.int64]
    empty: NDArray[np.bool_]
    assignment: NDArray[np.int32]
    distance: NDArray[np.float32]


def fit_dictionary(
    vectors: NDArray[np.float32], keys: Sequence[Any], parameters: KMeansParameters | None = None
) -> Dictionary:
    """Cluster vectors; equal members give equal bytes on one record (see `record`), whatever their order.

    Members are sorted by key and fitted on one thread in float32.

    Parameters
    ----------
    vectors:
        `[N, P] float32`, C order; a memory map is read as it is needed. It is copied only when the keys are not sorted.
    keys:
        N distinct keys that sort, such as video ids or (video id, step) pairs.

    Raises
    ------
    DictionaryError
        There are fewer members than clusters, a key is there twice, or a vector is not finite.
    """
    parameters = parameters or KMeansParameters()
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(keys):
        got = f"{vectors.dtype} {list(vectors.shape)} for {len(keys)} keys"
        raise DictionaryError(f"expected one float32 vector [P] for each key, got {got}")
    if len(keys) < parameters.k:
        raise DictionaryError(
            f"{parameters.k} clusters need as many members, there are {len(keys)}: set k to {len(keys)} or less"
        )
    order = sorted(range(len(keys)), key=keys.__getitem__)
    twice = [keys[b] for a, b in itertools.pairwise(order) if keys[a] == keys[b]]
    if twice:
        raise DictionaryError(f"member {twice[0]!r} is there twice")
    is_sorted = order == list(range(len(keys)))
    members = vectors if is_sorted else vectors[order]
    _check_finite(members, [keys[i] for i in order])
    centers, labels = _fit(members, parameters)
    means, counts, distance = _statistics(members, labels, centers)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return Dictionary(centers, means, counts, counts == 0, labels[back], distance[back])


def record() -> dict[str, Any]:
    """On what a fit's bytes depend besides its members and parameters: libraries, BLAS kernels, CPU features."""
    import scipy  # type: ignore[import-untyped]
    import sklearn
    from threadpoolctl import threadpool_info

    pools = sorted(
        f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture', '')}".strip()
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and "torch" not in pool["filepath"]  # which has no part in a fit
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
    """Instruction sets that numpy uses here."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return sorted({*simd.get("baseline", []), *simd.get("found", [])})


def _fit(members: NDArray[np.float32], parameters: KMeansParameters) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Centres `[k, P]` and the cluster of each member `[N]`."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    options = parameters.model_dump(exclude={"k", "seed"})
    kmeans = MiniBatchKMeans(n_clusters=parameters.k, random_state=parameters.seed, **options)
    # A second thread would cut sums in other places.
    with threadpool_limits(1):
        kmeans.fit(members)
    return np.ascontiguousarray(kmeans.cluster_centers_, np.float32), kmeans.labels_.astype(np.int32)


def _blocks(vectors: NDArray[np.float32]) -> list[slice]:
    """Slices of members, few enough each that a float64 copy of them is small."""
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
    """Mean of each cluster, members of each cluster, distance of each member from its centre; sums in float64."""
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
