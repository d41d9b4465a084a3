"""Turn finished work into the next version: create a store, commit rows, failures and tables."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .changes import Changes, Failure, PartUpdate, Placed, SourceRecord
from .errors import StoreError, StoreFormatError, StoreNotFoundError
from .format import durable, layout, schemas, segments
from .format.inside import Root, StorePath
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
from .format.receipts import read_spec
from .format.rows import Receipt
from .format.segments import SegmentLog
from .format.shard import ShardReader

__all__ = [
    "Changes",
    "Failure",
    "PartUpdate",
    "Placed",
    "SourceRecord",
    "check_identity",
    "commit",
    "create_store",
    "place_shard",
    "shard_table",
    "table_receipt",
    "write_spec",
    "write_table",
]

_LARGEST_IDENTITY = 1 << 16
_FRESH_SECONDS = 24 * 3600.0
"""A spec's file older than this is written anew, because ``gc`` removes unused files by their age."""


def create_store(root: Root) -> Path:
    """Create an empty store at ``root``, or accept an existing one, and return its absolute path.

    Raises
    ------
    StoreFormatError
        If the directory contains something else, or a newer store.
    """
    root = StorePath.of(root)
    identity = root / layout.IDENTITY
    if not identity.exists():
        ours = {layout.IDENTITY, *layout.DIRECTORIES}  # another process may be creating the same store
        others = [name for name in root.listing() if name not in ours]
        if others:
            raise StoreFormatError(f"{root}: not a store and not empty (contains {others[0]!r}); name a new directory")
        durable.make_directory(root)
        for name in layout.DIRECTORIES:
            durable.make_directory(root / name)
        first = root / layout.VERSIONS / layout.version_file(0)
        if not first.exists():
            _publish_once(root, first, first_manifest().encode())
        durable.sync_directory(first.parent)  # the identity must not outlive the version that it promises
        record = {"format": layout.FORMAT, "format_version": layout.FORMAT_VERSION}
        _publish_once(root, identity, json.dumps(record).encode() + b"\n")
        durable.sync_directory(root)
        durable.sync_directory(StorePath(root.root.parent))
    check_identity(root)
    return root.root


def _publish_once(root: StorePath, target: StorePath, data: bytes) -> None:
    """Create a file with its whole content, unless another process was faster."""
    durable.create_whole(target, root / layout.STAGING / layout.new_id(), data)


def check_identity(root: Root) -> StorePath:
    """Check that ``root`` is a store that this Reelstore can read, and return its path.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    StoreFormatError
        If its identity file is damaged, or was written by a newer Reelstore.
    """
    root = StorePath.of(root)
    identity = root / layout.IDENTITY
    try:
        record = json.loads(identity.read_bytes(_LARGEST_IDENTITY))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreNotFoundError(f"{root}: no store here ({layout.IDENTITY} is missing)") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreFormatError(f"{identity}: cannot be read ({error})") from error
    if not isinstance(record, dict) or record.get("format") != layout.FORMAT:
        raise StoreFormatError(f"{identity}: not a {layout.FORMAT} store")
    version = record.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise StoreFormatError(f"{identity}: damaged: {version!r} is not a format version")
    if version > layout.FORMAT_VERSION:
        raise StoreFormatError(
            f"{identity}: {layout.FORMAT} format {version} is newer than format {layout.FORMAT_VERSION}, "
            "which this Reelstore reads; upgrade Reelstore"
        )
    return root


def write_spec(root: Root, spec: Mapping[str, Any]) -> str:
    """Write a spec to a file named by its digest, and return the digest.

    A damaged file is replaced. So is one more than a day old: ``gc`` keeps only young files that no version names, and
    the rows that need this spec are not committed yet.
    """
    root = StorePath.of(root)
    spec_digest = layout.digest(spec)
    target = root / layout.SPECS / f"{spec_digest}.json"
    text = layout.spec_text(spec)
    try:
        kept = target.read_bytes() == text and time.time() - target.status().st_mtime < _FRESH_SECONDS
    except FileNotFoundError:
        kept = False
    if not kept:
        durable.replace_file(target, root / layout.STAGING / layout.new_id(), text)
    return spec_digest


def place_shard(root: Root, receipt: Receipt, aliases: Mapping[str, Sequence[str]] | None = None) -> list[Placed]:
    """Return the index records of a finished shard, to be committed as ``Changes.placed``.

    ``aliases`` maps a key of the shard to further video keys with the same content and clip bounds.
    """
    # The shard is opened again, although its writer has just checked it: all that is known here is a receipt, which may
    # come from another machine or belong to an orphan that a crash left, and only the file has the keys. Its header was
    # checked before it was published, so HDF5 does not read it again.
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


def commit(root: Root, changes: Changes) -> Manifest:
    """Publish ``changes`` as a new version, or nothing if they change nothing, and return the latest manifest.

    If the latest version already has a row with the same key and cache key, that row stays, so two writers of the same
    work agree. A key whose content changed moves to its new row.

    Raises
    ------
    StoreError
        If ``changes.placed`` names a shard whose receipt is missing.
    InvalidKeyError
        If a key is not acceptable.
    """
    root = StorePath.of(root)

    def build(latest: Manifest) -> Manifest | None:
        features = dict(latest.features)
        for feature, spec_digest in changes.current.items():
            features[feature] = _with_current(features.get(feature), spec_digest)
        settled = set(changes.settled)
        groups = _grouped(changes.placed)
        for receipt in changes.spent:
            groups.setdefault((receipt.feature, receipt.spec_digest), [])
        for (feature, spec_digest), placed in groups.items():
            entry = features.get(feature) or FeatureEntry(current=spec_digest, specs={})
            before = entry.specs.get(spec_digest, SpecEntry())
            spent = [
                receipt for receipt in changes.spent if (receipt.feature, receipt.spec_digest) == (feature, spec_digest)
            ]
            after = _with_rows(root, before, placed, changes.shards, spent, changes.replace)
            settled.update((feature, spec_digest, row.key) for row in placed)
            if after is not before:
                if spec_digest != entry.current and after.retired_at is None:  # gc would never collect it otherwise
                    after = after.model_copy(update={"retired_at": now()})
                features[feature] = entry.model_copy(update={"specs": {**entry.specs, spec_digest: after}})
        for feature, keys in _keys_by_feature(changes.removed).items():
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
    """Group rows by (feature, spec digest)."""
    groups: dict[tuple[str, str], list[Placed]] = {}
    for row in placed:
        groups.setdefault((row.feature, row.spec_digest), []).append(row)
    return groups


def _keys_by_feature(removed: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for feature, key in removed:
        keys.setdefault(feature, []).append(key)
    return keys


def _with_current(entry: FeatureEntry | None, spec_digest: str) -> FeatureEntry:
    """Make a spec the current one and retire the others."""
    if entry is None:
        return FeatureEntry(current=spec_digest, specs={spec_digest: SpecEntry()})
    if entry.current == spec_digest:
        return entry
    specs = {
        digest: old.model_copy(update={"retired_at": old.retired_at or now()}) for digest, old in entry.specs.items()
    }
    specs[spec_digest] = specs.get(spec_digest, SpecEntry()).model_copy(update={"retired_at": None})
    return FeatureEntry(current=spec_digest, specs=specs)


def _with_rows(
    root: StorePath,
    entry: SpecEntry,
    placed: Sequence[Placed],
    receipts: Sequence[Receipt],
    spent: Sequence[Receipt],
    replace: bool,
) -> SpecEntry:
    """Append rows and shards to the entry of one spec; return the same object if nothing changes."""
    keys = [layout.check_key(row.key) for row in placed]
    index = SegmentLog(root, entry.index, schemas.INDEX).find(keys)
    known_shards = SegmentLog(root, entry.shards, schemas.SHARDS)
    fresh: dict[bytes, Placed] = {}
    new_keys = 0
    for key, row in zip(keys, placed, strict=True):
        present = index.get(key)
        if row.moved_from is not None:
            if present is None or (present["shard"].hex(), present["row"]) != row.moved_from:
                continue
        elif present is not None and present["cache_key"] == row.cache_key:
            moves = replace and (present["shard"].hex(), present["row"]) != (row.shard, row.row)
            if not moves and _exists(root, row, present["shard"], known_shards):
                fresh.pop(key, None)
                continue
        if present is None and key not in fresh:
            new_keys += 1
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
            raise StoreError(f"commit: rows point at shard {shard}, but its receipt is not among the changes")
    return entry.model_copy(
        update={
            "rows": entry.rows + new_keys,
            "index": segments.append(root, layout.INDEX, entry.index, pa.table(columns, schema=schemas.INDEX)),
            "shards": segments.append(root, layout.INDEX, entry.shards, shard_table([*new_shards, *listed])),
        }
    )


def _exists(root: StorePath, row: Placed, shard: bytes, known_shards: SegmentLog) -> bool:
    """Return whether a shard of the row's feature is listed and its file is there."""
    path = layout.feature_directory(root, row.feature, row.spec_digest) / f"{shard.hex()}.h5"
    return known_shards.get(shard) is not None and path.exists()


def shard_table(receipts: Sequence[Receipt]) -> pa.Table:
    """Return the shard-list records of finished shards."""
    columns = {
        "key": [bytes.fromhex(receipt.id) for receipt in receipts],
        "rows": [receipt.rows for receipt in receipts],
        "bytes": [receipt.bytes for receipt in receipts],
        "sha256": [bytes.fromhex(receipt.sha256) for receipt in receipts],
        "numerics": [layout.canonical_json(receipt.numerics).decode() for receipt in receipts],
        "removed": [False] * len(receipts),
    }
    return pa.table(columns, schema=schemas.SHARDS)


def _without_rows(root: StorePath, entry: FeatureEntry, keys: Sequence[str]) -> FeatureEntry:
    """Hide keys from the current spec of a feature."""
    current = entry.specs[entry.current]
    wanted = [layout.check_key(key) for key in dict.fromkeys(keys)]
    index = SegmentLog(root, current.index, schemas.INDEX).find(wanted)
    hidden = [key for key in wanted if key in index]
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
    root: StorePath, latest: Manifest, failures: Sequence[Failure], settled: set[tuple[str, str, str]]
) -> tuple[segments.SegmentRef, ...]:
    """Append failures to their log, and hide those that are ``settled``."""
    log = SegmentLog(root, latest.failures, schemas.FAILURES)
    records: dict[bytes, dict[str, Any]] = {}
    if latest.failures:
        for feature, spec_digest, video_id in sorted(settled):
            key = schemas.failure_key(feature, spec_digest, video_id)
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


def _with_sources(
    root: StorePath, latest: Manifest, sources: Sequence[SourceRecord]
) -> tuple[segments.SegmentRef, ...]:
    """Append to the log of sources what differs from it."""
    keys = [source.uri.encode("utf-8", "surrogateescape") for source in sources]
    log = SegmentLog(root, latest.sources, schemas.SOURCES).find(keys)
    changed = []
    for key, source in zip(keys, sources, strict=True):
        record = {
            "key": key,
            "size": source.size,
            "stamp": source.stamp,
            "content_id": source.content_id,
            "removed": False,
        }
        if log.get(key) != record:
            changed.append(record)
    table = pa.Table.from_pylist(changed, schema=schemas.SOURCES)
    return segments.append(root, layout.SOURCES, latest.sources, table)


def _with_tables(latest: Manifest, changes: Changes) -> dict[str, TableEntry]:
    """Replace parts and staleness; a part written anew is not stale, and a table without parts is dropped."""
    updated = dict(latest.tables)
    replaced = {name: dict(parts) for name, parts in changes.tables.items()}
    for name, updates in changes.updates.items():
        replaced.setdefault(name, {}).update({part: update(latest) for part, update in updates.items()})
    for name, parts in replaced.items():
        before = updated[name].parts if name in updated else {}
        merged = {part: entry for part, entry in {**before, **parts}.items() if entry is not None}
        if merged != before:
            updated[name] = TableEntry(parts=dict(sorted(merged.items())))
    for (name, part), members in changes.stale.items():
        if name in updated and part in updated[name].parts:
            marked = updated[name].parts[part].model_copy(update={"stale": members or None})
            updated[name] = TableEntry(parts={**updated[name].parts, part: marked})
    return {name: entry for name, entry in updated.items() if entry.parts}


def write_table(root: Root, name: str, spec: Mapping[str, Any], table: pa.Table, part: str = "") -> TablePart:
    """Write one part of a table as one Parquet file with its receipt, to be committed through ``Changes.tables``.

    Parameters
    ----------
    root
        The store.
    name, part
        The table, and the part of it; ``""`` if the table has only one.
    spec
        The complete spec of the part.
    table
        Its rows.

    Raises
    ------
    InvalidKeyError
        If ``name`` is not acceptable as a name, or ``part`` not as a key.
    """
    root = StorePath.of(root)
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
        path=path.relative,
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


def table_receipt(name: str, part: str, spec_digest: str, spec: Mapping[str, Any], file: TableFile) -> bytes:
    """Return the content of the receipt beside a table file."""
    names = {"table": name, "part": part} if part else {"table": name}
    record = {**names, "spec": spec_digest, "recipe": spec, **file.model_dump()}
    return layout.seal(json.dumps(record, indent=1).encode())
