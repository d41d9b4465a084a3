"""Fix what a crash or a disk broke: adopt orphaned shards, restore receipts, rewrite sound rows, drop lost ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..commit import Changes, check_identity, commit, place_shard, shard_table, table_receipt, write_spec
from ..errors import StoreDamageError
from ..format import durable, layout, schemas, segments
from ..format.indexed import IndexedRows, IndexedShards, rows_by_shard
from ..format.inside import Root, StorePath
from ..format.manifest import (
    FeatureEntry,
    Manifest,
    SpecEntry,
    TableEntry,
    TablePart,
    newest_readable,
    publish,
    versions,
)
from ..format.receipts import read_receipt, read_spec, rebuild_receipt
from ..format.rows import Receipt
from ..format.segments import SegmentLog, open_segment
from ..format.shard import ShardReader, ShardWriter
from ..format.soundness import sound_rows
from .probe import container_problem, header_problem
from .verification import (
    Verification,
    check_segment,
    check_shard,
    check_spec_file,
    check_table,
    check_table_file,
    damaged_versions,
)


@dataclass(slots=True)
class Repair:
    """What ``repair`` did.

    ``continued_from`` is the newest version that could be read. What newer, ``damaged_versions`` had added to tables,
    failures and sources is not listed any more; their finished shards are adopted.
    """

    rebuilt_identity: bool = False
    damaged_versions: list[int] = field(default_factory=list)
    continued_from: int = 0
    adopted_shards: int = 0
    adopted_rows: int = 0
    salvaged_rows: int = 0
    dropped_rows: dict[str, list[str]] = field(default_factory=dict)
    dropped_tables: list[str] = field(default_factory=list)
    lost_specs: list[str] = field(default_factory=list)
    version: int = 0


class Adoption(NamedTuple):
    """What ``adopt`` committed, and the latest manifest after it."""

    manifest: Manifest
    shards: int
    rows: int


def orphans(root: Root, manifest: Manifest, wanted: Iterable[tuple[str, str]] = ()) -> list[Receipt]:
    """Return the receipts of finished, sound shards that this version does not name.

    The search covers the specs of the manifest, the (feature, spec digest) pairs in ``wanted``, and features that were
    never committed.
    """
    root = StorePath.of(root)
    listed_specs = {(name, digest) for name, feature in manifest.features.items() for digest in feature.specs}
    receipts = []
    for name, spec_digest in sorted(listed_specs | set(wanted) | _unclaimed(root, manifest)):
        directory = layout.feature_directory(root, name, spec_digest)
        if not directory.is_directory():
            continue
        shards = manifest.spec_entry(name, spec_digest).shards
        listed = {record["key"].hex() for record in SegmentLog(root, shards, schemas.SHARDS)}
        for path in directory.files(".json"):
            if path.stem in listed:
                continue
            try:
                receipt = read_receipt(path)
                if (receipt.feature, receipt.spec_digest, receipt.id) != (name, spec_digest, path.stem):
                    continue
                if header_problem(path.with_suffix(".h5")) is not None:
                    continue
                reader = ShardReader(path.with_suffix(".h5"), receipt, check_header=False)
            except StoreDamageError:
                continue
            if durable.file_digest(reader.path) == receipt.sha256 and sound_rows(reader, np.arange(receipt.rows)).all():
                receipts.append(receipt)
            reader.close()
    return receipts


def _unclaimed(root: StorePath, manifest: Manifest) -> set[tuple[str, str]]:
    """Return (feature, spec digest) of shard directories whose feature is in no manifest: their run died early."""
    digests = {path.stem[:8]: path.stem for path in (root / layout.SPECS).files(".json")}
    names = [path.name.rpartition("-") for path in (root / layout.FEATURES).directories()]
    return {(name, digests[prefix]) for name, _, prefix in names if name not in manifest.features and prefix in digests}


def adopt(root: Root, manifest: Manifest, wanted: Iterable[tuple[str, str]] = ()) -> Adoption:
    """Commit finished shards that a crash left unnamed.

    An orphan never overrides a committed row: a key that has a row keeps it. If that is true of all its keys (its
    writer lost a race), the orphan is listed without rows. Then it is not read again at every start, and does not bring
    back a key that is removed later.

    Parameters
    ----------
    root
        The store.
    manifest
        Its latest manifest.
    wanted
        (feature, spec digest) pairs to search in addition to those of the manifest.
    """
    changes = Changes()
    for receipt in orphans(root, manifest, wanted):
        entry = manifest.spec_entry(receipt.feature, receipt.spec_digest)
        rows = place_shard(root, receipt)
        known = SegmentLog(root, entry.index, schemas.INDEX).find(row.key.encode() for row in rows)
        placed = [row for row in rows if row.key.encode() not in known]
        if placed:
            changes.placed += placed
            changes.shards.append(receipt)
        else:
            changes.spent.append(receipt)
    if not changes:
        return Adoption(manifest, 0, 0)
    return Adoption(commit(root, changes), len(changes.shards), len(changes.placed))


def repair(root: Root) -> Repair:
    """Repair a damaged store.

    Specs, receipts and lists are restored from what is sound, orphaned shards are adopted, damaged shards are rewritten
    without their damaged rows, and damaged tables are dropped. Rows whose bytes are lost are dropped from the index, so
    that the next run computes them again.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    StoreDamageError
        If no manifest can be read.
    """
    root = StorePath.of(root)
    outcome = Repair(rebuilt_identity=_rebuild_identity(root))
    check_identity(root)
    damaged: dict[tuple[str, str], IndexedShards] = {}

    def build(latest: Manifest) -> Manifest | None:
        outcome.continued_from = latest.version
        damaged.clear()
        features = {}
        for name, feature in sorted(latest.features.items()):
            specs = {}
            for spec_digest, entry in feature.specs.items():
                if not _restore_spec(root, spec_digest):
                    outcome.lost_specs.append(f"{name}@{spec_digest}")
                    continue
                specs[spec_digest], damaged_shards = _without_damage(root, name, spec_digest, entry)
                if damaged_shards:
                    damaged[name, spec_digest] = damaged_shards
            if feature.current in specs:
                features[name] = FeatureEntry(current=feature.current, specs=specs)
        tables, outcome.dropped_tables = _restored_tables(root, latest)
        update: dict[str, Any] = {"features": features, "tables": tables}
        for log in ("sources", "failures"):
            update[log] = tuple(ref for ref in getattr(latest, log) if _sound(root, ref, log))
        successor = latest.model_copy(update=update)
        return None if successor == latest else successor

    manifest = publish(root, build, past_damage=True)
    outcome.damaged_versions = damaged_versions(root)
    for version in outcome.damaged_versions:
        durable.unlink(root / layout.VERSIONS / layout.version_file(version))
    for (name, spec_digest), shards in sorted(damaged.items()):
        for shard, rows in sorted(shards.items()):
            changes, lost = _salvage(root, name, spec_digest, shard, rows)
            manifest = commit(root, changes) if changes else manifest
            outcome.salvaged_rows += len(changes.placed)
            if lost:
                outcome.dropped_rows[name] = sorted([*outcome.dropped_rows.get(name, []), *lost])
    manifest, outcome.adopted_shards, outcome.adopted_rows = adopt(root, manifest)
    outcome.version = manifest.version
    return outcome


def _rebuild_identity(root: StorePath) -> bool:
    """Write a missing or unreadable ``store.json`` anew if there are versions, and return whether it was written."""
    identity = root / layout.IDENTITY
    try:
        record = json.loads(identity.read_bytes())
    except FileNotFoundError:
        record = None
    except (OSError, ValueError, RecursionError):
        if not identity.is_file():
            return False
        record = None
    named = isinstance(record, dict) and record.get("format") == layout.FORMAT
    if (named and isinstance(record.get("format_version"), int)) or not versions(root):
        return False
    record = {"format": layout.FORMAT, "format_version": newest_readable(root).format_version}
    durable.replace_file(identity, root / layout.STAGING / layout.new_id(), json.dumps(record).encode() + b"\n")
    return True


def _sound(root: StorePath, ref: segments.SegmentRef, log: str) -> bool:
    return check_segment(root, ref, log, Verification(0))


def _restore_spec(root: StorePath, spec_digest: str) -> bool:
    """Restore a missing or damaged spec from a receipt; return whether it can be read."""
    if check_spec_file(root, spec_digest, Verification(0)):
        return True
    for parent in (layout.FEATURES, layout.TABLES):
        folders = (root / parent).directories()
        for folder in [folder for folder in folders if folder.name.endswith(f"-{spec_digest[:8]}")]:
            for path in folder.files(".json"):
                if (spec := _recipe(path)) is not None and layout.digest(spec) == spec_digest:
                    write_spec(root, spec)
                    return True
    return False


def _recipe(receipt: StorePath) -> dict[str, Any] | None:
    """Return the spec that a receipt of a shard or table holds; None if it is damaged."""
    try:
        spec = json.loads(layout.unseal(receipt.read_bytes()))["recipe"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError, StoreDamageError):
        return None
    return spec if isinstance(spec, dict) else None


def _restored_tables(root: StorePath, manifest: Manifest) -> tuple[dict[str, TableEntry], list[str]]:
    """Return the tables with the parts that are sound or can be restored, and the names of the parts that are lost."""
    parts: dict[str, dict[str, TablePart]] = {}
    lost = []
    for name, part_name, part in manifest.table_parts():
        if _restore_part(root, name, part_name, part):
            parts.setdefault(name, {})[part_name] = part
        else:
            lost.append((name, part_name))
    for name, part_name in list(lost):  # what was committed together goes together
        pair = name.removesuffix(layout.MEMBERS) if name.endswith(layout.MEMBERS) else name + layout.MEMBERS
        if parts.get(pair, {}).pop(part_name, None) is not None:
            lost.append((pair, part_name))
    parts = {name: sound for name, sound in parts.items() if sound}
    kept = {name: manifest.tables[name].model_copy(update={"parts": sound}) for name, sound in parts.items()}
    return kept, [f"{name}/{part_name}" if part_name else name for name, part_name in sorted(lost)]


def _restore_part(root: StorePath, name: str, part_name: str, part: TablePart) -> bool:
    """Restore the spec and receipts of a table part; return whether its files are sound."""
    if not _restore_spec(root, part.spec_digest) or not all(
        check_table_file(root, file, Verification(0)) for file in part.files
    ):
        return False
    if not _part_is_sound(root, name, part_name, part):
        spec = read_spec(root, part.spec_digest)
        for file in part.files:
            receipt = table_receipt(name, part_name, part.spec_digest, spec, file)
            durable.replace_file(
                (root / file.path).with_suffix(".json"), root / layout.STAGING / layout.new_id(), receipt
            )
    return True


def _part_is_sound(root: StorePath, name: str, part_name: str, part: TablePart) -> bool:
    check = Verification(0)
    check_table(root, name, part_name, part, check)
    return check.ok


def _restore_receipt(path: StorePath, name: str, spec_digest: str, record: Mapping[str, Any]) -> None:
    """Rebuild the receipt of a listed shard, if the shard's file is still the one that was committed."""
    root = StorePath(path.root)
    try:
        if read_receipt(path.with_suffix(".json")).sha256 == record["sha256"].hex():
            return
    except StoreDamageError:
        pass
    if not path.is_file() or durable.file_digest(path) != record["sha256"].hex() or container_problem(path):
        return
    try:
        numerics = json.loads(record["numerics"])
    except (ValueError, RecursionError):
        return
    receipt = rebuild_receipt(path, name, spec_digest, read_spec(root, spec_digest), numerics)
    durable.replace_file(path.with_suffix(".json"), root / layout.STAGING / layout.new_id(), receipt.encode())


def _without_damage(root: StorePath, name: str, spec_digest: str, entry: SpecEntry) -> tuple[SpecEntry, IndexedShards]:
    """Return an entry that names sound shards only, and the rows of the damaged ones."""
    directory = layout.feature_directory(root, name, spec_digest)
    index_refs = [ref for ref in entry.index if _sound(root, ref, "index")]
    shard_refs = [ref for ref in entry.shards if _sound(root, ref, "shards")]
    records = {record["key"]: record for record in SegmentLog(root, shard_refs, schemas.SHARDS)}
    index = SegmentLog(root, index_refs, schemas.INDEX).table()
    whole = len(index_refs) == len(entry.index) and len(shard_refs) == len(entry.shards)
    if not whole:
        for path in directory.files(".json"):  # a list was lost: every finished shard counts again
            record = _record(path, name, spec_digest)
            if record is not None:
                records.setdefault(record["key"], record)
        index = _recovered(directory, [open_segment(root, ref, schemas.INDEX) for ref in index_refs], list(records))
    damaged = {}
    for shard, rows in sorted(rows_by_shard(index).items()):
        check = Verification(0)
        if shard in records:
            _restore_receipt(directory / f"{shard.hex()}.h5", name, spec_digest, records[shard])
            check_shard(root, name, spec_digest, records[shard], rows, True, check)
        if shard not in records or not check.ok:
            damaged[shard] = rows
    if whole and not damaged and index.num_rows == entry.rows:
        return entry, {}
    gone = pa.array(sorted(damaged), pa.binary(16))
    kept = index.filter(pc.invert(pc.is_in(index.column("shard"), value_set=gone)))
    listed = [record for shard, record in sorted(records.items()) if shard not in damaged]
    update = {
        "rows": kept.num_rows,
        "index": segments.append(root, layout.INDEX, (), kept),
        "shards": segments.append(root, layout.INDEX, (), pa.Table.from_pylist(listed, schema=schemas.SHARDS)),
    }
    return entry.model_copy(update=update), damaged


def _record(path: StorePath, name: str, spec_digest: str) -> dict[str, Any] | None:
    """Return the shard-list record of a finished shard, from its receipt; None if it is not sound."""
    try:
        receipt = read_receipt(path)
    except StoreDamageError:
        return None
    if (receipt.feature, receipt.spec_digest, receipt.id) != (name, spec_digest, path.stem):
        return None
    shard = path.with_suffix(".h5")
    if not shard.is_file() or durable.file_digest(shard) != receipt.sha256:
        return None
    record: dict[str, Any] = shard_table([receipt]).to_pylist()[0]
    return record


def _recovered(directory: StorePath, tables: list[pa.Table], shards: list[bytes]) -> pa.Table:
    """Rebuild an index that lost some of its segments, from the others and from the shards themselves.

    If a newer shard contains a key with other content, a lost segment may have moved the key there, so the newer row is
    taken. A removal that is still recorded stays.
    """
    files = {shard: directory / f"{shard.hex()}.h5" for shard in shards}
    written = {shard: path.status().st_mtime_ns for shard, path in files.items() if path.is_file()}
    chosen: dict[bytes, tuple[float, dict[str, Any]]] = {}
    for record in segments.merge(tables, drop_removed=False).to_pylist() if tables else []:
        chosen[record["key"]] = (math.inf if record["removed"] else written.get(record["shard"], math.inf), record)
    for shard in sorted(written, key=lambda shard: (written[shard], shard)):
        try:
            reader = ShardReader(files[shard], read_receipt(files[shard].with_suffix(".json")), check_header=False)
        except StoreDamageError:
            continue
        sound = sound_rows(reader, np.arange(reader.receipt.rows))
        for row in np.flatnonzero(sound).tolist():
            key, cache_key = reader.key(row).encode(), reader.cache_key(row)
            since, present = chosen.get(key, (-math.inf, {"cache_key": b""}))
            if since < written[shard] and present["cache_key"] != cache_key:
                record = {"key": key, "shard": shard, "row": row, "cache_key": cache_key, "removed": False}
                chosen[key] = (written[shard], record)
        reader.close()
    live = [record for _, (_, record) in sorted(chosen.items()) if not record["removed"]]
    return pa.Table.from_pylist(live, schema=schemas.INDEX)


def _salvage(
    root: StorePath, name: str, spec_digest: str, shard: bytes, rows: IndexedRows
) -> tuple[Changes, list[str]]:
    """Copy the sound rows of a damaged shard into a new one; return the changes to commit and the keys lost."""
    path = layout.feature_directory(root, name, spec_digest) / f"{shard.hex()}.h5"
    try:
        receipt = read_receipt(path.with_suffix(".json"))
        reader = ShardReader(path, receipt, check_header=False)
    except StoreDamageError:
        return Changes(), [row.key for row in rows]
    writer = ShardWriter(root, name, spec_digest, receipt.numerics)
    aliases: dict[str, list[str]] = {}
    first_key: dict[int, str] = {}
    lost = []
    for key, number, cache_key in rows:
        if number in first_key:
            aliases[first_key[number]].append(key)
        elif number < receipt.rows and reader.row_is_sound(number):
            first_key[number] = key
            aliases[key] = []
            writer.add(reader.row(number, key, cache_key))
        else:
            lost.append(key)
    if not first_key:
        return Changes(), lost
    salvaged = writer.finish(receipt.rounding)
    reader.close()
    return Changes(placed=place_shard(root, salvaged, aliases), shards=[salvaged]), lost
