"""The rows of a feature by shard, as its row index names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa

from .rows import Array


class IndexedRow(NamedTuple):
    """A row of a shard as the index names it."""

    key: str
    row: int
    cache_key: bytes


class IndexedRows(Sequence[IndexedRow]):
    """The rows of one shard as the index names them, in the order of their keys; each is made on access.

    Attributes
    ----------
    numbers
        ``[N] int32``: their positions in the shard.
    """

    def __init__(self, index: pa.Table) -> None:
        self._index = index
        self.numbers: Array = index.column("row").to_numpy()

    @property
    def cache_keys(self) -> Array:
        """``[N, 32] uint8``."""
        column = self._index.column("cache_key").combine_chunks()
        raw = np.frombuffer(column.buffers()[1], np.uint8, 32 * len(column), 32 * column.offset)
        return raw.reshape(-1, 32)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> IndexedRow: ...

    @overload
    def __getitem__(self, place: slice) -> IndexedRows: ...

    def __getitem__(self, place: int | slice) -> IndexedRow | IndexedRows:
        if isinstance(place, slice):
            return IndexedRows(self._index[place])
        at = range(len(self))[place]  # raises IndexError as a list does
        return next(iter(IndexedRows(self._index.slice(at, 1))))

    def __iter__(self) -> Iterator[IndexedRow]:
        columns = (self._index.column(name).to_pylist() for name in ("key", "row", "cache_key"))
        for key, row, cache_key in zip(*columns, strict=True):
            yield IndexedRow(key.decode("utf-8"), row, cache_key)


IndexedShards = dict[bytes, IndexedRows]
"""The rows that an index names, by shard id."""


def rows_by_shard(index: pa.Table) -> IndexedShards:
    """Group the records of a row index by shard."""
    grouped = index.select(["key", "row", "cache_key"])
    return {shard: IndexedRows(grouped.take(pa.array(places)).combine_chunks()) for shard, places in by_shard(index)}


def by_shard(index: pa.Table) -> list[tuple[bytes, Array]]:
    """Return each shard of a row index, and the ascending positions of its records in the index."""
    shard = index.column("shard").combine_chunks().dictionary_encode()
    numbers = shard.indices.to_numpy()
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(len(shard.dictionary) + 1)).tolist()
    return [
        (identity, order[start:end])
        for identity, (start, end) in zip(shard.dictionary.to_pylist(), pairwise(ends), strict=True)
    ]
