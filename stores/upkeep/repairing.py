"""Fixing what a crash or a disk broke: adopt orphaned shards, restore receipts, rewrite sound rows, drop lost ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..commit import Changes, check_identity, commit, place_shard, shard_table, table_receipt, write_spec
from ..errors import StoreDamageError
from ..format import durable, layout, schemas, segments
from ..format.manifest import FeatureEntry, Manifest, SpecEntry, TableEntry, TablePart, publish
from ..format.rows import Receipt
from ..format.segments import SegmentLog, open_segment
from ..format.shard import ShardReader, ShardWriter, read_receipt, read_spec, rebuild_receipt
from .verification import (
    Named,
    Verification,
    check_file,
    check_recipe,
    check_shard,
    check_table,
    damaged_versions,
    keys_by_shard,
)


@dataclass(slots=True)
class Repair:
    """What :func:`repair` did."""

    adopted_shards: int = 0
    adopted_rows: int = 0
    salvaged_rows: int = 0
    dropped_rows: dict[str, list[str]] = field(default_factory=dict)
    dropped_tables: list[str] = field(default_factory=list)
    lost_specs: list[str] = field(default_factory=list)
    version: int = 0


def orphans(root: Path, manifest: Manifest, wanted: Iterable[tuple[str, str]] = ()) -> list[Receipt]:
    """Receipts of finished, sound shards that this version does not name.

    Looked for under the specs of the manifest, under ``wanted`` (feature, spec digest) pairs, and under
    features that no commit has reached yet.
    """
    homes = {(name, spec) for name, feature in manifest.features.items() for spec in feature.specs}
    found = []
    for name, spec in sorted(homes | set(wanted) | _unclaimed(root, manifest)):
        directory = layout.feature_directory(root, name, spec)
        if not directory.is_dir():
            continue
        shards = manifest.spec_entry(name, spec).shards
        listed = {record["key"].hex() for record in SegmentLog(root, shards, schemas.SHARDS)}
        for path in sorted(directory.glob("*.json")):
            if path.stem in listed:
                continue
            try:
                receipt = read_receipt(path)
                if (receipt.feature, receipt.spec_digest, receipt.id) != (name, spec, path.stem):
                    continue
                reader = ShardReader(path.with_suffix(".h5"), receipt)
            except StoreDamageError:
                continue
            if durable.file_digest(reader.path) == receipt.sha256 and not reader.problems():
                found.append(receipt)
            reader.close()
    return found


def _unclaimed(root: Path, manifest: Manifest) -> set[tuple[str, str]]:
    """(feature, spec) of shard directories whose feature is in no manifest: their run died early."""
    specs = {path.stem[:8]: path.stem for path in (root / layout.SPECS).glob("*.json")}
    names = [path.name.rpartition("-") for path in (root / layout.FEATURES).iterdir() if path.is_dir()]
    return {(name, specs[prefix]) for name, _, prefix in names if name not in manifest.features and prefix in specs}


def adopt(root: Path, manifest: Manifest, wanted: Iterable[tuple[str, str]] = ()) -> tuple[Manifest, int, int]:
    """Commit finished shards that a crash left unnamed; return (manifest, shards, rows) adopted.

    A key that has a row by now keeps it: an orphan never overrides a committed row. An orphan of such
    keys only (its writer lost a race) is listed without rows, so that it is not read again at every
    start, and does not bring a key back that is removed later.
    """
    changes = Changes()
    for receipt in orphans(root, manifest, wanted):
        entry = manifest.spec_entry(receipt.feature, receipt.spec_digest)
        index = SegmentLog(root, entry.index, schemas.INDEX)
        placed = [row for row in place_shard(root, receipt) if index.get(row.key.encode()) is None]
        if placed:
            changes.placed += placed
            changes.shards.append(receipt)
        else:
            changes.spent.append(receipt)
    if not changes:
        return manifest, 0, 0
    return commit(root, changes), len(changes.shards), len(changes.placed)


def repair(root: Path) -> Repair:
    """Make a damaged store whole: restore specs, receipts and listings from what is sound, adopt
    orphaned shards, rewrite damaged ones without their bad rows, drop damaged tables.

    Rows whose bytes are gone are dropped from the index, so that the next run computes them again.
    """
    root = root.absolute()
    check_identity(root)
    outcome = Repair()
    damaged: dict[tuple[str, str], Named] = {}

    def build(latest: Manifest) -> Manifest | None:
        damaged.clear()
        features = {}
        for name, feature in sorted(latest.features.items()):
            specs = {}
            for spec, entry in feature.specs.items():
                if not _restore_spec(root, spec):
                    outcome.lost_specs.append(f"{name}@{spec}")
                    continue
                specs[spec], bad = _without_damage(root, name, spec, entry)
                if bad:
                    damaged[name, spec] = bad
            if feature.current in specs:
                features[name] = FeatureEntry(current=feature.current, specs=specs)
        tables, outcome.dropped_tables = _restored_tables(root, latest)
        update: dict[str, Any] = {"features": features, "tables": tables}
        for log in ("sources", "failures"):
            update[log] = tuple(ref for ref in getattr(latest, log) if _sound(root, ref))
        successor = latest.model_copy(update=update)
        return None if successor == latest else successor

    manifest = publish(root, build, past_damage=True)
    for version in damaged_versions(root):
        durable.unlink(root / layout.VERSIONS / layout.version_file(version))
    for (name, spec), shards in sorted(damaged.items()):
        for shard, named in sorted(shards.items()):
            changes, lost = _salvage(root, name, spec, shard, named)
            manifest = commit(root, changes) if changes else manifest
            outcome.salvaged_rows += len(changes.placed)
            if lost:
                outcome.dropped_rows[name] = sorted([*outcome.dropped_rows.get(name, []), *lost])
    manifest, outcome.adopted_shards, outcome.adopted_rows = adopt(root, manifest)
    outcome.version = manifest.version
    return outcome


def _sound(root: Path, ref: segments.SegmentRef) -> bool:
    return check_file(root, ref.path, ref.bytes, ref.sha256, Verification(0))


def _restore_spec(root: Path, spec: str) -> bool:
    """See that a spec can be read, from the recipe in a receipt if need be."""
    if check_recipe(root, spec, Verification(0)):
        return True
    for house in (layout.FEATURES, layout.TABLES):
        for path in sorted((root / house).glob(f"*-{spec[:8]}/*.json")):
            try:
                recipe = json.loads(layout.unseal(path.read_bytes()))["recipe"]
            except (OSError, ValueError, KeyError):
                continue
            if layout.digest(recipe) == spec:
                write_spec(root, recipe)
                return True
    return False


def _restored_tables(root: Path, manifest: Manifest) -> tuple[dict[str, TableEntry], list[str]]:
    """The tables with the parts that are sound or can be made so, and the names of those that are lost."""
    parts: dict[str, dict[str, TablePart]] = {}
    lost = []
    for name, part_name, part in manifest.table_parts():
        if _restore_part(root, name, part_name, part):
            parts.setdefault(name, {})[part_name] = part
        else:
            lost.append(f"{name}/{part_name}" if part_name else name)
    kept = {name: manifest.tables[name].model_copy(update={"parts": found}) for name, found in parts.items()}
    return kept, lost


def _restore_part(root: Path, name: str, part_name: str, part: TablePart) -> bool:
    if not _restore_spec(root, part.spec_digest) or not all(
        check_file(root, file.path, file.bytes, file.sha256, Verification(0)) for file in part.files
    ):
        return False
    if not _part_is_sound(root, name, part_name, part):
        recipe = read_spec(root, part.spec_digest)
        for file in part.files:
            receipt = table_receipt(name, part_name, part.spec_digest, recipe, file)
            durable.replace_file(
                (root / file.path).with_suffix(".json"), root / layout.STAGING / layout.new_id(), receipt
            )
    return True


def _part_is_sound(root: Path, name: str, part_name: str, part: TablePart) -> bool:
    check = Verification(0)
    check_table(root, name, part_name, part, check)
    return check.ok


def _restore_receipt(path: Path, name: str, spec: str, record: Mapping[str, Any]) -> None:
    """Rebuild the receipt of a listed shard whose own file is still the one that was committed."""
    root = path.parents[2]
    try:
        if read_receipt(path.with_suffix(".json")).sha256 == record["sha256"].hex():
            return
    except StoreDamageError:
        pass
    if not path.is_file() or durable.file_digest(path) != record["sha256"].hex():
        return
    receipt = rebuild_receipt(path, name, spec, read_spec(root, spec), json.loads(record["numerics"]))
    durable.replace_file(path.with_suffix(".json"), root / layout.STAGING / layout.new_id(), receipt.encode())


def _without_damage(root: Path, name: str, spec: str, entry: SpecEntry) -> tuple[SpecEntry, Named]:
    """An entry that names sound shards only, and what the damaged ones held."""
    directory = layout.feature_directory(root, name, spec)
    index_refs = [ref for ref in entry.index if _sound(root, ref)]
    shard_refs = [ref for ref in entry.shards if _sound(root, ref)]
    records = {record["key"]: record for record in SegmentLog(root, shard_refs, schemas.SHARDS)}
    index = SegmentLog(root, index_refs, schemas.INDEX).table()
    whole = len(index_refs) == len(entry.index) and len(shard_refs) == len(entry.shards)
    if not whole:
        for path in sorted(directory.glob("*.json")):  # listings lost: every finished shard counts again
            record = _record(path, name, spec)
            if record is not None:
                records.setdefault(record["key"], record)
        index = _recovered(directory, [open_segment(root, ref) for ref in index_refs], list(records))
    damaged = {}
    for shard, named in sorted(keys_by_shard(index).items()):
        check = Verification(0)
        if shard in records:
            _restore_receipt(directory / f"{shard.hex()}.h5", name, spec, records[shard])
            check_shard(root, name, spec, records[shard], named, True, check)
        if shard not in records or not check.ok:
            damaged[shard] = named
    if whole and not damaged:
        return entry, {}
    kept = index.filter(pa.array([shard not in damaged for shard in index.column("shard").to_pylist()], pa.bool_()))
    listed = [record for shard, record in sorted(records.items()) if shard not in damaged]
    update = {
        "rows": kept.num_rows,
        "index": segments.append(root, layout.INDEX, (), kept),
        "shards": segments.append(root, layout.INDEX, (), pa.Table.from_pylist(listed, schema=schemas.SHARDS)),
    }
    return entry.model_copy(update=update), damaged


def _record(path: Path, name: str, spec: str) -> dict[str, Any] | None:
    """The shard-list record of a finished shard, from its receipt."""
    try:
        receipt = read_receipt(path)
    except StoreDamageError:
        return None
    if (receipt.feature, receipt.spec_digest, receipt.id) != (name, spec, path.stem):
        return None
    shard = path.with_suffix(".h5")
    if not shard.is_file() or durable.file_digest(shard) != receipt.sha256:
        return None
    record: dict[str, Any] = shard_table([receipt]).to_pylist()[0]
    return record


def _recovered(directory: Path, tables: list[pa.Table], shards: list[bytes]) -> pa.Table:
    """The index after some of its segments were lost: what the others say, and what the shards hold.

    A key of which a newer shard holds other content may have moved there in a lost segment; a removal
    that is still recorded stands.
    """
    files = {shard: directory / f"{shard.hex()}.h5" for shard in shards}
    written = {shard: path.stat().st_mtime_ns for shard, path in files.items() if path.is_file()}
    chosen: dict[bytes, tuple[float, dict[str, Any]]] = {}
    for record in segments.merge(tables, drop_removed=False).to_pylist() if tables else []:
        chosen[record["key"]] = (math.inf if record["removed"] else written.get(record["shard"], math.inf), record)
    for shard in sorted(written, key=lambda shard: (written[shard], shard)):
        try:
            reader = ShardReader(files[shard], read_receipt(files[shard].with_suffix(".json")), check_header=False)
        except StoreDamageError:
            continue
        for row in range(reader.receipt.rows):
            if not reader.row_is_sound(row):
                continue
            key, cache_key = reader.key(row).encode(), reader.cache_key(row)
            since, present = chosen.get(key, (-math.inf, {"cache_key": b""}))
            if since < written[shard] and present["cache_key"] != cache_key:
                found = {"key": key, "shard": shard, "row": row, "cache_key": cache_key, "removed": False}
                chosen[key] = (written[shard], found)
        reader.close()
    live = [record for _, (_, record) in sorted(chosen.items()) if not record["removed"]]
    return pa.Table.from_pylist(live, schema=schemas.INDEX)


def _salvage(
    root: Path, name: str, spec: str, shard: bytes, named: list[tuple[str, int, bytes]]
) -> tuple[Changes, list[str]]:
    """Copy the sound rows of a damaged shard into a new one; return its placement and the keys lost."""
    path = layout.feature_directory(root, name, spec) / f"{shard.hex()}.h5"
    try:
        receipt = read_receipt(path.with_suffix(".json"))
        reader = ShardReader(path, receipt, check_header=False)
    except StoreDamageError:
        return Changes(), [key for key, _, _ in named]
    writer = ShardWriter(root, name, spec, receipt.numerics)
    aliases: dict[str, list[str]] = {}
    first: dict[int, str] = {}
    lost = []
    for key, row, cache_key in named:
        if row in first:
            aliases[first[row]].append(key)
        elif row < receipt.rows and reader.row_is_sound(row):
            first[row] = key
            aliases[key] = []
            writer.add(reader.row(row, key, cache_key))
        else:
            lost.append(key)
    if not first:
        return Changes(), lost
    salvaged = writer.finish(receipt.rounding)
    reader.close()
    return Changes(placed=place_shard(root, salvaged, aliases), shards=[salvaged]), lost
