"""Sorted, immutable segments: one mechanism behind the row index, shard lists, sources and failures.

A log is a list of segment files, oldest first. Each file is an Arrow (or Parquet) table sorted by a binary ``key``
column. The newest segment that contains a key decides, and a record with ``removed`` set hides the key. Appending
writes one small segment; once ``FANOUT`` neighbours have reached the same size class they are merged into one. So a
key is rewritten at most ``log_FANOUT(keys)`` times, and a commit writes bytes in proportion to what is new.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from ..errors import StoreDamageError
from . import durable
from .inside import Root, StorePath
from .layout import STAGING, new_id

FANOUT = 8
"""This many neighbouring segments of one size class are merged into one."""

_CACHE_KEY = "cache_key"
KEY_FIELD = pa.field("key", pa.large_binary(), nullable=False)
REMOVED_FIELD = pa.field("removed", pa.bool_(), nullable=False)


class SegmentRef(BaseModel):
    """Entry of a segment in a manifest. ``path`` is relative to the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(pattern=r"^(index|sources|failures)/[0-9a-f]{32}\.(arrow|parquet)$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def log_schema(fields: Iterable[pa.Field]) -> pa.Schema:
    """Return the schema of a log: its key, these fields, and ``removed``."""
    return pa.schema([KEY_FIELD, *fields, REMOVED_FIELD])


def write_segment(root: StorePath, directory: str, table: pa.Table, suffix: str = ".arrow") -> SegmentRef:
    """Write a table that is already sorted by key. The file is durable on return, but no manifest names it yet."""
    data = _encoded(table, suffix)
    path = root / directory / f"{new_id()}{suffix}"
    durable.write_new(path, memoryview(data))
    return _reference(path, table, data)


def keep_segment(root: StorePath, directory: str, table: pa.Table, suffix: str = ".arrow") -> SegmentRef:
    """Write a sorted table as ``write_segment`` does, under a name that follows from its content, unless it is there.

    So whoever takes the same part of the same version names the same files.
    """
    data = _encoded(table, suffix)
    path = root / directory / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    if not path.exists():
        staged = root / STAGING / new_id()
        durable.write_new(staged, memoryview(data))
        durable.rename(staged, path)
        durable.sync_directory(path.parent)
    return _reference(path, table, data)


def _encoded(table: pa.Table, suffix: str) -> pa.Buffer:
    """Return the content of a segment's file."""
    sink = pa.BufferOutputStream()
    if suffix == ".parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
    return sink.getvalue()


def _reference(path: StorePath, table: pa.Table, data: pa.Buffer) -> SegmentRef:
    return SegmentRef(
        path=path.relative,
        rows=table.num_rows,
        bytes=data.size,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def open_segment(root: StorePath, ref: SegmentRef, schema: pa.Schema) -> pa.Table:
    """Memory-map a segment and validate it, so that no record of it can lead outside its memory.

    Raises
    ------
    StoreDamageError
        If the file is missing, differs in size or rows from the manifest, has another schema, or is not sound.
    """
    path = root / ref.path
    try:
        with path.by_descriptor() as name, pa.memory_map(name) as file:
            if file.size() != ref.bytes:
                raise StoreDamageError(f"{path}: {file.size()} bytes, the manifest says {ref.bytes}")
            table = _parquet(file, ref.rows) if path.suffix == ".parquet" else pa.ipc.open_file(file).read_all()
        if table.num_rows != ref.rows:
            raise StoreDamageError(f"{path}: {table.num_rows} rows, the manifest says {ref.rows}")
        if not table.schema.equals(schema):
            raise StoreDamageError(f"{path}: its columns are not those of such a file")
        table.validate(full=True)
        if _CACHE_KEY in schema.names:  # of a row index, whose keys are those of videos
            table.column("key").cast(pa.large_string())  # raises if one is not UTF-8
    except FileNotFoundError as error:
        raise StoreDamageError(f"{path}: named by the manifest but missing; run `reelstore repair`") from error
    except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
        raise StoreDamageError(f"{path}: cannot be read ({error})") from error
    if any(column.null_count for column in table.columns):
        raise StoreDamageError(f"{path}: a record lacks a value")
    return table


def _parquet(file: pa.NativeFile, rows: int) -> pa.Table:
    """Read a Parquet file, if it has so many rows: a small file may state more than any memory holds."""
    reader = pq.ParquetFile(file)
    return reader.read() if reader.metadata.num_rows == rows else reader.schema_arrow.empty_table()


def merge(tables: Sequence[pa.Table], drop_removed: bool) -> pa.Table:
    """Merge segments (oldest first) into one table with the newest record of each key, sorted by key."""
    merged = tables[0] if len(tables) == 1 else _first_of_each(pa.concat_tables(tables[::-1]))
    if drop_removed and pc.any(merged.column("removed")).as_py():
        merged = merged.filter(pc.invert(merged.column("removed")))
    return merged.combine_chunks()


def _first_of_each(table: pa.Table) -> pa.Table:
    """Return the first row of each key, sorted by key."""
    keys = whole_column(table, "key")
    order = pc.sort_indices(keys)  # stable: of equal keys, the first row comes first
    keys = keys.take(order)
    if len(keys) > 1:
        differs = pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1)).to_numpy(zero_copy_only=False)
        order = order.filter(pa.array(np.concatenate([[True], differs])))
    return table.combine_chunks().take(order)


def whole_column(table: pa.Table, name: str) -> pa.Array:
    """Return a column as one array; without a copy if it lies in one piece."""
    return whole(table.column(name))


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Return chunks as one array; without a copy if there is one."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([pa.array([], column.type), *column.chunks])


def append(
    root: Root, directory: str, refs: Sequence[SegmentRef], table: pa.Table, suffix: str = ".arrow"
) -> tuple[SegmentRef, ...]:
    """Return the log with ``table`` as its newest segment, merging size classes that are full.

    ``table`` need not be sorted; of several rows with one key, the last one is kept.
    """
    if table.num_rows == 0:
        return tuple(refs)
    root = StorePath.of(root)
    kept = list(refs)
    tables = [_sorted_unique(table)]
    rows = table.num_rows
    while tail := _full_size_class(kept, rows):
        tables[:0] = [open_segment(root, ref, table.schema) for ref in tail]
        rows += sum(ref.rows for ref in tail)
        del kept[len(kept) - len(tail) :]
    merged = merge(tables, drop_removed=not kept)
    return (*kept, write_segment(root, directory, merged, suffix)) if merged.num_rows else tuple(kept)


def _size_class(rows: int) -> int:
    """Return floor(log_FANOUT(rows))."""
    return (rows.bit_length() - 1) // (FANOUT.bit_length() - 1)


def _full_size_class(refs: Sequence[SegmentRef], rows: int) -> list[SegmentRef]:
    """Return the newest segments that have to be merged with a new one of ``rows`` rows."""
    size_class = _size_class(max(rows, 1))
    tail: list[SegmentRef] = []
    for ref in reversed(refs):
        if _size_class(max(ref.rows, 1)) > size_class:
            break
        tail.insert(0, ref)
    return tail if len(tail) >= FANOUT - 1 else []


def _sorted_unique(table: pa.Table) -> pa.Table:
    """Return the last row of each key, sorted by key."""
    return _first_of_each(table.take(pa.array(np.arange(table.num_rows)[::-1])))


def _heads(keys: Sequence[bytes], skip: int) -> npt.NDArray[np.uint64]:
    """Return ``_Keys.heads`` of a few keys."""
    starts = b"".join([key[skip : skip + 8].ljust(8, b"\0") for key in keys])
    return np.frombuffer(starts, ">u8").astype(np.uint64)


def _shared_start(keys: Sequence[bytes]) -> bytes:
    """Return the bytes with which all keys begin."""
    least, most = min(keys), max(keys)
    length = next((at for at, pair in enumerate(zip(least, most, strict=False)) if pair[0] != pair[1]), len(least))
    return least[:length]


def _lower_bound(column: pa.Array, wanted: pa.Array) -> npt.NDArray[np.int64]:
    """Return for each wanted key the first place in a sorted column whose key is not less: ``bisect_left``, for all."""
    low = np.zeros(len(wanted), np.int64)
    high = np.full(len(wanted), len(column), np.int64)
    while (searched := low < high).any():
        middle = (low + high) // 2
        keys = column.take(pa.array(np.minimum(middle, len(column) - 1)))
        less = pc.less(keys, wanted).to_numpy(zero_copy_only=False)
        low = np.where(searched & less, middle + 1, low)
        high = np.where(searched & ~less, middle, high)
    return low


class _Keys(Sequence[bytes]):
    """The key column of a segment as a sequence for ``bisect``, without a copy or a Python list."""

    def __init__(self, column: pa.Array) -> None:
        _, offsets, data = column.buffers()
        self._length = len(column)
        self._offsets: npt.NDArray[np.int64] = np.frombuffer(offsets, np.int64, self._length + 1, 8 * column.offset)
        self._at = self._offsets.data  # a memoryview gives Python's own numbers, several times as fast
        self._data = memoryview(data) if data is not None else memoryview(b"")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: Any) -> Any:
        return bytes(self._data[self._at[position] : self._at[position + 1]])

    def heads(self, skip: int) -> npt.NDArray[np.uint64]:
        """Return eight bytes of each key, from byte ``skip`` on, as a number; zeros follow the end of a key.

        If the keys are sorted and share their first ``skip`` bytes, the numbers ascend as well (not strictly).
        """
        start = self._offsets[:-1] + skip
        padded = np.frombuffer(b"".join((self._data[: self._at[self._length]], bytes(skip + 8))), np.uint8)
        windows = np.ndarray(len(padded) - 7, ">u8", padded, strides=(1,))
        unused = 8 * (8 - np.clip(self._offsets[1:] - start, 0, 8)).astype(np.uint64)
        numbers = windows[start].astype(np.uint64)
        kept = np.minimum(unused, np.uint64(56))  # a shift by all 64 bits is not defined
        heads: npt.NDArray[np.uint64] = np.where(unused < 64, numbers >> kept << kept, np.uint64(0))
        return heads


class _Segment:
    """An open segment with at least one record. Its pages are read when they are needed, and none is kept."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.keys = _Keys(whole_column(table, "key"))
        self._columns: dict[str, pa.Array] = {}
        self._heads: tuple[int, npt.NDArray[np.uint64]] | None = None

    def take(self, column: str, positions: Sequence[int]) -> list[Any]:
        """Return the values of a column at some positions."""
        # ``pyarrow.array`` would import pandas, which takes longer than everything else about a first row
        rows = pa.Array.from_buffers(pa.int64(), len(positions), [None, pa.py_buffer(np.array(positions, np.int64))])
        if column not in self._columns:
            self._columns[column] = whole_column(self.table, column)
        values: list[Any] = self._columns[column].take(rows).to_pylist()
        return values

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """The first and the last key."""
        return self.keys[0], self.keys[len(self.keys) - 1]

    def heads(self, skip: int) -> npt.NDArray[np.uint64]:
        """Return ``_Keys.heads`` of all keys; they are kept (8 bytes for a key)."""
        if self._heads is None or self._heads[0] != skip:
            self._heads = (skip, self.keys.heads(skip))
        return self._heads[1]


class SegmentLog:
    """Read access to a log as one manifest lists it. Opens no file before its first use."""

    def __init__(self, root: Root, refs: Sequence[SegmentRef], schema: pa.Schema) -> None:
        self._root = StorePath.of(root)
        self._refs = tuple(refs)
        self._schema = schema
        self._opened: list[_Segment] | None = None
        self._merged: pa.Table | None = None

    def _segments(self) -> list[_Segment]:
        if self._opened is None:
            tables = [open_segment(self._root, ref, self._schema) for ref in self._refs]
            self._opened = [_Segment(table) for table in tables if table.num_rows]
        return self._opened

    def get(self, key: bytes) -> dict[str, Any] | None:
        """Return the live record of a key, or None. Takes O(segments · log(rows))."""
        for segment in reversed(self._segments()):
            position = bisect_left(segment.keys, key)
            if position < len(segment.keys) and segment.keys[position] == key:
                record: dict[str, Any] = segment.table.slice(position, 1).to_pylist()[0]
                return None if record["removed"] else record
        return None

    def find(self, keys: Iterable[bytes]) -> dict[bytes, dict[str, Any]]:
        """Return the live records of some keys, by key; keys without one are left out.

        All keys are looked up together, in O(log(rows)) steps of a few array operations for each segment.
        """
        wanted = pa.array(sorted(set(keys)), pa.large_binary())
        found: dict[bytes, dict[str, Any]] = {}
        for segment in reversed(self._segments()):
            if not len(wanted):
                break
            first, last = segment.ends
            if wanted[-1].as_py() < first or wanted[0].as_py() > last:
                continue
            column = segment.table.column("key").combine_chunks()
            places = _lower_bound(column, wanted)
            inside = np.minimum(places, len(column) - 1)
            present = pc.equal(column.take(pa.array(inside)), wanted)  # a place at the end holds a smaller key
            hits = pa.array(inside[present.to_numpy(zero_copy_only=False)])
            for record in segment.table.take(hits).to_pylist():
                found[record["key"]] = record
            wanted = wanted.filter(pc.invert(present))
        return {key: record for key, record in found.items() if not record["removed"]}

    def lookup(self, keys: Sequence[bytes], columns: Sequence[str]) -> list[tuple[Any, ...] | None]:
        """Return some columns of the live record of each key, in the order of ``keys``; None for a key without one.

        For a log that is asked often: the first call keeps eight bytes for each key of the log, and then a key costs a
        few microseconds, however many segments there are.
        """
        found: list[tuple[Any, ...] | None] = [None] * len(keys)
        segments = self._segments()
        if not segments or not keys:
            return found
        shared = _shared_start([key for segment in segments for key in segment.ends])
        heads = _heads(keys, len(shared))
        order = np.argsort(heads).tolist()  # sorted, they are found faster
        unknown = np.array([place for place in order if keys[place].startswith(shared)], np.int64)
        for segment in reversed(segments):
            known, sought = segment.heads(len(shared)), heads[unknown]
            low = np.searchsorted(known, sought)
            same = np.flatnonzero(known[np.minimum(low, len(known) - 1)] == sought)
            ends = np.searchsorted(known, sought[same], "right").tolist()
            hits, positions = [], []
            for number, start, end in zip(same.tolist(), low[same].tolist(), ends, strict=True):
                key = keys[unknown[number]]
                position = bisect_left(segment.keys, key, start, end)
                if position < end and segment.keys[position] == key:
                    hits.append(number)
                    positions.append(position)
            if hits:
                taken = [segment.take(name, positions) for name in (*columns, "removed")]
                for place, *values, removed in zip(unknown[hits].tolist(), *taken, strict=True):
                    found[place] = None if removed else tuple(values)
                unknown = np.delete(unknown, hits)
        return found

    def table(self) -> pa.Table:
        """Return all live records, sorted by key."""
        if self._merged is None:
            tables = [segment.table for segment in self._segments()]
            self._merged = merge(tables, drop_removed=True) if tables else self._schema.empty_table()
        return self._merged

    def distinct(self, column: str) -> list[Any]:
        """Return the values of a column in any record, also in one that a newer record hides, sorted."""
        return sorted({value for segment in self._segments() for value in segment.table[column].unique().to_pylist()})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.table().to_pylist())

    def __len__(self) -> int:
        return int(self.table().num_rows)
