"""Write and read one shard: an HDF5 file of rows that readers memory-map.

``docs/format.md`` section 8.2 gives the layout: contiguous, unfiltered datasets whose shapes are known before the file
is created; large ones begin at the start of a page. ``values`` is ``[N, T, *step]``, or flat ``[ΣT, *step]`` with
``offset [N + 1]`` if T differs between rows; ``keys`` is one uint8 blob with ``key_offset``; beside them lie
``time_s``, ``valid``, ``duration_s``, ``clip_start_s``, ``cache_key``, the digests and the ``media`` records. A shard
contains no time of writing and no host name, so equal rows give equal bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ..errors import StoreDamageError, StoreError
from . import durable, layout
from .container import create_container, create_dataset, opened_container
from .inside import Root, StorePath
from .mapped import map_file
from .receipts import dataset_places, make_receipt, read_spec
from .rounding import RoundingError
from .rows import EXTERNAL, UNKNOWN, Array, DatasetPlace, Receipt, Row, record_digest, row_digest
from .staged_file import StagedFile

SHARD_MB = 64.0
"""Size at which compaction and imports finish a shard, in megabytes (10^6 bytes) of values."""
SHARD_ROWS = 512
"""Number of rows at which compaction finishes a shard."""


@dataclass(frozen=True, slots=True)
class _Spooled:
    """A row whose values lie in the spool file, from byte ``position`` on."""

    key: bytes
    row: Row  # without its values and media
    media: bytes
    position: int
    shape: tuple[int, ...]
    digest: bytes


class ShardWriter:
    """Collects rows of one feature, spec and numerics, then writes them as one shard.

    Values go to a spool file in ``staging/`` as they arrive, so memory does not fill with features. ``finish`` sorts
    the rows by key and publishes shard and receipt. If the process dies before that, only the rows added here are lost.

    Attributes
    ----------
    bytes
        Size of the values added so far.
    """

    def __init__(self, root: Root, feature: str, spec_digest: str, numerics: Mapping[str, Any]) -> None:
        self._root = StorePath.of(root)
        self._feature = layout.check_name(feature)
        self._spec_digest = spec_digest
        self._numerics = dict(numerics)
        self._id = layout.new_id()
        self._spool_path = self._root / layout.STAGING / f"{self._id}.spool"
        self._spool: IO[bytes] | None = None
        self._rows: list[_Spooled] = []
        self._dtype: np.dtype[Any] | None = None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Spool one row.

        Raises
        ------
        InvalidKeyError
            If its key is not acceptable.
        StoreError
            If its arrays disagree with each other or with earlier rows.
        """
        key = layout.check_key(row.key)
        self._check(row)
        try:
            media = layout.canonical_json(row.media)
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self._feature}: key {row.key!r}: its media record is not JSON ({error})") from error
        self._dtype = row.values.dtype
        values = np.ascontiguousarray(row.values)
        time_s = np.asarray(row.time_s, "<f8")
        valid = np.asarray(row.valid, bool)
        published = None if row.published_time_s is None else np.asarray(row.published_time_s, "<f8")
        self._spool_values(values)
        without_values = Row(
            row.key,
            row.cache_key,
            np.empty((0, *values.shape[1:]), values.dtype),  # a slice would keep the whole row alive
            time_s,
            valid,
            row.duration_s,
            row.clip_start_s,
            published,
        )
        digest = row_digest(values, time_s, valid, published)
        self._rows.append(_Spooled(key, without_values, media, self.bytes, values.shape, digest))
        self.bytes += values.nbytes

    def _check(self, row: Row) -> None:
        """Refuse a row whose arrays disagree with each other or with earlier rows."""
        where = f"{self._feature}: key {row.key!r}"
        if row.values.ndim == 0 or row.values.dtype.kind not in "biuf" or row.values.dtype.itemsize > 8:
            raise StoreError(
                f"{where}: rows are arrays of numbers [T, …], not {row.values.dtype}{list(row.values.shape)}"
            )
        steps = row.values.shape[0]
        published = row.published_time_s
        arrays_of_steps = (row.time_s, row.valid) if published is None else (row.time_s, row.valid, published)
        if any(array.shape != (steps,) for array in arrays_of_steps):
            raise StoreError(f"{where}: {steps} steps, but times or mask have another length")
        if len(row.cache_key) != 32:
            raise StoreError(f"{where}: a cache key has 32 bytes, not {len(row.cache_key)}")
        if not self._rows:
            return
        first = self._rows[0]
        if row.values.dtype != self._dtype or row.values.shape[1:] != first.shape[1:]:
            raise StoreError(
                f"{where}: steps of {row.values.dtype}{list(row.values.shape[1:])}, "
                f"earlier rows of this shard have {self._dtype}{list(first.shape[1:])}"
            )
        if (published is None) != (first.row.published_time_s is None):
            raise StoreError(f"{where}: either all rows of a shard have published times or none")

    def _spool_values(self, values: Array) -> None:
        if self._spool is None:
            self._spool = os.fdopen(durable.create(self._spool_path), "r+b", buffering=0)
        self._spool.seek(self.bytes)  # over the remains of a write that an earlier error cut short
        rest = values.view(np.uint8).reshape(-1).data
        while rest:
            rest = rest[self._spool.write(rest) :]

    def discard(self) -> None:
        """Drop all rows and the spool file."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
            durable.unlink(self._spool_path)
        self._rows.clear()
        self.bytes = 0

    def finish(self, rounding: Mapping[str, RoundingError] | None = None) -> Receipt:
        """Write, check and publish the shard; it is durable on return.

        Parameters
        ----------
        rounding
            Errors of the rows against float32, by kind, for the receipt.

        Raises
        ------
        StoreError
            If there are no rows, the spec was not written, or the file does not read back as it was written.
        OSError
            If the file cannot be written.
        """
        staged = self._root / layout.STAGING / f"{self._id}.h5"
        try:
            return self._finish(staged, rounding or {})
        except (OSError, RuntimeError, StoreError):
            durable.unlink(staged)
            raise
        finally:
            self.discard()

    def _finish(self, staged: StorePath, rounding: Mapping[str, RoundingError]) -> Receipt:
        if self._spool is None or self._dtype is None:
            raise StoreError(f"{self._feature}: a shard needs at least one row")
        spec = read_spec(self._root, self._spec_digest)
        rows = sorted(self._rows, key=lambda spooled: (spooled.key, spooled.row.cache_key))
        with durable.crash_points("shard", staged):
            places = _write_file(staged, rows, self._spool, self._dtype)
        receipt = make_receipt(staged, places, self._feature, self._spec_digest, spec, self._numerics, rounding)
        check = ShardReader(staged, receipt)
        problems = check.problems()
        check.close()
        if problems:
            raise StoreDamageError(f"{staged}: does not read back as it was written: {problems[0]}")
        directory = layout.feature_directory(self._root, self._feature, self._spec_digest)
        durable.make_directory(directory)
        durable.sync_file(staged)
        durable.rename(staged, directory / f"{self._id}.h5")
        staged_receipt = self._root / layout.STAGING / f"{self._id}.json"
        durable.write_new(staged_receipt, receipt.encode())
        durable.rename(staged_receipt, directory / f"{self._id}.json")
        durable.sync_directory(directory)
        durable.sync_directory(directory.parent)
        return receipt


def _write_file(
    path: StorePath, rows: list[_Spooled], spool: IO[bytes], dtype: np.dtype[Any]
) -> dict[str, DatasetPlace]:
    """Create the HDF5 file and return the places of its datasets."""
    steps = np.array([spooled.shape[0] for spooled in rows], np.int64)
    step_shape = rows[0].shape[1:]
    ragged = bool((steps != steps[0]).any())
    columns = _columns(rows, ragged)
    if ragged:
        columns["offset"] = _offsets(steps)
    shape = (int(steps.sum()), *step_shape) if ragged else (len(rows), int(steps[0]), *step_shape)
    forms = {"values": (shape, dtype), **{name: (column.shape, column.dtype) for name, column in columns.items()}}
    with StagedFile(path.open(os.O_RDWR | os.O_CREAT | os.O_EXCL)) as target, create_container(target) as file:
        datasets = {  # the sort keeps the order of equal item sizes
            name: create_dataset(file, name, *form)
            for name, form in sorted(forms.items(), key=lambda named: -named[1][1].itemsize)
        }
        values = datasets["values"]
        first = 0
        for index, spooled in enumerate(rows):
            spool.seek(spooled.position)
            size = int(np.prod(spooled.shape, dtype=np.int64))
            row_values = np.fromfile(spool, dtype, size).reshape(spooled.shape)
            if ragged:
                values[first : first + spooled.shape[0]] = row_values
                first += spooled.shape[0]
            else:
                values[index] = row_values
        for name, column in columns.items():
            datasets[name][...] = column
        file.flush()
        return dataset_places(file)


def _columns(rows: list[_Spooled], ragged: bool) -> dict[str, Array]:
    """Return every dataset except ``values`` and ``offset``, in the order in which they are written."""
    count = len(rows)
    join = np.concatenate if ragged else np.stack
    columns: dict[str, Array] = {
        "keys": np.frombuffer(b"".join(spooled.key for spooled in rows), np.uint8),
        "key_offset": _offsets([len(spooled.key) for spooled in rows]),
        "duration_s": np.array([spooled.row.duration_s for spooled in rows], "<f8"),
        "clip_start_s": np.array([spooled.row.clip_start_s for spooled in rows], "<f8"),
        "cache_key": np.frombuffer(b"".join(spooled.row.cache_key for spooled in rows), np.uint8).reshape(count, 32),
        "row_digest": np.frombuffer(b"".join(spooled.digest for spooled in rows), np.uint8).reshape(count, 32),
        "record_digest": np.frombuffer(b"".join(map(_record_digest, rows)), np.uint8).reshape(count, 32),
        "media": np.frombuffer(b"".join(spooled.media for spooled in rows), np.uint8),
        "media_offset": _offsets([len(spooled.media) for spooled in rows]),
        "time_s": join([spooled.row.time_s for spooled in rows]),
        "valid": join([spooled.row.valid for spooled in rows]).astype("u1"),
    }
    if rows[0].row.published_time_s is not None:
        columns["published_time_s"] = join([np.asarray(spooled.row.published_time_s) for spooled in rows])
    return columns


def _record_digest(spooled: _Spooled) -> bytes:
    row = spooled.row
    return record_digest(spooled.digest, spooled.key, row.cache_key, (row.clip_start_s, row.duration_s), spooled.media)


def _offsets(lengths: Any) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")


class ShardReader:
    """Zero-copy access to a shard through one memory map.

    Not picklable: each process opens its own. Rows are named by their position in the shard.

    Parameters
    ----------
    path, receipt
        The shard file and its receipt.
    check_header
        Compare the receipt with the places that HDF5 reports.

    Raises
    ------
    StoreDamageError
        If the file is missing, has another size than its receipt says, or differs from its receipt.
    """

    def __init__(self, path: StorePath, receipt: Receipt, check_header: bool = True) -> None:
        self.path = path
        self.receipt = receipt
        try:
            descriptor = path.open()
        except FileNotFoundError as error:
            raise StoreDamageError(f"{path}: named by the manifest but missing; run `reelstore repair`") from error
        try:
            size = os.fstat(descriptor).st_size
            if size != receipt.bytes:
                raise StoreDamageError(
                    f"{path}: {size} bytes, its receipt says {receipt.bytes}; run `reelstore repair`"
                )
            if check_header:
                self._check_header(descriptor)
            self._map: Array | None = map_file(descriptor, size)
        except OSError as error:
            raise StoreDamageError(f"{path}: cannot be read ({error.strerror})") from error
        finally:
            os.close(descriptor)
        self._columns: dict[str, Array] = {}

    def _check_header(self, descriptor: int) -> None:
        """Compare the places in the receipt with those that HDF5 reports."""
        try:
            with opened_container(descriptor) as file:
                places = dataset_places(file)
            for name, place in self.receipt.datasets.items():
                if places.get(name) != place:
                    raise StoreDamageError(f"{self.path}: dataset {name!r} is not where its receipt says")
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise StoreDamageError(f"{self.path}: cannot be read as HDF5 ({error})") from error

    def close(self) -> None:
        """Drop the memory map. Views handed out stay valid."""
        self._columns.clear()
        self._map = None

    def column(self, name: str) -> Array:
        """Return a dataset as a read-only view of the memory map."""
        if name not in self._columns:
            place = self.receipt.datasets[name]
            if self._map is None:
                raise StoreError(f"{self.path}: already closed")
            raw = self._map[place.offset : place.offset + place.nbytes]
            self._columns[name] = raw.view(np.dtype(place.dtype)).reshape(place.shape)
        return self._columns[name]

    def steps(self, name: str) -> Array:
        """Return a dataset of steps as ``[ΣT, …]``, whether or not all rows have the same length."""
        column = self.column(name)
        return column if self.receipt.ragged else column.reshape(-1, *column.shape[2:])

    def span(self, row: int) -> tuple[int, int]:
        """Return (first step, T) of a row within ``steps``."""
        if not self.receipt.ragged:
            self.check_row(row)
            length = self.receipt.datasets["values"].shape[1]
            return row * length, length
        first, end = self._bounds("offset", row, self.receipt.datasets["values"].shape[0])
        return first, end - first

    def check_row(self, row: int) -> None:
        """Raise ``StoreDamageError`` if there is no such row: its number comes from an index."""
        if not 0 <= row < self.receipt.rows:
            raise StoreDamageError(f"{self.path}: has {self.receipt.rows} rows, the index names row {row}")

    def _bounds(self, offset: str, row: int, total: int) -> tuple[int, int]:
        """Return where the data of a row begin and end in a dataset of ``total`` items."""
        self.check_row(row)
        first, end = self.column(offset)[row : row + 2].tolist()
        if not 0 <= first <= end <= total:
            raise StoreDamageError(f"{self.path}: row {row} does not lie within its dataset; run `reelstore verify`")
        return first, end

    def _steps(self, name: str, row: int) -> Array:
        first, steps = self.span(row)
        view: Array = self.steps(name)[first : first + steps] if self.receipt.ragged else self.column(name)[row]
        return view

    def values(self, row: int) -> Array:
        """Return the values of a row, ``[T, *step]``."""
        return self._steps("values", row)

    def times(self, row: int) -> Array:
        """Return the times of a row's steps, ``[T] float64``, in seconds; NaN if they are not known."""
        times = self._steps("time_s", row)
        return np.full(len(times), np.nan) if self._is_placeholder("times", row) else times

    def valid(self, row: int) -> Array:
        """Return the mask of a row, ``[T] bool``: False where a step is padding."""
        return self._steps("valid", row).view(bool)

    def published_times(self, row: int) -> Array | None:
        """Return the published times of a row, ``[T] float64`` in seconds, or None if the shard has none."""
        return self._steps("published_time_s", row) if "published_time_s" in self.receipt.datasets else None

    def _text(self, name: str, row: int) -> bytes:
        text = self.column(name)
        first, end = self._bounds("key_offset" if name == "keys" else f"{name}_offset", row, len(text))
        return text[first:end].tobytes()

    def key(self, row: int) -> str:
        """Return the key under which a row was written."""
        try:
            return self._text("keys", row).decode("utf-8")
        except UnicodeDecodeError as error:
            raise StoreDamageError(f"{self.path}: row {row}: its key is damaged ({error})") from error

    def cache_key(self, row: int) -> bytes:
        """Return the cache key of a row, 32 bytes."""
        return bytes(self.column("cache_key")[row])

    def digest(self, row: int) -> bytes:
        """Return the row digest, 32 bytes, as it was written."""
        return bytes(self.column("row_digest")[row])

    def media(self, row: int) -> dict[str, Any]:
        """Return the record of how a row's video was decoded."""
        try:
            record: dict[str, Any] = json.loads(self._text("media", row))
        except (ValueError, RecursionError) as error:
            raise StoreDamageError(f"{self.path}: row {row}: its media record is damaged ({error})") from error
        if not isinstance(record, dict):
            raise StoreDamageError(f"{self.path}: row {row}: its media record is damaged (not an object)")
        return record

    def clip(self, row: int) -> tuple[float, float]:
        """Return (start in the source, duration) of a row's clip in seconds; a duration that is not known is NaN."""
        start, duration = self._clip(row)
        return start, math.nan if self._is_placeholder("duration", row) else duration

    def _clip(self, row: int) -> tuple[float, float]:
        return float(self.column("clip_start_s")[row]), float(self.column("duration_s")[row])

    def _is_placeholder(self, what: str, row: int) -> bool:
        """Return whether an importer stored a number only because there was nothing to store.

        Step numbers and a duration of 0 stood there before format 3, and still do in copies of such rows; NaN does now.
        """
        return self.receipt.spec.get("extractor") == EXTERNAL and self.media(row).get(what) == UNKNOWN

    def row(self, row: int, key: str, cache_key: bytes) -> Row:
        """Return a whole row under the key and cache key that an index gives it."""
        return Row(
            key=key,
            cache_key=cache_key,
            values=self.values(row),
            time_s=self._steps("time_s", row),  # as stored: a copy has the digest of its original
            valid=self.valid(row),
            duration_s=self._clip(row)[1],
            clip_start_s=self._clip(row)[0],
            published_time_s=self.published_times(row),
            media=self.media(row),
        )

    def row_is_sound(self, row: int) -> bool:
        """Return whether a row and everything kept beside it still match their digests."""
        try:
            return self._matches(row)
        except StoreDamageError:  # it does not even lie within the shard
            return False

    def _matches(self, row: int) -> bool:
        times = self._steps("time_s", row)
        digest = row_digest(self.values(row), times, self.valid(row), self.published_times(row))
        if digest != self.digest(row):
            return False
        beside = (self._text("keys", row), self.cache_key(row), self._clip(row), self._text("media", row))
        return record_digest(digest, *beside) == bytes(self.column("record_digest")[row])

    def problems(self) -> list[str]:
        """Return one line for each row whose bytes are not those that were written."""
        lines = []
        for row in range(self.receipt.rows):
            if not self.row_is_sound(row):
                try:
                    name = repr(self.key(row))
                except StoreDamageError:
                    name = "(its key is damaged too)"
                lines.append(f"row {row}, key {name}: bytes do not match the row digest")
        return lines
