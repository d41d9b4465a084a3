"""Turning finished work into the next version: create a store, commit rows, failures and tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import StoreError, StoreFormatError, StoreNotFoundError
from .format import durable, layout, schemas, segments
from .format.manifest import (
    FeatureEntry,
    Manifest,
    SpecEntry,
    TableEntry,
    TableFile,
    TablePart,
    first_manifest,
    now,
    publish,
)
from .format.rows import Receipt
from .format.segments import SegmentLog
from .format.shard import ShardReader, read_spec

_FRESH_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the row of a video key lies.

    ``moved_from`` is the (shard, row) of which it is a copy: the key moves only if it still points there.
    """

    feature: str
    spec_digest: str
    key: str
    shard: str
    row: int
    cache_key: bytes
    moved_from: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One wanted row that could not be computed, and why."""

    video_id: str
    feature: str
    spec_digest: str
    failure_class: str
    permanent: bool
    message: str
    uri: str
    content_id: str
    attempts: int

    def record(self) -> dict[str, Any]:
        """As a row of the failures table."""
        return {
            "video_id": self.video_id,
            "feature": self.feature,
            "spec": self.spec_digest,
            "class": self.failure_class,
            "permanent": self.permanent,
            "attempts": self.attempts,
            "message": _printable(self.message),
            "uri": _printable(self.uri),
            "content_id": self.content_id,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Failure:
        """Rebuild a failure from its row of the failures table."""
        names = ("video_id", "feature", "spec", "class", "permanent", "message", "uri", "content_id", "attempts")
        return cls(*(record[name] for name in names))


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What is known of a source file: a stat ``stamp`` (mtime and inode, or etag) and its content id."""

    uri: str
    size: int
    stamp: str
    content_id: str


PartUpdate = Callable[[Manifest], TablePart | None]
"""Makes a part of a table from what the latest version holds. Called again when another writer committed first, so
that two writers who add to one part both keep their rows."""


@dataclass(slots=True)
class Changes:
    """Everything one commit adds. Empty fields change nothing."""

    placed: list[Placed] = field(default_factory=list)
    shards: list[Receipt] = field(default_factory=list)
    spent: list[Receipt] = field(default_factory=list)  # shards without a wanted row: listed, never adopted again
    failures: list[Failure] = field(default_factory=list)
    sources: list[SourceRecord] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)  # (feature, key)
    settled: list[tuple[str, str, str]] = field(default_factory=list)  # (feature, spec, key) no longer failing
    current: dict[str, str] = field(default_factory=dict)  # feature -> spec digest
    tables: dict[str, dict[str, TablePart | None]] = field(default_factory=dict)  # by table and part; None drops one
    updates: dict[str, dict[str, PartUpdate]] = field(default_factory=dict)  # as tables, but made from the latest
    stale: dict[str, tuple[str, ...] | None] = field(default_factory=dict)  # table -> what it was made from and changed
    replace: bool = False  # move keys to their new rows even where the cache key is the same (forced runs)

    def __bool__(self) -> bool:
        rows = (self.placed, self.spent, self.removed)
        logs = (self.failures, self.sources, self.settled)
        return any((*rows, *logs, self.current, self.tables, self.updates, self.stale))


def create_store(root: Path) -> Path:
    """Make an empty store at ``root``, or accept the one that is there.

    Raises
    ------
    StoreFormatError
        If the directory holds something else, or a newer store.
    """
    root = root.absolute()
    identity = root / layout.IDENTITY
    if not identity.exists():
        ours = {layout.IDENTITY, *layout.DIRECTORIES}  # another process may be creating the same store
        strangers = [p.name for p in root.iterdir() if p.name not in ours] if root.is_dir() else []
        if strangers:
            raise StoreFormatError(
                f"{root}: not a store and not empty (holds {sorted(strangers)[0]!r}); name a new folder"
            )
        for name in layout.DIRECTORIES:
            durable.make_directory(root / name)
        first = root / layout.VERSIONS / layout.version_file(0)
        if not first.exists():
            _publish_once(root, first, first_manifest().encode())
        durable.sync_directory(first.parent)  # the identity must not outlive the version that it promises
        record = {"format": layout.FORMAT, "format_version": layout.FORMAT_VERSION}
        _publish_once(root, identity, json.dumps(record).encode() + b"\n")
        durable.sync_directory(root)
        durable.sync_directory(root.parent)
    check_identity(root)
    return root


def _publish_once(root: Path, target: Path, data: bytes) -> None:
    staged = root / layout.STAGING / layout.new_id()
    durable.write_new(staged, data)
    try:
        durable.link_exclusive(staged, target, data)
    finally:
        durable.unlink(staged)


def check_identity(root: Path) -> None:
    """Raise unless ``root`` is a store that this version can read."""
    identity = root / layout.IDENTITY
    try:
        record = json.loads(identity.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreNotFoundError(f"{root}: no store here ({layout.IDENTITY} is missing)") from error
    except (OSError, ValueError) as error:
        raise StoreFormatError(f"{identity}: not readable ({error})") from error
    if not isinstance(record, dict) or record.get("format") != layout.FORMAT:
        raise StoreFormatError(f"{identity}: not a {layout.FORMAT} store")
    version = record.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise StoreFormatError(f"{identity}: damaged: there is no format {version!r}")
    if version > layout.FORMAT_VERSION:
        raise StoreFormatError(
            f"{identity}: {layout.FORMAT} format {version} is newer than format {layout.FORMAT_VERSION}, "
            "which this Reelstore reads; upgrade Reelstore"
        )


def write_spec(root: Path, spec: Mapping[str, Any]) -> str:
    """Keep a spec under its digest and return the digest.

    A damaged file is replaced. So is one more than a day old, since ``gc`` spares what is young and
    the rows that need this spec are not committed yet.
    """
    spec_digest = layout.digest(spec)
    target = root / layout.SPECS / f"{spec_digest}.json"
    text = layout.spec_text(spec)
    try:
        kept = target.read_bytes() == text and time.time() - target.stat().st_mtime < _FRESH_SECONDS
    except FileNotFoundError:
        kept = False
    if not kept:
        durable.replace_file(target, root / layout.STAGING / layout.new_id(), text)
    return spec_digest


def place_shard(root: Path, receipt: Receipt, aliases: Mapping[str, Sequence[str]] | None = None) -> list[Placed]:
    """The index rows of a finished shard.

    ``aliases`` maps a key of the shard to further video keys with the same bytes and clip bounds.
    """
    path = layout.feature_directory(root, receipt.feature, receipt.spec_digest) / f"{receipt.id}.h5"
    reader = ShardReader(path, receipt, check_header=False)
    placed = []
    for row in range(receipt.rows):
        key = reader.key(row)
        cache_key = reader.cache_key(row)
        names = [key, *(aliases or {}).get(key, ())]
        placed += [Placed(receipt.feature, receipt.spec_digest, name, receipt.id, row, cache_key) for name in names]
    reader.close()
    return placed


def commit(root: Path, changes: Changes) -> Manifest:
    """Publish ``changes`` as a new version (or nothing, when they change nothing).

    A row whose key already holds the same cache key in the latest version is left as it is, so
    two writers of the same work agree; a key whose content changed moves to its new row.
    """

    def build(latest: Manifest) -> Manifest | None:
        features = dict(latest.features)
        for feature, spec in changes.current.items():
            features[feature] = _with_current(features.get(feature), spec)
        settled = set(changes.settled)
        groups = _grouped(changes.placed)
        for receipt in changes.spent:
            groups.setdefault((receipt.feature, receipt.spec_digest), [])
        for (feature, spec), placed in groups.items():
            entry = features.get(feature) or FeatureEntry(current=spec, specs={})
            before = entry.specs.get(spec, SpecEntry())
            spent = [receipt for receipt in changes.spent if (receipt.feature, receipt.spec_digest) == (feature, spec)]
            after = _with_rows(root, before, placed, changes.shards, spent, changes.replace)
            settled.update((feature, spec, row.key) for row in placed)
            if after is not before:
                if spec != entry.current and after.retired_at is None:  # nobody would ever collect it
                    after = after.model_copy(update={"retired_at": now()})
                features[feature] = entry.model_copy(update={"specs": {**entry.specs, spec: after}})
        for feature, keys in _removed(changes.removed).items():
            if feature in features:
                features[feature] = _without_rows(root, features[feature], keys)
        return _if_changed(
            latest,
            features=features,
            tables=_with_tables(latest, changes),
            failures=_with_failures(root, latest, changes.failures, settled),
            sources=_with_sources(root, latest, changes.sources),
        )

    return publish(root, build)


def _if_changed(latest: Manifest, **update: Any) -> Manifest | None:
    successor = latest.model_copy(update=update)
    return None if successor == latest else successor


def _grouped(placed: Iterable[Placed]) -> dict[tuple[str, str], list[Placed]]:
    groups: dict[tuple[str, str], list[Placed]] = {}
    for row in placed:
        groups.setdefault((row.feature, row.spec_digest), []).append(row)
    return groups


def _removed(removed: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for feature, key in removed:
        keys.setdefault(feature, []).append(key)
    return keys


def _with_current(entry: FeatureEntry | None, spec: str) -> FeatureEntry:
    if entry is None:
        return FeatureEntry(current=spec, specs={spec: SpecEntry()})
    if entry.current == spec:
        return entry
    specs = {
        digest: old.model_copy(update={"retired_at": old.retired_at or now()}) for digest, old in entry.specs.items()
    }
    specs[spec] = specs.get(spec, SpecEntry()).model_copy(update={"retired_at": None})
    return FeatureEntry(current=spec, specs=specs)


def _with_rows(
    root: Path,
    entry: SpecEntry,
    placed: Sequence[Placed],
    receipts: Sequence[Receipt],
    spent: Sequence[Receipt],
    replace: bool,
) -> SpecEntry:
    index = SegmentLog(root, entry.index, schemas.INDEX)
    known_shards = SegmentLog(root, entry.shards, schemas.SHARDS)
    fresh: dict[bytes, Placed] = {}
    added = 0
    for row in placed:
        key = layout.check_key(row.key)
        present = index.get(key)
        if row.moved_from is not None:
            if present is None or (present["shard"].hex(), present["row"]) != row.moved_from:
                continue
        elif present is not None and present["cache_key"] == row.cache_key:
            moves = replace and (present["shard"].hex(), present["row"]) != (row.shard, row.row)
            if not moves and _exists(root, row, present["shard"], known_shards):
                fresh.pop(key, None)
                continue
        added += present is None and key not in fresh
        fresh[key] = row
    listed = [receipt for receipt in spent if known_shards.get(bytes.fromhex(receipt.id)) is None]
    if not fresh and not listed:
        return entry
    columns = {
        "key": list(fresh),
        "shard": [bytes.fromhex(row.shard) for row in fresh.values()],
        "row": [row.row for row in fresh.values()],
        "cache_key": [row.cache_key for row in fresh.values()],
        "removed": [False] * len(fresh),
    }
    used = {row.shard for row in fresh.values()}
    new_shards = [
        receipt for receipt in receipts if receipt.id in used and known_shards.get(bytes.fromhex(receipt.id)) is None
    ]
    named = {receipt.id for receipt in new_shards}
    for shard in sorted(used - named):
        if known_shards.get(bytes.fromhex(shard)) is None:
            raise StoreError(f"commit: rows point at shard {shard}, of which no receipt was given")
    return entry.model_copy(
        update={
            "rows": entry.rows + added,
            "index": segments.append(root, layout.INDEX, entry.index, pa.table(columns, schema=schemas.INDEX)),
            "shards": segments.append(root, layout.INDEX, entry.shards, shard_table([*new_shards, *listed])),
        }
    )


def _exists(root: Path, row: Placed, shard: bytes, known_shards: SegmentLog) -> bool:
    path = layout.feature_directory(root, row.feature, row.spec_digest) / f"{shard.hex()}.h5"
    return known_shards.get(shard) is not None and path.exists()


def shard_table(receipts: Sequence[Receipt]) -> pa.Table:
    """The shard-list records of finished shards."""
    columns = {
        "key": [bytes.fromhex(receipt.id) for receipt in receipts],
        "rows": [receipt.rows for receipt in receipts],
        "bytes": [receipt.bytes for receipt in receipts],
        "sha256": [bytes.fromhex(receipt.sha256) for receipt in receipts],
        "numerics": [layout.canonical_json(receipt.numerics).decode() for receipt in receipts],
        "removed": [False] * len(receipts),
    }
    return pa.table(columns, schema=schemas.SHARDS)


def _without_rows(root: Path, entry: FeatureEntry, keys: Sequence[str]) -> FeatureEntry:
    """Hide keys in the current spec of a feature."""
    current = entry.specs[entry.current]
    index = SegmentLog(root, current.index, schemas.INDEX)
    hidden = [raw for key in dict.fromkeys(keys) if index.get(raw := layout.check_key(key)) is not None]
    if not hidden:
        return entry
    columns = {
        "key": hidden,
        "shard": [bytes(16)] * len(hidden),
        "row": [0] * len(hidden),
        "cache_key": [bytes(32)] * len(hidden),
        "removed": [True] * len(hidden),
    }
    table = pa.table(columns, schema=schemas.INDEX)
    update = {
        "rows": current.rows - len(hidden),
        "index": segments.append(root, layout.INDEX, current.index, table),
    }
    return entry.model_copy(update={"specs": {**entry.specs, entry.current: current.model_copy(update=update)}})


def _with_failures(
    root: Path, latest: Manifest, failures: Sequence[Failure], settled: set[tuple[str, str, str]]
) -> tuple[segments.SegmentRef, ...]:
    log = SegmentLog(root, latest.failures, schemas.FAILURES)
    records: dict[bytes, dict[str, Any]] = {}
    if latest.failures:
        for feature, spec, video_id in sorted(settled):
            key = schemas.failure_key(feature, spec, video_id)
            present = log.get(key)
            if present is not None:
                records[key] = {**present, "removed": True}
    for failure in failures:
        layout.check_key(failure.video_id)
        key = schemas.failure_key(failure.feature, failure.spec_digest, failure.video_id)
        records[key] = {"key": key, **failure.record(), "removed": False}
    changed = [record for key, record in records.items() if log.get(key) != record]
    table = pa.Table.from_pylist(changed, schema=schemas.FAILURES)
    return segments.append(root, layout.FAILURES, latest.failures, table, suffix=".parquet")


def _printable(text: str) -> str:
    """File names that are not UTF-8 come with lone surrogates, which no table can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _with_sources(root: Path, latest: Manifest, sources: Sequence[SourceRecord]) -> tuple[segments.SegmentRef, ...]:
    log = SegmentLog(root, latest.sources, schemas.SOURCES)
    changed = []
    for source in sources:
        record = {
            "key": source.uri.encode("utf-8", "surrogateescape"),
            "size": source.size,
            "stamp": source.stamp,
            "content_id": source.content_id,
            "removed": False,
        }
        if log.get(record["key"]) != record:  # type: ignore[arg-type]
            changed.append(record)
    table = pa.Table.from_pylist(changed, schema=schemas.SOURCES)
    return segments.append(root, layout.SOURCES, latest.sources, table)


def _with_tables(latest: Manifest, changes: Changes) -> dict[str, TableEntry]:
    """Replace parts and marks of staleness; a table that is written anew is not stale, one without parts is gone."""
    updated = dict(latest.tables)
    replaced = {name: dict(parts) for name, parts in changes.tables.items()}
    for name, updates in changes.updates.items():
        replaced.setdefault(name, {}).update({part: update(latest) for part, update in updates.items()})
    for name, parts in replaced.items():
        before = updated[name].parts if name in updated else {}
        merged = {part: entry for part, entry in {**before, **parts}.items() if entry is not None}
        if merged != before:
            updated[name] = TableEntry(parts=dict(sorted(merged.items())))
    for name, members in changes.stale.items():
        if name in updated:
            updated[name] = updated[name].model_copy(update={"stale": members or None})
    return {name: entry for name, entry in updated.items() if entry.parts}


def write_table(root: Path, name: str, spec: Mapping[str, Any], table: pa.Table, part: str = "") -> TablePart:
    """Write one part of a table as one Parquet file with its receipt; name it through ``Changes.tables``.

    Raises
    ------
    StoreError
        If ``name`` cannot name a folder or ``part`` is too long.
    """
    if part:
        layout.check_key(part)
    spec_digest = write_spec(root, spec)
    directory = layout.table_directory(root, name, spec_digest)
    durable.make_directory(directory)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue()
    identity = layout.new_id()
    staged = root / layout.STAGING / f"{identity}.parquet"
    durable.write_new(staged, memoryview(data))
    durable.rename(staged, directory / f"{identity}.parquet")
    path = directory / f"{identity}.parquet"
    file = TableFile(
        path=path.relative_to(root).as_posix(),
        rows=table.num_rows,
        bytes=data.size,
        sha256=durable.file_digest(path),
    )
    staged_receipt = root / layout.STAGING / f"{identity}.json"
    durable.write_new(staged_receipt, table_receipt(name, part, spec_digest, read_spec(root, spec_digest), file))
    durable.rename(staged_receipt, directory / f"{identity}.json")
    durable.sync_directory(directory)
    durable.sync_directory(directory.parent)
    return TablePart(spec_digest=spec_digest, files=(file,))


def table_receipt(name: str, part: str, spec: str, recipe: Mapping[str, Any], file: TableFile) -> bytes:
    """The bytes of the receipt beside a table file."""
    named = {"table": name, "part": part} if part else {"table": name}
    record = {**named, "spec": spec, "recipe": recipe, **file.model_dump()}
    return layout.seal(json.dumps(record, indent=1).encode())
