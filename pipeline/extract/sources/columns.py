"""Keeps the videos of a source as columns: a million of them cost no object each."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.extract.identity import file_stamps
from stores.errors import InvalidKeyError
from stores.format.layout import MAX_KEY_BYTES, check_key
from stores.format.segments import whole_column

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.large_binary(), nullable=False),
        pa.field("uri", pa.large_binary(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("image_rate", pa.float64()),
        pa.field("size", pa.int64()),
        pa.field("stamp", pa.string()),
    ]
)
_BATCH = 65536  # files whose columns are Python lists at a time


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One wanted video or clip.

    Attributes
    ----------
    key
        The video key.
    uri
        An absolute local path or an fsspec URI.
    start_s, end_s
        Bounds of the clip in seconds; None means the video's own.
    image_rate
        Images per second if ``uri`` is a folder of images; None for a file.
    status
        Size and stamp of the file (``identity.local_status``), if listing the source needed its stat anyway: planning
        an unchanged tree then needs no second one.
    """

    key: str
    uri: str
    start_s: float | None = None
    end_s: float | None = None
    image_rate: float | None = None
    status: tuple[int, str] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the file must be read through fsspec."""
        return "://" in self.uri


class Sources(Sequence[SourceItem]):
    """The videos of a source, in the order of their keys' bytes. An item is made when it is asked for.

    Parameters
    ----------
    table
        Columns ``key`` and ``uri`` (bytes, UTF-8 with escaped surrogates), ``start_s``, ``end_s``, ``image_rate``
        (seconds, seconds, images per second; null means none), ``size`` and ``stamp`` (null where not known).
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()

    @classmethod
    def of(cls, items: Iterable[SourceItem]) -> Sources:
        """Return these items as columns, in their order."""
        columns = Columns()
        for item in items:
            columns.add(item)
        return cls(columns.table())

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, position: int) -> SourceItem: ...

    @overload
    def __getitem__(self, position: slice) -> list[SourceItem]: ...

    def __getitem__(self, position: int | slice) -> SourceItem | list[SourceItem]:
        if isinstance(position, slice):
            return list(self.items(np.arange(len(self))[position]))
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return next(self.items(np.array([position % len(self)])))

    def __iter__(self) -> Iterator[SourceItem]:
        for start in range(0, len(self), _BATCH):
            yield from self.items(np.arange(start, min(start + _BATCH, len(self))))

    def items(self, positions: npt.NDArray[np.int64]) -> Iterator[SourceItem]:
        """Yield the items at these positions."""
        for row in self.table.take(pa.array(positions)).to_pylist():
            yield SourceItem(
                decoded(row["key"]),
                decoded(row["uri"]),
                row["start_s"],
                row["end_s"],
                row["image_rate"],
                None if row["size"] is None else (row["size"], row["stamp"]),
            )

    def column(self, name: str) -> pa.Array:
        """Return a column as one array."""
        return whole_column(self.table, name)

    def positions(self, keys: Collection[str]) -> npt.NDArray[np.int64]:
        """Return where these keys are; those that are not there have no position."""
        wanted = encoded_column(sorted(keys))
        return np.flatnonzero(pc.is_in(self.column("key"), value_set=wanted))

    def take(self, positions: npt.NDArray[np.int64]) -> Sources:
        """Return the items at these positions."""
        return Sources(self.table.take(pa.array(positions)))


class Columns:
    """Collects items into columns."""

    def __init__(self) -> None:
        self._items: list[SourceItem] = []
        self._files: tuple[list[str], list[str], list[int | None], list[int], list[int]] = ([], [], [], [], [])
        self._batches: list[pa.Table] = []

    def add(self, item: SourceItem) -> None:
        """Add one item."""
        self._items.append(item)
        if len(self._items) >= _BATCH:
            self._flush()

    def add_files(self, keys: list[str], paths: list[str], statuses: Sequence[os.stat_result | None]) -> None:
        """Add whole videos in local files, with the stat of each; None where it failed. Only regular files have one."""
        own_keys, own_paths, sizes, times, inodes = self._files
        statuses = [status if status is not None and stat.S_ISREG(status.st_mode) else None for status in statuses]
        own_keys += keys
        own_paths += paths
        sizes += [None if status is None else status.st_size for status in statuses]
        times += [0 if status is None else status.st_mtime_ns for status in statuses]
        inodes += [0 if status is None else status.st_ino for status in statuses]
        if len(own_keys) >= _BATCH:
            self._flush()

    def table(self) -> pa.Table:
        """Return everything that was added, as the columns of ``Sources``: single items before files of one batch."""
        self._flush()
        return pa.concat_tables([_SCHEMA.empty_table(), *self._batches])

    def _flush(self) -> None:
        if self._items:
            columns: dict[str, Any] = {
                "key": encoded_column([item.key for item in self._items]),
                "uri": encoded_column([item.uri for item in self._items]),
                "start_s": [item.start_s for item in self._items],
                "end_s": [item.end_s for item in self._items],
                "image_rate": [item.image_rate for item in self._items],
                "size": [item.status and item.status[0] for item in self._items],
                "stamp": [item.status and item.status[1] for item in self._items],
            }
            self._batches.append(pa.table(columns, schema=_SCHEMA))
            self._items = []
        keys, paths, sizes, times, inodes = self._files
        if keys:
            none = pa.nulls(len(keys), pa.float64())
            size = pa.array(sizes, pa.int64())
            stamp = file_stamps(pa.array(times, pa.int64()), pa.array(inodes, pa.uint64()))
            arrays = [
                encoded_column(keys),
                encoded_column(paths),
                *(none, none, none, size),
                pc.if_else(size.is_valid(), stamp, pa.scalar(None, pa.string())),
            ]
            self._batches.append(pa.table(arrays, schema=_SCHEMA))
            self._files = ([], [], [], [], [])


def encoded(text: str) -> bytes:
    """Return the bytes of a key or URI; names of files that are not UTF-8 keep theirs."""
    return text.encode("utf-8", "surrogateescape")


def encoded_column(texts: Sequence[str]) -> pa.Array:
    """Return ``encoded`` of many texts: large binary array."""
    try:
        return pa.array(texts, pa.large_string()).cast(pa.large_binary())
    except UnicodeEncodeError:  # one at least is not UTF-8
        return pa.array([encoded(text) for text in texts], pa.large_binary())


def decoded(raw: bytes) -> str:
    """Return the key or URI of these bytes."""
    return raw.decode("utf-8", "surrogateescape")


def first_bad_key(keys: pa.Array) -> int | None:
    """Return the position of the first key that ``check_key`` refuses; None if all are acceptable.

    Parameters
    ----------
    keys
        Large binary array.
    """
    lengths = pc.binary_length(keys)
    if len(keys) == 0:
        return None
    span = pc.min_max(lengths)
    sizes_fit = span["min"].as_py() > 0 and span["max"].as_py() <= MAX_KEY_BYTES
    if sizes_fit and pc.max(pc.find_substring(keys, b"\0")).as_py() < 0 and _is_utf8(keys):
        return None
    for position, raw in enumerate(keys.to_pylist()):
        try:
            check_key(decoded(raw))
        except InvalidKeyError:
            return position
    return None


def _is_utf8(array: pa.Array) -> bool:
    try:
        array.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True
