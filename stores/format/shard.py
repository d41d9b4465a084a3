"""Writing and reading one shard: an HDF5 file of rows that readers memory-map.

Layout (design §7): contiguous, unfiltered, page-aligned datasets whose shape is known before the
file is created. ``values [N, T, *step]`` (or flat ``[ΣT, *step]`` with ``offset [N + 1]`` when T
differs), ``keys`` as one uint8 blob with ``key_offset``, and beside them ``time_s``, ``valid``,
``duration_s``, ``clip_start_s``, ``cache_key``, ``row_digest`` and the ``media`` records. No times of
writing and no host names: equal rows give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from pydantic import ValidationError

from ..errors import StoreDamageError, StoreError
from . import durable, layout
from .mapped import map_file
from .rounding import RoundingError
from .rows import Array, DatasetPlace, Receipt, Row, record_digest, row_digest
from .staged_file import StagedFile

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class _Spooled:
    key: bytes
    row: Row  # without its values and media
    media: bytes
    position: int
    shape: tuple[int, ...]
    digest: bytes


class ShardWriter:
    """Collects rows of one feature, one spec and one numerics, then writes them as one shard.

    Values go to a spool file in ``staging`` as they arrive, so memory holds no features; ``finish``
    sorts the rows by key and publishes shard and receipt. Rows that were added but not finished
    are lost with the process, and nothing else is.
    """

    def __init__(self, root: Path, feature: str, spec: str, numerics: Mapping[str, Any]) -> None:
        self._root = root
        self._feature = layout.check_name(feature)
        self._spec = spec
        self._numerics = dict(numerics)
        self._id = layout.new_id()
        self._spool_path = root / layout.STAGING / f"{self._id}.spool"
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
        StoreError
            If the row's arrays disagree with each other or with earlier rows.
        """
        key = layout.check_key(row.key)
        if row.values.ndim == 0 or row.values.dtype.kind not in "biuf":
            raise StoreError(
                f"{self._feature}: key {row.key!r}: rows are arrays of numbers [T, …], "
                f"not {row.values.dtype}{list(row.values.shape)}"
            )
        steps = row.values.shape[0]
        published = row.published_time_s
        times = (row.time_s, row.valid) if published is None else (row.time_s, row.valid, published)
        if any(array.shape != (steps,) for array in times):
            raise StoreError(f"{self._feature}: key {row.key!r}: {steps} steps but other times or mask")
        if len(row.cache_key) != 32:
            raise StoreError(f"{self._feature}: key {row.key!r}: a cache key has 32 bytes, not {len(row.cache_key)}")
        first = self._rows[0] if self._rows else None
        if first and (row.values.dtype != self._dtype or row.values.shape[1:] != first.shape[1:]):
            raise StoreError(
                f"{self._feature}: key {row.key!r}: steps of {row.values.dtype}{list(row.values.shape[1:])} "
                f"beside {self._dtype}{list(first.shape[1:])}"
            )
        if first and (published is None) != (first.row.published_time_s is None):
            raise StoreError(f"{self._feature}: key {row.key!r}: published times in some rows only")
        try:
            media = layout.canonical_json(row.media)
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self._feature}: key {row.key!r}: its media record is not JSON ({error})") from error
        self._dtype = row.values.dtype
        values = np.ascontiguousarray(row.values)
        time_s = np.asarray(row.time_s, "<f8")
        valid = np.asarray(row.valid, bool)
        if published is not None:
            published = np.asarray(published, "<f8")
        if self._spool is None:
            with durable.crashing_point("create", self._spool_path):
                self._spool = self._spool_path.open("xb", buffering=0)
        self._spool.seek(self.bytes)  # past a write that an earlier error cut short
        rest = values.view(np.uint8).reshape(-1).data
        while rest:
            rest = rest[self._spool.write(rest) :]
        light = Row(
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
        self._rows.append(_Spooled(key, light, media, self.bytes, values.shape, digest))
        self.bytes += values.nbytes

    def discard(self) -> None:
        """Drop all rows and the spool file."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
            durable.unlink(self._spool_path)
        self._rows.clear()
        self.bytes = 0

    def finish(self, rounding: Mapping[str, RoundingError] | None = None) -> Receipt:
        """Write, check and publish the shard; durable before it returns.

        Parameters
        ----------
        rounding : measured error of the rows against float32, by kind, for the receipt.

        Raises
        ------
        StoreError
            If there are no rows, the spec was not written, or the file does not read back as it was
            written.
        """
        staged = self._root / layout.STAGING / f"{self._id}.h5"
        try:
            return self._finish(staged, rounding or {})
        except (OSError, RuntimeError, StoreError):
            durable.unlink(staged)
            raise
        finally:
            self.discard()

    def _finish(self, staged: Path, rounding: Mapping[str, RoundingError]) -> Receipt:
        if self._spool is None or self._dtype is None:
            raise StoreError(f"{self._feature}: a shard needs at least one row")
        recipe = read_spec(self._root, self._spec)
        self._spool.close()
        rows = sorted(self._rows, key=lambda spooled: (spooled.key, spooled.row.cache_key))
        with durable.crashing_point("shard", staged), self._spool_path.open("rb") as spool:
            places = _write_file(staged, rows, spool, self._dtype)
        receipt = _receipt(staged, places, self._feature, self._spec, recipe, self._numerics)
        receipt = receipt.model_copy(update={"rounding": dict(rounding)})
        check = ShardReader(staged, receipt)
        problems = check.problems()
        check.close()
        if problems:
            raise StoreDamageError(f"{staged}: does not read back as written: {problems[0]}")
        directory = layout.feature_directory(self._root, self._feature, self._spec)
        durable.make_directory(directory)
        durable.sync_file(staged)
        durable.rename(staged, directory / f"{self._id}.h5")
        staged_receipt = self._root / layout.STAGING / f"{self._id}.json"
        durable.write_new(staged_receipt, receipt.encode())
        durable.rename(staged_receipt, directory / f"{self._id}.json")
        durable.sync_directory(directory)
        durable.sync_directory(directory.parent)
        return receipt


def _write_file(path: Path, rows: list[_Spooled], spool: IO[bytes], dtype: np.dtype[Any]) -> dict[str, DatasetPlace]:
    """Create the HDF5 file and return where its datasets lie."""
    count = len(rows)
    steps = np.array([spooled.shape[0] for spooled in rows], np.int64)
    step_shape = rows[0].shape[1:]
    ragged = bool((steps != steps[0]).any())
    columns: dict[str, Array] = {
        "keys": np.frombuffer(b"".join(spooled.key for spooled in rows), np.uint8),
        "key_offset": _offsets([len(spooled.key) for spooled in rows]),
        "duration_s": np.array([spooled.row.duration_s for spooled in rows], "<f8"),
        "clip_start_s": np.array([spooled.row.clip_start_s for spooled in rows], "<f8"),
        "cache_key": np.frombuffer(b"".join(spooled.row.cache_key for spooled in rows), np.uint8).reshape(count, 32),
        "row_digest": np.frombuffer(b"".join(spooled.digest for spooled in rows), np.uint8).reshape(count, 32),
        "record_digest": np.frombuffer(b"".join(map(_record_digest, rows)), np.uint8).reshape(count, 32),
    }
    columns["media"] = np.frombuffer(b"".join(spooled.media for spooled in rows), np.uint8)
    columns["media_offset"] = _offsets([len(spooled.media) for spooled in rows])
    joined = np.concatenate if ragged else np.stack
    columns["time_s"] = joined([spooled.row.time_s for spooled in rows])
    columns["valid"] = joined([spooled.row.valid for spooled in rows]).astype("u1")
    if rows[0].row.published_time_s is not None:
        columns["published_time_s"] = joined([np.asarray(spooled.row.published_time_s) for spooled in rows])
    if ragged:
        columns["offset"] = _offsets(steps)
    shape = (int(steps.sum()), *step_shape) if ragged else (count, int(steps[0]), *step_shape)

    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    with (
        StagedFile(path) as target,
        h5py.File(target, "w", alignment_threshold=1, alignment_interval=_PAGE) as file,
    ):

        def create(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
            space = h5py.h5s.create_simple(shape)
            kind = h5py.h5t.py_create(dtype, logical=True)
            return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=creation))

        values = create("values", shape, dtype)
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
            create(name, column.shape, column.dtype)[...] = column
        file.flush()
        return _places(file)


def _record_digest(spooled: _Spooled) -> bytes:
    row = spooled.row
    return record_digest(spooled.digest, spooled.key, row.cache_key, (row.clip_start_s, row.duration_s), spooled.media)


def _places(file: h5py.File) -> dict[str, DatasetPlace]:
    return {
        name: DatasetPlace(offset=dataset.id.get_offset() or 0, shape=dataset.shape, dtype=dataset.dtype.str)
        for name, dataset in sorted(file.items())
    }


def read_spec(root: Path, spec: str) -> dict[str, Any]:
    """The recipe kept under a spec digest.

    Raises
    ------
    StoreDamageError
        If it is missing, or is not what the digest was taken of.
    """
    path = root / layout.SPECS / f"{spec}.json"
    try:
        data = path.read_bytes()
        recipe: dict[str, Any] = json.loads(data)
    except FileNotFoundError as error:
        raise StoreDamageError(f"{path}: the spec is missing") from error
    except ValueError as error:
        raise StoreDamageError(f"{path}: the spec is damaged ({error})") from error
    if data != layout.spec_text(recipe) or layout.digest(recipe) != spec:
        raise StoreDamageError(f"{path}: the spec is damaged (its content has another digest)")
    return recipe


def _offsets(lengths: Any) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")


def read_receipt(path: Path) -> Receipt:
    """Read ``<id>.json`` beside a shard.

    Raises
    ------
    StoreDamageError
        If it is missing or not a receipt.
    """
    try:
        return Receipt.model_validate_json(layout.unseal(path.read_bytes()))
    except FileNotFoundError as error:
        raise StoreDamageError(f"{path}: the shard's receipt is missing; see `store.py repair`") from error
    except ValidationError as error:
        raise StoreDamageError(f"{path}: not a valid receipt ({error.errors()[0]['msg']})") from error
    except ValueError as error:
        raise StoreDamageError(f"{path}: damaged receipt: {error}; see `store.py repair`") from error


def rebuild_receipt(
    path: Path, feature: str, spec: str, recipe: Mapping[str, Any], numerics: Mapping[str, Any]
) -> Receipt:
    """The receipt of a sound shard file whose own was lost, from what HDF5 says of the file."""
    with h5py.File(path, "r", locking=False) as file:
        places = _places(file)
    return _receipt(path, places, feature, spec, recipe, numerics)


def _receipt(
    path: Path,
    places: Mapping[str, DatasetPlace],
    feature: str,
    spec_digest: str,
    spec: Mapping[str, Any],
    numerics: Mapping[str, Any],
) -> Receipt:
    return Receipt.model_validate(
        {
            "id": path.stem,
            "feature": feature,
            "spec": spec_digest,
            "recipe": spec,
            "rows": places["duration_s"].shape[0],
            "ragged": "offset" in places,
            "bytes": path.stat().st_size,
            "sha256": durable.file_digest(path),
            "datasets": places,
            "numerics": numerics,
            "format_version": layout.FORMAT_VERSION,
        }
    )


class ShardReader:
    """Zero-copy access to a shard through one memory map. Not picklable: made per process."""

    def __init__(self, path: Path, receipt: Receipt, check_header: bool = True) -> None:
        self.path = path
        self.receipt = receipt
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise StoreDamageError(f"{path}: named by the manifest but missing; see `store.py repair`") from error
        if size != receipt.bytes:
            raise StoreDamageError(f"{path}: {size} bytes, its receipt says {receipt.bytes}; see `store.py repair`")
        if check_header:
            self._check_header()
        self._map: Array | None = map_file(path, size)
        self._columns: dict[str, Array] = {}

    def _check_header(self) -> None:
        """Compare the receipt's placement with what HDF5 itself says of the file."""
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                for name, place in self.receipt.datasets.items():
                    dataset = file[name]
                    found = (dataset.id.get_offset() or 0, dataset.shape, dataset.dtype.str, dataset.chunks)
                    if found != (place.offset, place.shape, place.dtype, None):
                        raise StoreDamageError(f"{self.path}: dataset {name!r} is not where its receipt says")
        except (OSError, KeyError, RuntimeError) as error:
            raise StoreDamageError(f"{self.path}: not readable as HDF5 ({error})") from error

    def close(self) -> None:
        self._columns.clear()
        self._map = None

    def column(self, name: str) -> Array:
        """A dataset as a read-only view of the memory map."""
        if name not in self._columns:
            place = self.receipt.datasets[name]
            if self._map is None:
                raise StoreError(f"{self.path}: already closed")
            raw = self._map[place.offset : place.offset + place.nbytes]
            self._columns[name] = raw.view(np.dtype(place.dtype)).reshape(place.shape)
        return self._columns[name]

    def steps(self, name: str) -> Array:
        """A column of steps as ``[ΣT, …]``, whether its rows are equally long or not."""
        column = self.column(name)
        return column if self.receipt.ragged else column.reshape(-1, *column.shape[2:])

    def span(self, row: int) -> tuple[int, int]:
        """(first step in :meth:`steps`, T) of a row."""
        if not self.receipt.ragged:
            length = self.receipt.datasets["values"].shape[1]
            return row * length, length
        first, end = self.column("offset")[row : row + 2].tolist()
        return first, end - first

    def _steps(self, name: str, row: int) -> Array:
        if not self.receipt.ragged:
            view: Array = self.column(name)[row]
            return view
        offset = self.column("offset")
        return self.column(name)[offset[row] : offset[row + 1]]

    def values(self, row: int) -> Array:
        return self._steps("values", row)

    def times(self, row: int) -> Array:
        return self._steps("time_s", row)

    def valid(self, row: int) -> Array:
        return self._steps("valid", row).view(bool)

    def published_times(self, row: int) -> Array | None:
        return self._steps("published_time_s", row) if "published_time_s" in self.receipt.datasets else None

    def _text(self, name: str, row: int) -> bytes:
        offset = self.column("key_offset" if name == "keys" else f"{name}_offset")
        return self.column(name)[offset[row] : offset[row + 1]].tobytes()

    def key(self, row: int) -> str:
        return self._text("keys", row).decode("utf-8")

    def cache_key(self, row: int) -> bytes:
        return bytes(self.column("cache_key")[row])

    def digest(self, row: int) -> bytes:
        return bytes(self.column("row_digest")[row])

    def media(self, row: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self._text("media", row))
        return record

    def clip(self, row: int) -> tuple[float, float]:
        """(start in the source, duration) in seconds."""
        return float(self.column("clip_start_s")[row]), float(self.column("duration_s")[row])

    def row(self, row: int, key: str, cache_key: bytes) -> Row:
        """A whole row as it was written, under a key and cache key known from elsewhere."""
        return Row(
            key=key,
            cache_key=cache_key,
            values=self.values(row),
            time_s=self.times(row),
            valid=self.valid(row),
            duration_s=self.clip(row)[1],
            clip_start_s=self.clip(row)[0],
            published_time_s=self.published_times(row),
            media=self.media(row),
        )

    def row_is_sound(self, row: int) -> bool:
        """Whether a row, and all that is kept beside it, still has the digests it was written with."""
        digest = row_digest(self.values(row), self.times(row), self.valid(row), self.published_times(row))
        if digest != self.digest(row):
            return False
        beside = (self._text("keys", row), self.cache_key(row), self.clip(row), self._text("media", row))
        return record_digest(digest, *beside) == bytes(self.column("record_digest")[row])

    def problems(self) -> list[str]:
        """One line per row whose bytes are not those that were written."""
        found = []
        for row in range(self.receipt.rows):
            if not self.row_is_sound(row):
                try:
                    name = repr(self.key(row))
                except UnicodeDecodeError:
                    name = "(its key is damaged too)"
                found.append(f"row {row}, key {name}: bytes differ from the row digest")
        return found
