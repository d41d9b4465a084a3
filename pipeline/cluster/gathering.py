"""Gathers the vectors of a dictionary's members, a few at a time, from where they lie in the store."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.shared import rows_by_shard, spans
from stores import Store


class StepVectors:
    """The valid steps of a feature's rows, in the order of their keys: ``[N, D] float32``.

    They are read from the mapped shards and converted when they are asked for. Beside the maps, 16 bytes of memory are
    held for each step.

    Parameters
    ----------
    store
        The pinned store. It must stay open.
    feature
        A feature with one vector per step.
    members
        The table of ``Members``.

    Attributes
    ----------
    owner
        ``[N] int64``, the row of ``members`` to which each vector belongs.
    step
        ``[N] int32``, its step.
    time_s
        ``[N] float64``, the time of the step in seconds; NaN if unknown.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, store: Store, feature: str, members: pa.Table) -> None:
        counts = members.column("vectors").to_numpy()
        starts = np.cumsum(counts) - counts
        total = int(counts.sum())
        self.owner: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)
        self.step = np.empty(total, np.int32)
        self.time_s = np.empty(total, np.float64)
        self._values: list[NDArray[Any]] = []
        self._shard = np.empty(total, np.int32)
        self._place = np.empty(total, np.int64)  # among the steps of the shard
        for reader, positions, rows in rows_by_shard(store, feature, members.column("key").combine_chunks()):
            first, end = spans(reader, rows)
            places = _ranges(first, end - first)
            valid = reader.steps("valid")[places].astype(np.bool_)
            mine = _ranges(starts[positions], counts[positions])
            self.step[mine] = (places - np.repeat(first, end - first))[valid]
            self.time_s[mine] = np.concatenate([reader.times(row) for row in rows.tolist()])[valid]
            self._shard[mine] = len(self._values)
            self._place[mine] = places[valid]
            self._values.append(reader.steps("values"))
        self.shape = (total, *(self._values[0].shape[1:] if self._values else (0,)))

    def __getitem__(self, rows: Any, /) -> NDArray[np.float32]:
        shard, place = self._shard[rows], self._place[rows]
        gathered = np.empty((len(place), *self.shape[1:]), np.float32)
        order = np.argsort(shard, kind="stable")
        starts = np.flatnonzero(np.diff(shard[order], prepend=-1)).tolist()
        for start, end in itertools.pairwise([*starts, len(order)]):
            same = order[start:end]
            gathered[same] = self._values[shard[same[0]]][place[same]]
        return gathered


class NodeVectors:
    """The embedded node strings of graphs, flattened as the published code flattens its ``[8, 768]``.

    Parameters
    ----------
    values
        ``[U, D] float32``, the vector of each distinct string.
    place
        ``[N, nodes] int64``, the row of ``values`` for each node.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, values: NDArray[np.float32], place: NDArray[np.int64]) -> None:
        self._values = values
        self._place = place
        self.shape = (len(place), place.shape[1] * values.shape[1])

    def __getitem__(self, rows: Any, /) -> NDArray[np.float32]:
        place = self._place[rows]
        flat: NDArray[np.float32] = self._values[place].reshape(len(place), -1)
        return flat


def _ranges(first: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``first[0], first[0] + 1, …`` for ``lengths[0]`` numbers, then the same for each further range."""
    before = np.cumsum(lengths) - lengths
    ranges: NDArray[np.int64] = np.repeat(first - before, lengths) + np.arange(int(lengths.sum()))
    return ranges
