"""``Store``: read access to one pinned version of a store."""

from __future__ import annotations

import json
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import pyarrow as pa

from .commit import check_identity, create_store
from .errors import MissingKeyError, RaggedRowsError, StoreDamageError, StoreError
from .format import leases, schemas
from .format.feature_files import FeatureFiles, Places
from .format.holdings import table_holding
from .format.inside import StorePath
from .format.manifest import Manifest, TablePart, load
from .format.mapped import empty_half_page_off, will_read
from .format.media_damage import damaged_steps
from .format.receipts import read_spec
from .format.rows import Array
from .format.segments import SegmentLog
from .format.shard import ShardReader
from .format.table_files import read_table_file
from .sharing import Cache, is_address, open_cache
from .wording import available


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """A feature in the pinned version: its name, its current spec digest and its number of rows."""

    name: str
    spec_digest: str
    rows: int

    @property
    def spec(self) -> str:
        """Former name of ``spec_digest``; it will be removed in version 1.0."""
        return self.spec_digest


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of unequal length in one array: row ``i`` is ``values[offset[i]:offset[i + 1]]``.

    Attributes
    ----------
    values
        ``[ΣT, *step]`` in the stored dtype.
    offset
        ``[len(keys) + 1] int64``.
    """

    values: Array
    offset: Array


class Store:
    """One version of a store, pinned when it is opened.

    A feature is named ``name`` (its current spec) or ``name@digest`` (a spec digest or a prefix of it). Arrays returned
    by ``row``, ``step``, ``times`` and ``valid`` are read-only views of memory-mapped shards.

    A store can be pickled, and is safe under fork and spawn: each process opens files on first use.

    Examples
    --------
    >>> with Store.open("stores/nextgqa") as store:
    ...     key = store.keys("clip")[0]
    ...     values, times = store.row("clip", key), store.times("clip", key)
    """

    def __init__(
        self, path: Path, manifest: Manifest, lease: StorePath | None = None, cache: Cache | None = None
    ) -> None:
        self.path = path
        self._cache = cache
        self.manifest = manifest
        self._pid = os.getpid()
        self._open: dict[str, FeatureFiles] = {}
        self._warned: set[str] = set()
        self._release = weakref.finalize(self, leases.release, lease, os.getpid()) if lease else None

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Create an empty store (or accept an existing one) and open it.

        Raises
        ------
        StoreFormatError
            If the directory contains something else, or a newer store.
        """
        return cls.open(create_store(Path(path)))

    @classmethod
    def open(cls, path: str | Path, version: int | None = None, lease: bool = True) -> Self:
        """Open a store and pin one version of it.

        Parameters
        ----------
        path
            The store directory; or the address of a shared store (``s3://``, ``hf://``, ``gs://``), whose files are
            fetched when they are first needed, checked, and kept below ``$REELSTORE_CACHE`` (default:
            ``~/.cache/reelstore``).
        version
            The version to pin; by default the latest.
        lease
            Write a lease, so that ``gc`` keeps this version while it is open. Skipped if the store is read-only.

        Raises
        ------
        StoreNotFoundError
            If there is no store or no such version.
        StoreFormatError
            If it was written by a newer Reelstore.
        StoreDamageError
            If the manifest is damaged.
        SharingError
            If a shared store cannot be reached.
        """
        if is_address(path):
            cache, manifest = open_cache(str(path), version)
            return cls(cache.root.root, manifest, leases.take(cache.root, manifest.version) if lease else None, cache)
        root = check_identity(Path(path))
        manifest = load(root, version)
        return cls(root.root, manifest, leases.take(root, manifest.version) if lease else None)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, version={self.version})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[Path, Manifest, None, Cache | None]]:
        """Pickle the path and the pinned manifest only; the copy has no lease and opens its own files."""
        return type(self), (self.path, self.manifest, None, self._cache)

    def close(self) -> None:
        """Drop memory maps and release the lease. Views handed out stay valid."""
        for feature in self._open.values():
            feature.close()
        self._open.clear()
        if self._release is not None:
            self._release()

    @property
    def version(self) -> int:
        """The pinned version."""
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
        """The names of the tables of this version, sorted."""
        return sorted(self.manifest.tables)

    def _feature(self, name: str) -> FeatureFiles:
        if self._pid != os.getpid():
            self._open = {}
            self._pid = os.getpid()
        if name not in self._open:
            base, _, pinned = name.partition("@")
            entry = self.manifest.feature(base)
            if entry is None:
                raise MissingKeyError(
                    f"{self.path}: no feature {base!r} in version {self.version} ({available(self.features)})"
                )
            matches = [digest for digest in sorted(entry.specs) if digest.startswith(pinned)]
            digests = matches if pinned else [entry.current]
            if len(digests) != 1:
                state = "is not unique" if digests else f"is not in version {self.version}"
                raise MissingKeyError(f"{self.path}: feature {base!r}: spec {pinned!r} {state}")
            bring = None if self._cache is None else self._cache.bring
            self._open[name] = FeatureFiles(self.path, base, digests[0], self.manifest, bring)
        return self._open[name]

    def _warn(self, name: str) -> None:
        """Warn once per spec about what a trainer should know about its rows."""
        spec_digest = self._open[name].spec_digest
        if spec_digest in self._warned:
            return
        self._warned.add(spec_digest)
        for caveat in self.caveats(name).values():
            warnings.warn(caveat, stacklevel=3)

    def caveats(self, name: str) -> dict[str, str]:
        """Return what a trainer should know about a feature's rows, as one sentence per caveat.

        The keys are those of ``random_weights`` and ``mixed_numerics`` that apply.
        """
        caveats = {}
        if self.spec(name).get("random_weights"):
            caveats["random_weights"] = f"feature {name!r} was made with random weights"
        if (count := len(self.numerics(name))) > 1:
            caveats["mixed_numerics"] = (
                f"feature {name!r} mixes {count} numerics (device, dtype, micro-batch, threads or torch version); "
                "see `reelstore inspect`"
            )
        return caveats

    def _locate(self, name: str, key: str) -> tuple[ShardReader, int]:
        feature = self._feature(name)
        place = feature.find(key)
        if place is None:
            raise self._missing(feature, name, key)
        return place

    def _missing(self, feature: FeatureFiles, name: str, key: str) -> MissingKeyError:
        reason = self._reason(feature, key)
        return MissingKeyError(f"{self.path}: feature {name!r} has no key {key!r} in version {self.version}{reason}")

    def _reason(self, feature: FeatureFiles, key: str) -> str:
        log = SegmentLog(self.path, self.manifest.failures, schemas.FAILURES)
        failure = log.get(schemas.failure_key(feature.name, feature.spec_digest, key))
        return "" if failure is None else f": failed as {failure['class']} ({failure['message']})"

    def spec(self, name: str) -> dict[str, Any]:
        """Return the spec of a feature: everything that can change its rows."""
        return read_spec(self.path, self._feature(name).spec_digest)

    def spec_digest(self, name: str) -> str:
        """Return the digest of a feature's spec: its current one, or the one that ``name@digest`` pins."""
        return self._feature(name).spec_digest

    def numerics(self, name: str) -> list[dict[str, Any]]:
        """Return the distinct numerics (device, dtype, …) under which a feature's present rows were computed."""
        texts = self._feature(name).numerics()
        try:
            return [json.loads(text) for text in texts]
        except (ValueError, RecursionError) as error:
            raise StoreDamageError(f"{self.path}: feature {name!r}: the numerics of a shard are damaged") from error

    def __contains__(self, name_and_key: tuple[str, str]) -> bool:
        name, key = name_and_key
        return self._feature(name).find(key) is not None

    def keys(self, name: str) -> list[str]:
        """Return all video keys of a feature, sorted as UTF-8 bytes."""
        keys: list[str] = self.index(name).column("key").cast(pa.large_string()).to_pylist()
        return keys

    def index(self, name: str) -> pa.Table:
        """Return where every row of a feature is, sorted by key, one record per key.

        Columns: ``key`` (the video key's UTF-8), ``shard`` (16 bytes), ``row`` (its position in the shard) and
        ``cache_key`` (32 bytes; rows of equal content, clip and spec have equal ones).
        """
        return self._feature(name).index.table().select(["key", "shard", "row", "cache_key"])

    def row(self, name: str, key: str) -> Array:
        """Return one row, ``[T, *step]`` in the stored dtype, as a read-only view of the memory map.

        Raises
        ------
        MissingKeyError
            If the feature has no such row. If its computation failed, the message says how.
        """
        reader, row = self._locate(name, key)
        self._warn(name)
        return reader.values(row)

    def step(self, name: str, key: str, step: int) -> Array:
        """Return one step of a row (one frame, one second), ``[*step]``, as a read-only view.

        Only the pages of this step are read from a cold file, so a frame costs the reading of a frame, not of a video.
        Negative steps count from the end.

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
        """Return the shape of a row and the name of its dtype, without reading its values."""
        reader, row = self._locate(name, key)
        values = reader.values(row)
        return values.shape, values.dtype.name

    def times(self, name: str, key: str) -> Array:
        """Return the real time of each step, ``[T] float64``, in seconds from the start of the clip or video.

        NaN for each step of an imported row whose times are not known.
        """
        reader, row = self._locate(name, key)
        return reader.times(row)

    def valid(self, name: str, key: str) -> Array:
        """Return the mask of a row, ``[T] bool``: False where a step is padding."""
        reader, row = self._locate(name, key)
        return reader.valid(row)

    def damaged(self, name: str, key: str) -> Array:
        """Return which steps hold damaged pictures or sound, ``[T] bool``, as was found when the row was computed."""
        reader, row = self._locate(name, key)
        marked = np.zeros(len(reader.valid(row)), dtype=bool)
        marked[[step for step in damaged_steps(reader.media(row)) if 0 <= step < len(marked)]] = True
        return marked

    def published_times(self, name: str, key: str) -> Array | None:
        """Return the times that a published recipe states for the steps, ``[T] float64``, or None if it states none."""
        reader, row = self._locate(name, key)
        return reader.published_times(row)

    def clip(self, name: str, key: str) -> tuple[float, float]:
        """Return (start in the source, duration) of the clip in seconds; whole videos start at 0.

        The duration of an imported row is not known, and NaN.
        """
        reader, row = self._locate(name, key)
        return reader.clip(row)

    def media(self, name: str, key: str) -> dict[str, Any]:
        """Return the record of which streams were used and how they were decoded."""
        reader, row = self._locate(name, key)
        return reader.media(row)

    def place(self, name: str, key: str) -> tuple[str, int]:
        """Return (path of the shard relative to the store, row in it)."""
        reader, row = self._locate(name, key)
        return reader.path.relative, row

    def places(self, name: str, keys: Sequence[str] | pa.Array) -> Places:
        """Find the rows of many keys in one pass over the index, without opening a shard."""
        return self._feature(name).places(keys)

    def shard(self, name: str, identity: str) -> ShardReader:
        """Return an open shard of a feature by its id in hex, as ``places`` gives it."""
        return self._feature(name).reader(bytes.fromhex(identity))

    def digest(self, name: str, key: str) -> str:
        """Return the row digest in hex. Equal values, times and masks have equal digests."""
        reader, row = self._locate(name, key)
        return reader.digest(row).hex()

    @overload
    def read(self, name: str, keys: Sequence[str], ragged: Literal[False] = False) -> Array: ...

    @overload
    def read(self, name: str, keys: Sequence[str], ragged: Literal[True]) -> Ragged: ...

    def read(self, name: str, keys: Sequence[str], ragged: bool = False) -> Array | Ragged:
        """Copy rows out, in the order of ``keys``.

        Returns
        -------
        Array or Ragged
            ``[len(keys), T, *step]`` in the stored dtype, or ``Ragged`` with ``ragged=True``.

        Raises
        ------
        MissingKeyError
            If a key has no row.
        RaggedRowsError
            If rows differ in shape and ``ragged`` is False.
        """
        feature = self._feature(name)
        places = feature.find_all(keys)
        if None in places:
            raise self._missing(feature, name, keys[places.index(None)])
        if places:
            self._warn(name)
        rows = [reader.values(row) for reader, row in filter(None, places)]
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
        stacked = empty_half_page_off(len(rows) * rows[0].nbytes).view(dtype).reshape(shape)
        return np.stack(rows, out=stacked)

    def parts(self, name: str) -> Mapping[str, TablePart]:
        """Return the parts of a table by name, sorted.

        Raises
        ------
        MissingKeyError
            If there is no such table.
        """
        entry = self.manifest.tables.get(name)
        if entry is None:
            raise MissingKeyError(
                f"{self.path}: no table {name!r} in version {self.version} ({available(self.tables)})"
            )
        return dict(sorted(entry.parts.items()))

    def stale(self, name: str, part: str | None = None) -> tuple[str, ...]:
        """Return the inputs of a derived table that have changed since it was built; empty if it is up to date.

        Raises
        ------
        MissingKeyError
            If there is no such table or part.
        """
        return tuple(change for entry in self._chosen_parts(name, part) for change in entry.stale or ())

    def table(
        self,
        name: str,
        part: str | None = None,
        columns: Sequence[str] | None = None,
        where: Mapping[str, str] | None = None,
    ) -> pa.Table:
        """Read a table: all its parts in the order of their names, or one of them.

        A column that a part lacks is null there.

        Parameters
        ----------
        name, part
            The table, and one of its parts; None for all of them.
        columns
            The columns to read; None for all of them. A column that the table lacks is left out.
        where
            Values by column, such as ``{"split": "train"}``: only the rows that have them are read.

        Raises
        ------
        MissingKeyError
            If there is no such table or part.
        StoreDamageError
            If a file cannot be read.
        StoreError
            If the parts differ in the type of a column, as those of ``embeddings`` may.
        """
        entries = self._chosen_parts(name, part)
        if self._cache is not None:
            self._cache.bring([table_holding(file) for entry in entries for file in entry.files])
        tables = [
            read_table_file(StorePath.of(self.path) / file.path, file.rows, columns, where or {})
            for entry in entries
            for file in entry.files
        ]
        try:
            same = all(table.schema.equals(tables[0].schema) for table in tables)
            return pa.concat_tables(tables, promote_options="none" if same else "default")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            known = available(map(repr, self.parts(name)))
            raise StoreError(f"{self.path}: the parts of table {name!r} differ in type; read one ({known})") from error

    def _chosen_parts(self, name: str, part: str | None) -> list[TablePart]:
        """Return all parts of a table, or one of them."""
        parts = self.parts(name)
        if part is None:
            return list(parts.values())
        if part not in parts:
            raise MissingKeyError(f"{self.path}: table {name!r} has no part {part!r} ({available(map(repr, parts))})")
        return [parts[part]]

    def failures(self) -> pa.Table:
        """Return every row that was wanted but could not be stored under its feature's current spec.

        Columns: video_id, feature, spec (the digest), class, permanent, attempts, message, uri, content_id.
        """
        table = SegmentLog(self.path, self.manifest.failures, schemas.FAILURES).table()
        current = {name: entry.current for name, entry in self.manifest.features.items()}
        pairs = zip(table.column("feature").to_pylist(), table.column("spec").to_pylist(), strict=True)
        keep = [current.get(feature, digest) == digest for feature, digest in pairs]
        return table.filter(pa.array(keep, pa.bool_())).drop_columns(["key", "removed"])
