"""Runs scikit-learn's mini-batch k-means over vectors that are read a few at a time.

``MiniBatchKMeans.fit`` wants all members in one array, and so 4.6 GB for 1,500,000 frames of CLIP. It looks at 1,024 of
them at once. The functions here follow its loop (David Sculley, "Web-scale k-means clustering", 2010, and the stopping
rule of scikit-learn 1.9), call the same compiled steps, and draw the same numbers in the same order; members are read
where they are needed. Centres and labels are those of ``MiniBatchKMeans(...).fit``, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

BLOCK_VALUES = 1 << 20
"""Numbers in a block of members: 4 MB of float32, 8 MB of float64."""
_CHUNK = 256  # scikit-learn multiplies so many members at once; other blocks would round differently
_SHOWN_EVERY = 32  # steps between two signs of life; a step over CLIP frames takes 20 ms

Progress: TypeAlias = Callable[[str, int, int, str], None]
"""Called between two blocks with a stage, how much of it is done, how much there is, and a note."""


class Vectors(Protocol):
    """N vectors of P numbers, read a few at a time: an array, or what gathers them from where they lie."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, P)``."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """``float32``."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return the vectors of a slice or of ``[n] int64`` positions, ``[n, P] float32`` in C order."""


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


def no_progress(stage: str, done: int, total: int, note: str = "") -> None:
    """Show nothing."""


def blocks(vectors: Vectors, multiple: int = 1) -> list[slice]:
    """Return slices of members with about ``BLOCK_VALUES`` numbers each, whose starts are multiples of ``multiple``."""
    count, width = vectors.shape
    step = max(1, BLOCK_VALUES // max(1, width) // multiple) * multiple
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def centers(vectors: Vectors, parameters: KMeansParameters, progress: Progress = no_progress) -> NDArray[np.float32]:
    """Fit k-means and return its centres, ``[k, P] float32``.

    Holds a mini-batch of members, the sample for the initial centres (3,072 members by default) and 20 bytes for each
    member. Call it, like ``labels``, with BLAS on one thread: with two, sums would be split at other places and round
    differently.

    Parameters
    ----------
    vectors
        At least k members; all values finite.
    parameters
        Those of ``MiniBatchKMeans``.
    progress
        Called for each set of initial centres as stage ``initial``, then every few mini-batches as stage ``fit``, with
        the most mini-batches that there can be as the total.
    """
    from sklearn.cluster._kmeans import _mini_batch_step

    count = vectors.shape[0]
    batch = min(parameters.batch_size, count)
    random = np.random.RandomState(parameters.seed)
    tolerance = parameters.tol and parameters.tol * float(np.mean(_variances(vectors)))
    before = _initial(vectors, parameters, batch, random, progress)
    after = np.empty_like(before)
    seen = np.zeros(parameters.k, np.float32)  # members that have moved each centre
    drawn = _cumulative(count)
    weights = np.ones(batch, np.float32)
    stopping = _Stopping(min(batch * 2.0 / (count + 1), 1), parameters.max_no_improvement)
    steps = parameters.max_iter * count // batch
    since_reassignment = 0
    for step in range(steps):
        members = vectors[drawn.searchsorted(random.random_sample(batch), side="right")]
        since_reassignment += batch
        reassign = bool((seen == 0).any()) or since_reassignment >= 10 * parameters.k
        if reassign:
            since_reassignment = 0
        inertia = _mini_batch_step(
            members,
            weights,
            before,
            after,
            seen,
            random,
            random_reassign=reassign,
            reassignment_ratio=parameters.reassignment_ratio,
        )
        is_still = bool(tolerance) and np.sum((after - before) ** 2) <= tolerance
        before, after = after, before
        # The first mini-batch only says how good the initial centres were.
        if step and stopping.add(inertia / batch, is_still):
            break
        if step % _SHOWN_EVERY == 0:
            progress("fit", step, steps, f"mean squared distance {inertia / batch:.4g}; ends when it stays")
    progress("fit", step + 1, step + 1, "")
    return before


def labels(vectors: Vectors, centers: NDArray[np.float32], progress: Progress = no_progress) -> NDArray[np.int32]:
    """Return the nearest centre of each member, ``[N] int32``; ``progress`` gets members as stage ``assign``."""
    from sklearn.cluster._kmeans import _labels_inertia

    count = vectors.shape[0]
    nearest = np.empty(count, np.int32)
    for block in blocks(vectors, _CHUNK):
        members = vectors[block]
        nearest[block] = _labels_inertia(members, np.ones(len(members), np.float32), centers, return_inertia=False)
        progress("assign", block.stop, count, "")
    return nearest


@dataclass(slots=True)
class _Stopping:
    """Ends a fit once the smoothed inertia has not improved for some mini-batches.

    Attributes
    ----------
    weight
        Of a new value in the exponentially weighted mean.
    patience
        Mini-batches without improvement that end the fit; None for never.
    """

    weight: float
    patience: int | None
    mean: float | None = None
    least: float | None = None
    without_improvement: int = 0

    def add(self, inertia: float, is_still: bool) -> bool:
        """Add the inertia of a mini-batch, per member; return whether the fit ends."""
        self.mean = inertia if self.mean is None else self.mean * (1 - self.weight) + inertia * self.weight
        if is_still:
            return True
        if self.least is None or self.mean < self.least:
            self.without_improvement, self.least = 0, self.mean
        else:
            self.without_improvement += 1
        return self.patience is not None and self.without_improvement >= self.patience


def _initial(
    vectors: Vectors, parameters: KMeansParameters, batch: int, random: np.random.RandomState, progress: Progress
) -> NDArray[np.float32]:
    """Return the best of several sets of initial centres, ``[k, P]``, each drawn from a sample of the members."""
    from sklearn.cluster import kmeans_plusplus
    from sklearn.cluster._kmeans import _labels_inertia

    count, k = vectors.shape[0], parameters.k
    size = 3 * batch if parameters.init_size is None else parameters.init_size
    size = min(size if size >= k else 3 * k, count)
    judged = vectors[random.randint(0, count, size)]
    weights = np.ones(size, np.float32)
    best: tuple[float, NDArray[np.float32]] | None = None
    for number in range(parameters.n_init):
        progress("initial", number, parameters.n_init, "")
        sample = vectors[random.randint(0, count, size) if size < count else slice(None)]
        if parameters.init == "k-means++":
            drawn, _ = kmeans_plusplus(sample, k, random_state=random)
        else:
            drawn = sample[random.choice(size, k, replace=False, p=weights / weights.sum())]
        _, inertia = _labels_inertia(judged, weights, drawn)
        if best is None or inertia < best[0]:
            best = inertia, drawn
    progress("initial", parameters.n_init, parameters.n_init, "")
    assert best is not None  # n_init is at least 1
    return best[1]


def _cumulative(count: int) -> NDArray[np.float64]:
    """Return the distribution function of a draw among ``count`` members, as ``RandomState.choice`` makes it.

    scikit-learn lets ``choice`` make it anew from float32 weights for each mini-batch.
    """
    weights = np.ones(count, np.float32)
    cumulative: NDArray[np.float64] = np.cumsum(weights / weights.sum(), dtype=np.float64)
    cumulative /= cumulative[-1]
    return cumulative


def _variances(vectors: Vectors) -> NDArray[np.float32]:
    """Return the variance of each of the P numbers over all members, ``[P] float32``, rounded as ``np.var`` does."""
    count = np.float32(vectors.shape[0])
    mean = _total(vectors[block] for block in blocks(vectors)) / count
    return _total((vectors[block] - mean) ** 2 for block in blocks(vectors)) / count


def _total(parts: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the sum over all rows of all blocks, added one row after the other in float32."""
    total = np.add.reduce(next(parts), axis=0)
    for part in parts:
        total = np.add.reduce(np.concatenate([total[np.newaxis], part]), axis=0)
    return np.asarray(total, np.float32)
