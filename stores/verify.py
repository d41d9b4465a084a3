"""Checking a store against its own receipts and digests, and mending what a crash or a disk broke."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from stores import durable, layout, schemas, segments
from stores.commit import Changes, check_identity, commit, place_shard
from stores.errors import StoreDamageError
from stores.manifest import FeatureEntry, Manifest, SpecEntry, load, publish
from stores.rows import Receipt
from stores.segments import SegmentLog, open_segment
from stores.shard import ShardReader, ShardWriter, read_receipt


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the file, what is wrong with it, and the key when it is one row."""

    file: str
    message: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(slots=True)
class Verification:
    """The outcome of :func:`verify`."""

    version: int
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(root: Path, deep: bool = False, version: int | None = None) -> Verification:
    """Check every segment, receipt, shard and row of a version.

    Every row's bytes are compared with its digest. ``deep`` also hashes whole files (a flipped bit
    in a header or in padding counts too), re-parses HDF5 headers, and checks that keys, cache keys
    and index agree.
    """
    root = root.absolute()
    check_identity(root)
    manifest = load(root, version)
    result = Verification(manifest.version)
    for ref in (*manifest.failures, *manifest.sources):
        _check_segment(root, ref, deep, result)
    for table in manifest.tables.values():
        for file in table.files:
            _check_file(root, file.path, file.bytes, file.sha256, result)
    for name, feature in sorted(manifest.features.items()):
        for spec, entry in sorted(feature.specs.items()):
            _check_spec(root, name, spec, entry, deep, result)
    return result


def _check_segment(root: Path, ref: segments.SegmentRef, deep: bool, result: Verification) -> bool:
    if deep:
        return _check_file(root, ref.path, ref.bytes, ref.sha256, result)
    try:
        open_segment(root, ref)
    except StoreDamageError as error:
        result.problems.append(Problem(ref.path, str(error)))
        return False
    return True


def _check_file(root: Path, path: str, size: int, sha256: str, result: Verification) -> bool:
    file = root / path
    if not file.is_file():
        result.problems.append(Problem(path, "missing"))
    elif file.stat().st_size != size:
        result.problems.append(Problem(path, f"{file.stat().st_size} bytes, the manifest says {size}"))
    elif durable.file_digest(file) != sha256:
        result.problems.append(Problem(path, "its sha256 differs from the manifest's"))
    else:
        result.bytes += size
        return True
    return False


def _check_spec(root: Path, name: str, spec: str, entry: SpecEntry, deep: bool, result: Verification) -> None:
    spec_path = root / layout.SPECS / f"{spec}.json"
    try:
        if layout.digest(json.loads(spec_path.read_bytes())) != spec:
            result.problems.append(Problem(f"{layout.SPECS}/{spec}.json", "its content has another digest"))
    except (OSError, ValueError) as error:
        result.problems.append(Problem(f"{layout.SPECS}/{spec}.json", f"not readable ({error})"))
    sound = [_check_segment(root, ref, deep, result) for ref in (*entry.index, *entry.shards)]
    if not all(sound):
        return
    shards = {record["key"]: record for record in SegmentLog(root, entry.shards, schemas.SHARDS)}
    index = SegmentLog(root, entry.index, schemas.INDEX).table()
    if index.num_rows != entry.rows:
        result.problems.append(
            Problem(f"{name}@{spec[:8]}", f"index has {index.num_rows} rows, manifest says {entry.rows}")
        )
    named = _keys_by_shard(index)
    for shard in sorted(named):
        if shard in shards:
            _check_shard(root, name, spec, shards[shard], named[shard], deep, result)
        else:
            keys = [key for key, _, _ in named[shard]]
            result.problems.append(
                Problem(f"{name}@{spec[:8]}", f"key {keys[0]!r}: its shard {shard.hex()} is not listed", keys[0])
            )


def _keys_by_shard(index: pa.Table) -> dict[bytes, list[tuple[str, int, bytes]]]:
    named: dict[bytes, list[tuple[str, int, bytes]]] = {}
    columns = (index.column(name).to_pylist() for name in ("shard", "key", "row", "cache_key"))
    for shard, key, row, cache_key in zip(*columns, strict=True):
        named.setdefault(shard, []).append((key.decode("utf-8"), row, cache_key))
    return named


def _check_shard(
    root: Path,
    name: str,
    spec: str,
    record: dict[str, Any],
    named: list[tuple[str, int, bytes]],
    deep: bool,
    result: Verification,
) -> None:
    path = layout.feature_directory(root, name, spec) / f"{record['key'].hex()}.h5"
    relative = path.relative_to(root).as_posix()
    try:
        receipt = read_receipt(path.with_suffix(".json"))
        reader = ShardReader(path, receipt, check_header=deep)
    except StoreDamageError as error:
        keys = ", ".join(repr(key) for key, _, _ in named[:3]) + (", …" if len(named) > 3 else "")
        result.problems.append(Problem(relative, f"{error} ({len(named)} keys: {keys})"))
        return
    result.shards += 1
    result.rows += len(named)
    result.bytes += receipt.bytes
    damaged = {row for row in sorted({row for _, row, _ in named}) if not reader.row_is_sound(row)}
    for key, row, cache_key in named:
        if row in damaged:
            result.problems.append(Problem(relative, f"row {row}, key {key!r}: bytes differ from the row digest", key))
        elif deep and reader.cache_key(row) != cache_key:
            result.problems.append(Problem(relative, f"row {row}, key {key!r}: cache key differs from the index", key))
    if deep and not damaged:
        if receipt.sha256 != record["sha256"].hex():
            result.problems.append(Problem(relative, "its receipt is not the one that was committed"))
        elif durable.file_digest(path) != receipt.sha256:
            result.problems.append(
                Problem(relative, "a bit outside the rows changed (sha256 differs from the receipt)")
            )
    reader.close()


@dataclass(slots=True)
class Repair:
    """What :func:`repair` did."""

    adopted_shards: int = 0
    adopted_rows: int = 0
    salvaged_rows: int = 0
    dropped_rows: dict[str, list[str]] = field(default_factory=dict)
    version: int = 0


def orphans(root: Path, manifest: Manifest) -> list[Receipt]:
    """Receipts of finished, sound shards of known specs that this version does not name."""
    found = []
    for name, feature in sorted(manifest.features.items()):
        for spec, entry in sorted(feature.specs.items()):
            directory = layout.feature_directory(root, name, spec)
            if not directory.is_dir():
                continue
            listed = {record["key"].hex() for record in SegmentLog(root, entry.shards, schemas.SHARDS)}
            for path in sorted(directory.glob("*.json")):
                if path.stem in listed:
                    continue
                try:
                    receipt = read_receipt(path)
                    if (receipt.feature, receipt.spec, receipt.id) != (name, spec, path.stem):
                        continue
                    reader = ShardReader(path.with_suffix(".h5"), receipt)
                except StoreDamageError:
                    continue
                if durable.file_digest(reader.path) == receipt.sha256 and not reader.problems():
                    found.append(receipt)
                reader.close()
    return found


def adopt(root: Path, manifest: Manifest) -> tuple[Manifest, int, int]:
    """Commit finished shards that a crash left unnamed; return (manifest, shards, rows) adopted.

    A key that has a row by now keeps it: an orphan never overrides a committed row.
    """
    changes = Changes()
    shards: set[str] = set()
    for receipt in orphans(root, manifest):
        entry = manifest.spec_entry(receipt.feature, receipt.spec)
        index = SegmentLog(root, entry.index, schemas.INDEX)
        placed = [row for row in place_shard(root, receipt) if index.get(row.key.encode()) is None]
        if placed:
            changes.placed += placed
            changes.shards.append(receipt)
            shards.add(receipt.id)
    if not changes:
        return manifest, 0, 0
    return commit(root, changes), len(shards), len(changes.placed)


def repair(root: Path) -> Repair:
    """Make a damaged store whole: adopt orphaned shards, rewrite damaged ones without their bad rows.

    Rows whose bytes are gone are dropped from the index, so that the next run computes them again.
    """
    root = root.absolute()
    check_identity(root)
    outcome = Repair()
    damaged: dict[tuple[str, str], dict[bytes, list[tuple[str, int, bytes]]]] = {}

    def build(latest: Manifest) -> Manifest | None:
        damaged.clear()
        features = {}
        for name, feature in sorted(latest.features.items()):
            specs = {}
            for spec, entry in feature.specs.items():
                specs[spec], bad = _without_damage(root, name, spec, entry)
                if bad:
                    damaged[name, spec] = bad
            features[name] = FeatureEntry(current=feature.current, specs=specs)
        update: dict[str, Any] = {"features": features}
        for log, schema in (("sources", schemas.SOURCES), ("failures", schemas.FAILURES)):
            update[log] = tuple(ref for ref in getattr(latest, log) if _readable(root, ref, schema))
        successor = latest.model_copy(update=update)
        return None if successor == latest else successor

    manifest = publish(root, build)
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


def _readable(root: Path, ref: segments.SegmentRef, schema: pa.Schema) -> bool:
    try:
        sound = bool(open_segment(root, ref).schema.equals(schema))
    except StoreDamageError:
        return False
    return sound and durable.file_digest(root / ref.path) == ref.sha256


def _without_damage(
    root: Path, name: str, spec: str, entry: SpecEntry
) -> tuple[SpecEntry, dict[bytes, list[tuple[str, int, bytes]]]]:
    """An entry that names sound shards only, and what the damaged ones held."""
    index_refs = [ref for ref in entry.index if _readable(root, ref, schemas.INDEX)]
    shard_refs = [ref for ref in entry.shards if _readable(root, ref, schemas.SHARDS)]
    shards = SegmentLog(root, shard_refs, schemas.SHARDS).table()
    records = {record["key"]: record for record in shards.to_pylist()}
    index = SegmentLog(root, index_refs, schemas.INDEX).table()
    damaged = {}
    for shard, named in sorted(_keys_by_shard(index).items()):
        check = Verification(0)
        if shard in records:
            _check_shard(root, name, spec, records[shard], named, True, check)
        if shard not in records or not check.ok:
            damaged[shard] = named
    if not damaged and len(index_refs) == len(entry.index) and len(shard_refs) == len(entry.shards):
        return entry, {}
    kept = index.filter(pa.array([shard not in damaged for shard in index.column("shard").to_pylist()], pa.bool_()))
    used = set(kept.column("shard").to_pylist())  # a shard that lost its index rows becomes an orphan
    shards = shards.filter(pa.array([shard in used for shard in shards.column("key").to_pylist()], pa.bool_()))
    update = {
        "rows": kept.num_rows,
        "index": segments.append(root, layout.INDEX, (), kept),
        "shards": segments.append(root, layout.INDEX, (), shards),
    }
    return entry.model_copy(update=update), damaged


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
    salvaged = writer.finish()
    reader.close()
    return Changes(placed=place_shard(root, salvaged, aliases), shards=[salvaged]), lost


def summary(result: Verification) -> dict[str, Any]:
    """A JSON-able account of a verification."""
    files = Counter(problem.file for problem in result.problems)
    return {
        "version": result.version,
        "ok": result.ok,
        "shards": result.shards,
        "rows": result.rows,
        "bytes": result.bytes,
        "damaged_files": dict(sorted(files.items())),
        "problems": [{"file": p.file, "key": p.key, "message": p.message} for p in result.problems],
    }
