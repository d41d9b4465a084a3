"""``Store``: read access to one pinned version."""

from __future__ import annotations

import json
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .commit import check_identity, create_store
from .errors import MissingKeyError, RaggedRowsError, StoreDamageError
from .format import layout, leases, schemas
from .format.manifest import Manifest, TablePart, load
from .format.mapped import empty_apart, will_read
from .format.rows import Array
from .format.segments import SegmentLog
from .format.shard import ShardReader, read_receipt, read_spec


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """What the pinned version says about a feature: its current spec digest and how many rows it has."""

    name: str
    spec_digest: str
    rows: int

    @property
    def spec(self) -> str:
        """The former name of ``spec_digest``; it goes with version 1.0."""
        return self.spec_digest


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of unequal length: row ``i`` is ``values[offset[i]:offset[i + 1]]``."""

    values: Array
    offset: Array


@dataclass(frozen=True, slots=True)
class Places:
    """Where the rows of many keys lie: key ``i`` is row ``row[i]`` of shard ``shards[shard[i]]``.

    ``shard`` and ``row`` are ``[len(keys)] int32``; both are -1 for a key that has no row.
    """

    shards: tuple[str, ...]
    shard: Array
    row: Array


class _Feature:
    """The open files of one feature under one spec, in one process."""

    def __init__(self, root: Path, name: str, spec: str, manifest: Manifest) -> None:
        entry = manifest.spec_entry(name, spec)
        self.name = name
        self.spec_digest = spec
        self.rows = entry.rows
        self.index = SegmentLog(root, entry.index, schemas.INDEX)
        self.shards = SegmentLog(root, entry.shards, schemas.SHARDS)
        self._directory = layout.feature_directory(root, name, spec)
        self._readers: dict[bytes, ShardReader] = {}
        self._found: dict[str, tuple[ShardReader, int]] = {}

    def reader(self, shard: bytes) -> ShardReader:
        if shard not in self._readers:
            path = self._directory / f"{shard.hex()}.h5"
            receipt = read_receipt(path.with_suffix(".json"))
            if receipt.feature != self.name or receipt.spec_digest != self.spec_digest:
                raise StoreDamageError(f"{path}: its receipt is of {receipt.feature}@{receipt.spec_digest[:8]}")
            self._readers[shard] = ShardReader(path, receipt)
        return self._readers[shard]

    def find(self, key: str) -> tuple[ShardReader, int] | None:
        found = self._found.get(key)
        if found is None:
            record = self.index.get(layout.check_key(key))
            if record is None:
                return None
            found = self._found[key] = (self.reader(record["shard"]), record["row"])
        return found

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._found.clear()


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreDamageError(f"{path}: not readable ({error})") from error


class Store:
    """One version of a store, pinned when it is opened.

    Picklable and safe under fork and spawn: files are opened on first use, per process. Arrays
    that it returns from :meth:`row`, :meth:`times` and :meth:`valid` are read-only views of the
    memory-mapped shard.

    A feature is named ``name`` (its current spec) or ``name@digest`` (a spec digest or a prefix of it).
    """

    def __init__(self, path: Path, manifest: Manifest, lease: Path | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._pid = os.getpid()
        self._open: dict[str, _Feature] = {}
        self._warned: set[str] = set()
        self._release = weakref.finalize(self, leases.release, lease, os.getpid()) if lease else None

    @classmethod
    def create(cls, path: str | Path) -> Store:
        """Make an empty store (or accept an existing one) and open it."""
        return cls.open(create_store(Path(path)))

    @classmethod
    def open(cls, path: str | Path, version: int | None = None, lease: bool = True) -> Store:
        """Pin ``version`` (the latest by default), and leave a lease on it where that can be written.

        Raises
        ------
        StoreNotFoundError
            If there is no store or no such version.
        StoreFormatError
            If a newer Reelstore wrote it.
        """
        root = Path(path).absolute()
        check_identity(root)
        manifest = load(root, version)
        return cls(root, manifest, leases.take(root, manifest.version) if lease else None)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, version={self.version})"

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["manifest"])  # type: ignore[misc]

    def close(self) -> None:
        """Drop memory maps and the lease. Views handed out stay valid."""
        for feature in self._open.values():
            feature.close()
        self._open.clear()
        if self._release is not None:
            self._release()

    @property
    def version(self) -> int:
        return self.manifest.version

    @cached_property
    def features(self) -> Mapping[str, FeatureInfo]:
        """The features of this version by name, with their current spec."""
        return {
            name: FeatureInfo(name, entry.current, entry.specs[entry.current].rows)
            for name, entry in sorted(self.manifest.features.items())
        }

    @property
    def tables(self) -> list[str]:
        return sorted(self.manifest.tables)

    def _feature(self, name: str) -> _Feature:
        if self._pid != os.getpid():
            self._open = {}
            self._pid = os.getpid()
        if name not in self._open:
            base, _, pinned = name.partition("@")
            entry = self.manifest.feature(base)
            if entry is None:
                known = ", ".join(self.features) or "none"
                raise MissingKeyError(f"{self.path}: no feature {base!r} in version {self.version} (there is: {known})")
            specs = [spec for spec in sorted(entry.specs) if spec.startswith(pinned)] if pinned else [entry.current]
            if len(specs) != 1:
                state = "is not unique" if specs else f"is not in version {self.version}"
                raise MissingKeyError(f"{self.path}: feature {base!r}: spec {pinned!r} {state}")
            self._open[name] = _Feature(self.path, base, specs[0], self.manifest)
        return self._open[name]

    def _warn(self, name: str) -> None:
        """Say once per spec what a trainer should know of its rows."""
        spec = self._open[name].spec_digest
        if spec in self._warned:
            return
        self._warned.add(spec)
        for caveat in self.caveats(name).values():
            warnings.warn(caveat, stacklevel=3)

    def caveats(self, name: str) -> dict[str, str]:
        """What a trainer should know of a feature's rows: of ``random_weights``, ``mixed_numerics``, what applies."""
        found = {}
        if self.spec(name).get("random_weights"):
            found["random_weights"] = f"feature {name!r} was made with random weights"
        if (kinds := len(self.numerics(name))) > 1:
            found["mixed_numerics"] = (
                f"feature {name!r} mixes {kinds} numerics (device, dtype, micro-batch, threads or torch version); "
                "see `store.py inspect`"
            )
        return found

    def _locate(self, name: str, key: str) -> tuple[ShardReader, int]:
        feature = self._feature(name)
        found = feature.find(key)
        if found is None:
            raise MissingKeyError(
                f"{self.path}: feature {name!r} has no key {key!r} in version {self.version}{self._why(feature, key)}"
            )
        return found

    def _why(self, feature: _Feature, key: str) -> str:
        log = SegmentLog(self.path, self.manifest.failures, schemas.FAILURES)
        failure = log.get(schemas.failure_key(feature.name, feature.spec_digest, key))
        return "" if failure is None else f": failed as {failure['class']} ({failure['message']})"

    def spec(self, name: str) -> dict[str, Any]:
        """The recipe of a feature, as kept under ``specs/``."""
        return read_spec(self.path, self._feature(name).spec_digest)

    def spec_digest(self, name: str) -> str:
        """The digest of the recipe that a name means: its current one, or the one that ``name@digest`` pins."""
        return self._feature(name).spec_digest

    def numerics(self, name: str) -> list[dict[str, Any]]:
        """The distinct numerics under which a feature's present rows were computed."""
        feature = self._feature(name)
        shards = feature.shards.table()
        if len(shards.column("numerics").unique()) > 1:  # shards whose rows were all replaced do not count
            used = feature.index.table().column("shard").unique()
            shards = shards.filter(pc.is_in(shards.column("key").cast(pa.binary(16)), value_set=used))
        return [json.loads(text) for text in sorted(shards.column("numerics").unique().to_pylist())]

    def __contains__(self, name_and_key: tuple[str, str]) -> bool:
        name, key = name_and_key
        return self._feature(name).find(key) is not None

    def keys(self, name: str) -> list[str]:
        """All video keys of a feature, sorted as bytes."""
        column = self._feature(name).index.table().column("key")
        return [raw.decode("utf-8") for raw in column.to_pylist()]

    def row(self, name: str, key: str) -> Array:
        """``[T, *step]`` in the stored dtype, a read-only view of the memory map.

        Raises
        ------
        MissingKeyError
            If the feature has no such row; the message says how it failed, if it did.
        """
        reader, row = self._locate(name, key)
        self._warn(name)
        return reader.values(row)

    def step(self, name: str, key: str, step: int) -> Array:
        """``[*step]``: one step (a frame's map, a second's embedding) of a row, as a read-only view.

        Of a cold file the pages of this step are read and no others, so a frame of another video costs a
        frame, not a video.

        Raises
        ------
        MissingKeyError
            If the feature has no such row, or the row no such step.
        """
        reader, row = self._locate(name, key)
        self._warn(name)
        first, steps = reader.span(row)
        if not -steps <= step < steps:
            raise MissingKeyError(f"{self.path}: feature {name!r}: key {key!r} has {steps} steps, no step {step}")
        view: Array = reader.steps("values")[first + step % steps, ...]
        will_read(view.__array_interface__["data"][0], view.nbytes)
        return view

    def shape(self, name: str, key: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a row, without touching its values."""
        reader, row = self._locate(name, key)
        values = reader.values(row)
        return values.shape, values.dtype.name

    def times(self, name: str, key: str) -> Array:
        """``[T] float64``: real time of each step in seconds from the start of the clip or video."""
        reader, row = self._locate(name, key)
        return reader.times(row)

    def valid(self, name: str, key: str) -> Array:
        """``[T] bool``: False where a step is padding."""
        reader, row = self._locate(name, key)
        return reader.valid(row)

    def published_times(self, name: str, key: str) -> Array | None:
        """``[T] float64``: the times that a published recipe claims for its steps, where it does."""
        reader, row = self._locate(name, key)
        return reader.published_times(row)

    def clip(self, name: str, key: str) -> tuple[float, float]:
        """(start in the source, duration) of the clip in seconds; whole videos start at 0."""
        reader, row = self._locate(name, key)
        return reader.clip(row)

    def media(self, name: str, key: str) -> dict[str, Any]:
        """Which streams were used and how they were decoded."""
        reader, row = self._locate(name, key)
        return reader.media(row)

    def place(self, name: str, key: str) -> tuple[str, int]:
        """(shard file relative to the store, row in it)."""
        reader, row = self._locate(name, key)
        return reader.path.relative_to(self.path).as_posix(), row

    def places(self, name: str, keys: Sequence[str]) -> Places:
        """Where the rows of ``keys`` lie, found in one pass over the index; opens no shard."""
        index = self._feature(name).index.table()
        wanted = pa.array([layout.check_key(key) for key in keys], pa.large_binary())
        found = pc.index_in(wanted, value_set=index.column("key").combine_chunks())
        shard = index.column("shard").combine_chunks().take(found).dictionary_encode()
        return Places(
            tuple(identity.hex() for identity in shard.dictionary.to_pylist()),
            shard.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32),
            index.column("row").combine_chunks().take(found).fill_null(-1).to_numpy(zero_copy_only=False),
        )

    def shard(self, name: str, identity: str) -> ShardReader:
        """An open shard of a feature, by the hex id that :meth:`places` gives."""
        return self._feature(name).reader(bytes.fromhex(identity))

    def digest(self, name: str, key: str) -> str:
        """The row digest in hex: equal for equal values, times and mask."""
        reader, row = self._locate(name, key)
        return reader.digest(row).hex()

    def read(self, name: str, keys: Sequence[str], ragged: bool = False) -> Any:
        """Copy rows out, in the order of ``keys``.

        Returns
        -------
        ndarray ``[len(keys), T, *step]``, or :class:`Ragged` with ``ragged=True``.

        Raises
        ------
        MissingKeyError
            If a key has no row.
        RaggedRowsError
            If rows differ in T and ``ragged`` is False.
        """
        self._feature(name)
        rows = [self.row(name, key) for key in keys]
        if ragged:
            offset = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
            return Ragged(np.concatenate(rows) if rows else np.empty((0,)), offset)
        if not rows:
            return np.empty((0,))
        for key, row in zip(keys, rows, strict=True):
            if row.shape != rows[0].shape:
                raise RaggedRowsError(
                    f"feature {name!r}: key {key!r} has T={len(row)}, {keys[0]!r} has T={len(rows[0])}; use ragged=True"
                )
        shape, dtype = (len(rows), *rows[0].shape), rows[0].dtype
        stacked = empty_apart(len(rows) * rows[0].nbytes).view(dtype).reshape(shape)
        return np.stack(rows, out=stacked)

    def parts(self, name: str) -> Mapping[str, TablePart]:
        """The parts of a table by name, sorted.

        Raises
        ------
        MissingKeyError
            If there is no such table.
        """
        entry = self.manifest.tables.get(name)
        if entry is None:
            known = ", ".join(self.tables) or "none"
            raise MissingKeyError(f"{self.path}: no table {name!r} in version {self.version} (there is: {known})")
        return dict(sorted(entry.parts.items()))

    def stale(self, name: str) -> tuple[str, ...]:
        """Of what a derived table was made and has changed since; empty when it is up to date."""
        self.parts(name)
        return self.manifest.tables[name].stale or ()

    def table(self, name: str, part: str | None = None) -> pa.Table:
        """A table of this version: all its parts in the order of their names, or one of them.

        Raises
        ------
        MissingKeyError
            If there is no such table or part.
        """
        parts = self.parts(name)
        if part is not None and part not in parts:
            known = ", ".join(map(repr, parts))
            raise MissingKeyError(f"{self.path}: table {name!r} has no part {part!r} (there is: {known})")
        wanted = parts.values() if part is None else [parts[part]]
        return pa.concat_tables([_read_parquet(self.path / file.path) for entry in wanted for file in entry.files])

    def failures(self) -> pa.Table:
        """Every wanted row that is not stored: video_id, feature, spec, class, permanent, attempts, message, uri."""
        table = SegmentLog(self.path, self.manifest.failures, schemas.FAILURES).table()
        current = {name: entry.current for name, entry in self.manifest.features.items()}
        wanted = zip(table.column("feature").to_pylist(), table.column("spec").to_pylist(), strict=True)
        keep = [current.get(feature, spec) == spec for feature, spec in wanted]
        return table.filter(pa.array(keep, pa.bool_())).drop_columns(["key", "removed"])
