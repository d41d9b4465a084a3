"""Checking a store against its own receipts and digests: manifests, specs, tables, segments, shards, rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ..commit import check_identity, table_receipt
from ..errors import StoreDamageError, StoreNotFoundError
from ..format import durable, layout, schemas
from ..format.manifest import SpecEntry, TablePart, load, versions
from ..format.rows import Receipt
from ..format.segments import SegmentLog
from ..format.shard import ShardReader, read_receipt, read_spec

Named = dict[bytes, list[tuple[str, int, bytes]]]  # shard -> (key, row, cache key) that the index names


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

    Every row's bytes are compared with its digests. ``deep`` also hashes whole files (a flipped bit
    in a header or in padding counts too), re-parses HDF5 headers, checks that cache keys and index
    agree, and reads the manifests of all other versions.
    """
    root = root.absolute()
    check_identity(root)
    number = versions(root)[-1] if version is None and versions(root) else version
    try:
        manifest = load(root, number)
    except StoreDamageError as error:
        damaged = Problem(f"{layout.VERSIONS}/{layout.version_file(number or 0)}", str(error))
        return Verification(number or 0, problems=[damaged])
    result = Verification(manifest.version)
    if deep:
        for other in damaged_versions(root):
            result.problems.append(Problem(f"{layout.VERSIONS}/{layout.version_file(other)}", "not a sound manifest"))
    for ref in (*manifest.failures, *manifest.sources):
        check_file(root, ref.path, ref.bytes, ref.sha256, result)
    for name, part_name, part in manifest.table_parts():
        check_table(root, name, part_name, part, result)
    for name, feature in sorted(manifest.features.items()):
        for spec, entry in sorted(feature.specs.items()):
            check_spec(root, name, spec, entry, deep, result)
    return result


def damaged_versions(root: Path) -> list[int]:
    """The versions whose manifest is not as it was published."""
    damaged = []
    for version in versions(root):
        try:
            load(root, version)
        except StoreNotFoundError:  # gc was here
            continue
        except StoreDamageError:
            damaged.append(version)
    return damaged


def check_recipe(root: Path, spec: str, result: Verification) -> dict[str, Any] | None:
    try:
        return read_spec(root, spec)
    except StoreDamageError as error:
        result.problems.append(Problem(f"{layout.SPECS}/{spec}.json", str(error)))
        return None


def check_table(root: Path, name: str, part: str, entry: TablePart, result: Verification) -> bool:
    recipe = check_recipe(root, entry.spec_digest, result)
    sound = [check_file(root, file.path, file.bytes, file.sha256, result) for file in entry.files]
    for file in entry.files:
        path = PurePosixPath(file.path).with_suffix(".json")
        beside = root / path
        expected = table_receipt(name, part, entry.spec_digest, recipe, file) if recipe else None
        if expected and (not beside.is_file() or beside.read_bytes() != expected):
            result.problems.append(Problem(str(path), "the table's receipt is missing or damaged"))
    return all(sound)


def check_file(root: Path, path: str, size: int, sha256: str, result: Verification) -> bool:
    file = root / path
    try:
        found = file.stat().st_size
        if found != size:
            result.problems.append(Problem(path, f"{found} bytes, the manifest says {size}"))
        elif durable.file_digest(file) != sha256:
            result.problems.append(Problem(path, "its sha256 differs from the manifest's"))
        else:
            result.bytes += size
            return True
    except OSError as error:
        result.problems.append(Problem(path, f"not readable ({error.strerror})"))
    return False


def check_spec(root: Path, name: str, spec: str, entry: SpecEntry, deep: bool, result: Verification) -> None:
    check_recipe(root, spec, result)
    sound = [check_file(root, ref.path, ref.bytes, ref.sha256, result) for ref in (*entry.index, *entry.shards)]
    if not all(sound):
        return
    shards = {record["key"]: record for record in SegmentLog(root, entry.shards, schemas.SHARDS)}
    index = SegmentLog(root, entry.index, schemas.INDEX).table()
    if index.num_rows != entry.rows:
        result.problems.append(
            Problem(f"{name}@{spec[:8]}", f"index has {index.num_rows} rows, manifest says {entry.rows}")
        )
    named = keys_by_shard(index)
    for shard in sorted(named):
        if shard in shards:
            check_shard(root, name, spec, shards[shard], named[shard], deep, result)
        else:
            keys = [key for key, _, _ in named[shard]]
            result.problems.append(
                Problem(f"{name}@{spec[:8]}", f"key {keys[0]!r}: its shard {shard.hex()} is not listed", keys[0])
            )


def keys_by_shard(index: pa.Table) -> Named:
    named: Named = {}
    columns = (index.column(name).to_pylist() for name in ("shard", "key", "row", "cache_key"))
    for shard, key, row, cache_key in zip(*columns, strict=True):
        named.setdefault(shard, []).append((key.decode("utf-8"), row, cache_key))
    return named


def check_shard(
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
        reader = ShardReader(path, receipt, check_header=False)
    except StoreDamageError as error:
        keys = ", ".join(repr(key) for key, _, _ in named[:3]) + (", …" if len(named) > 3 else "")
        result.problems.append(Problem(relative, f"{error} ({len(named)} keys: {keys})"))
        return
    result.shards += 1
    result.rows += len(named)
    result.bytes += receipt.bytes
    outside = sorted({row for _, row, _ in named if row >= receipt.rows})
    for row in outside:
        result.problems.append(Problem(relative, f"has {receipt.rows} rows, the index names row {row}"))
    damaged = {row for row in {row for _, row, _ in named if row < receipt.rows} if not reader.row_is_sound(row)}
    for key, row, cache_key in named:
        if row in damaged:
            result.problems.append(Problem(relative, f"row {row}, key {key!r}: bytes differ from the row digest", key))
        elif deep and row < receipt.rows and reader.cache_key(row) != cache_key:
            result.problems.append(Problem(relative, f"row {row}, key {key!r}: cache key differs from the index", key))
    if deep and not damaged:
        if (receipt.id, receipt.feature, receipt.spec_digest, receipt.sha256) != (
            path.stem,
            name,
            spec,
            record["sha256"].hex(),
        ):
            result.problems.append(Problem(relative, "its receipt is not the one that was committed"))
        elif durable.file_digest(path) != receipt.sha256:
            result.problems.append(
                Problem(relative, "a bit outside the rows changed (sha256 differs from the receipt)")
            )
        else:
            _check_placement(path, receipt, relative, result)
    reader.close()


def _check_placement(path: Path, receipt: Receipt, relative: str, result: Verification) -> None:
    try:
        ShardReader(path, receipt).close()
    except StoreDamageError as error:
        result.problems.append(Problem(relative, str(error)))


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
