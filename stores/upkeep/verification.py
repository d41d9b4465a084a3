"""Check a store against its own receipts and digests: manifests, specs, tables, segments, shards, rows."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from ..commit import check_identity, table_receipt
from ..errors import StoreDamageError, StoreNotFoundError
from ..format import MediaDamage, durable, layout, media_damage, schemas
from ..format.indexed import IndexedRows, rows_by_shard
from ..format.inside import Root, StorePath
from ..format.manifest import SpecEntry, TableFile, TablePart, load, versions
from ..format.receipts import read_receipt, read_spec
from ..format.rows import Array
from ..format.segments import SegmentLog, SegmentRef
from ..format.shard import ShardReader
from ..format.soundness import sound_rows
from ..progress import Progress, followed, silent
from ..wording import first_few
from .probe import header_problem, segment_problem, table_problem


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the file, what is wrong with it, and the key if it concerns one row."""

    file: str
    message: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass(slots=True)
class Verification:
    """Result of ``verify``: what was checked, the problems found, and what the rows say about their videos."""

    version: int
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    media_damage: MediaDamage = field(default_factory=MediaDamage)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


class ProblemSummary(TypedDict):
    """A problem as JSON."""

    file: str
    key: str | None
    message: str


class VerificationSummary(TypedDict):
    """A verification as JSON. ``damaged_files`` counts the problems per file."""

    version: int
    ok: bool
    shards: int
    rows: int
    bytes: int
    media_damage: dict[str, int]
    damaged_files: dict[str, int]
    problems: list[ProblemSummary]


def verify(root: Root, deep: bool = False, version: int | None = None, progress: Progress = silent) -> Verification:
    """Check every segment, receipt, shard and row of a version.

    The bytes of every row are compared with its digests.

    Parameters
    ----------
    root
        The store.
    deep
        Also hash whole files (which finds a flipped bit in a header or in padding), read HDF5 headers, compare cache
        keys with the index, and read the manifests of all other versions.
    version
        The version to check; by default the latest.
    progress
        Told of the tables and of the shards of each feature.

    Raises
    ------
    StoreNotFoundError
        If there is no store or no such version.
    StoreFormatError
        If it was written by a newer Reelstore.
    """
    root = check_identity(root)
    strange = _strangers(root)
    number = version
    try:
        number = versions(root)[-1] if version is None and versions(root) else version
        manifest = load(root, number)
    except StoreDamageError as error:
        damaged = Problem(f"{layout.VERSIONS}/{layout.version_file(number or 0)}", str(error))
        return Verification(number or 0, problems=[*strange, damaged])
    result = Verification(manifest.version, problems=strange)
    if deep:
        for other in damaged_versions(root):
            result.problems.append(Problem(f"{layout.VERSIONS}/{layout.version_file(other)}", "not a sound manifest"))
    for log, refs in (("failures", manifest.failures), ("sources", manifest.sources)):
        for ref in refs:
            check_segment(root, ref, log, result)
    for name, part_name, part in followed(list(manifest.table_parts()), "tables", progress):
        check_table(root, name, part_name, part, result)
    for name, feature in sorted(manifest.features.items()):
        for spec_digest, entry in sorted(feature.specs.items()):
            check_feature(root, name, spec_digest, entry, deep, result, progress)
    return result


def _strangers(root: StorePath) -> list[Problem]:
    """Return a problem for everything that no store contains: links, and what is neither file nor folder."""
    problems = []
    for name in (layout.IDENTITY, layout.CARD, layout.REPORT, *layout.DIRECTORIES):
        folders = 2 if name in (layout.FEATURES, layout.TABLES) else int(name in layout.DIRECTORIES)
        problems += _strangers_below(root / name, folders)
    return problems


def _strangers_below(path: StorePath, folders: int) -> list[Problem]:
    """Check what lies at a path: folders down to a depth, then files."""
    try:
        mode = path.status().st_mode
        if stat.S_ISLNK(mode):
            return [Problem(path.relative, "a symbolic link; no part of a store may be one")]
        if not (stat.S_ISDIR(mode) if folders else stat.S_ISREG(mode)):
            return [Problem(path.relative, "not a folder" if folders else "not a regular file")]
        entries = path.entries() if folders else []
    except FileNotFoundError:  # another writer or gc has removed it; what a version needs is missed below
        return []
    except OSError as error:
        return [Problem(path.relative, f"cannot be read ({error.strerror})")]
    return [problem for entry in entries for problem in _strangers_below(entry, folders - 1)]


def damaged_versions(root: StorePath) -> list[int]:
    """Return the versions whose manifest is not as it was published."""
    damaged = []
    for version in versions(root):
        try:
            load(root, version)
        except StoreNotFoundError:  # gc has just removed it
            continue
        except StoreDamageError:
            damaged.append(version)
    return damaged


def check_spec_file(root: StorePath, spec_digest: str, result: Verification) -> dict[str, Any] | None:
    """Read a spec; enter a problem and return None if it is missing or damaged."""
    try:
        return read_spec(root, spec_digest)
    except StoreDamageError as error:
        result.problems.append(Problem(f"{layout.SPECS}/{spec_digest}.json", str(error)))
        return None


def check_table(root: StorePath, name: str, part_name: str, part: TablePart, result: Verification) -> bool:
    """Check the files of a table part, their receipts and their spec; return whether the files are sound."""
    spec = check_spec_file(root, part.spec_digest, result)
    sound = [check_table_file(root, file, result) for file in part.files]
    for file in part.files:
        receipt = (root / file.path).with_suffix(".json")
        expected = table_receipt(name, part_name, part.spec_digest, spec, file) if spec else None
        if expected and not _holds(receipt, expected):
            result.problems.append(Problem(receipt.relative, "the table's receipt is missing or damaged"))
    return all(sound)


def check_file(root: StorePath, path: str, size: int, sha256: str, result: Verification) -> bool:
    """Compare a file with the size and digest in the manifest; return whether both match."""
    file = root / path
    try:
        actual = file.status().st_size
        if actual != size:
            result.problems.append(Problem(path, f"{actual} bytes, the manifest says {size}"))
        elif durable.file_digest(file) != sha256:
            result.problems.append(Problem(path, "its sha256 differs from the manifest's"))
        else:
            result.bytes += size
            return True
    except OSError as error:
        result.problems.append(Problem(path, f"cannot be read ({error.strerror})"))
    except StoreDamageError as error:
        result.problems.append(Problem(path, str(error)))
    return False


def check_table_file(root: StorePath, file: TableFile, result: Verification) -> bool:
    """Compare a Parquet file with the manifest, and read it; return whether it is sound."""
    return check_file(root, file.path, file.bytes, file.sha256, result) and _is_read(
        file.path, table_problem(root, file), result
    )


def check_segment(root: StorePath, ref: SegmentRef, log: str, result: Verification) -> bool:
    """Compare a segment of a log with the manifest, and read it; return whether it is sound."""
    return check_file(root, ref.path, ref.bytes, ref.sha256, result) and _is_read(
        ref.path, segment_problem(root, ref, log), result
    )


def _is_read(path: str, problem: str | None, result: Verification) -> bool:
    if problem is not None:
        result.problems.append(Problem(path, problem))
    return problem is None


def _holds(path: StorePath, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except (OSError, StoreDamageError):
        return False


def check_feature(
    root: StorePath,
    name: str,
    spec_digest: str,
    entry: SpecEntry,
    deep: bool,
    result: Verification,
    progress: Progress = silent,
) -> None:
    """Check everything that a feature has under one spec."""
    check_spec_file(root, spec_digest, result)
    logs = [("index", ref) for ref in entry.index] + [("shards", ref) for ref in entry.shards]
    sound = [check_segment(root, ref, log, result) for log, ref in logs]
    if not all(sound):
        return
    where = f"{name}@{spec_digest[:8]}"
    shards = {record["key"]: record for record in SegmentLog(root, entry.shards, schemas.SHARDS)}
    index = SegmentLog(root, entry.index, schemas.INDEX).table()
    if index.num_rows != entry.rows:
        result.problems.append(Problem(where, f"the index has {index.num_rows} rows, the manifest says {entry.rows}"))
    for shard, rows in followed(sorted(rows_by_shard(index).items()), where, progress):
        if shard in shards:
            check_shard(root, name, spec_digest, shards[shard], rows, deep, result)
        else:
            key = rows[0].key
            result.problems.append(Problem(where, f"key {key!r}: its shard {shard.hex()} is not listed", key))


def check_shard(
    root: StorePath,
    name: str,
    spec_digest: str,
    record: Mapping[str, Any],
    rows: IndexedRows,
    deep: bool,
    result: Verification,
) -> None:
    """Check a shard, given its record in the shard list and the rows of it that the index names."""
    path = layout.feature_directory(root, name, spec_digest) / f"{record['key'].hex()}.h5"
    relative = path.relative
    try:
        receipt = read_receipt(path.with_suffix(".json"))
        reader = ShardReader(path, receipt, check_header=False)
    except StoreDamageError as error:
        keys = first_few([repr(row.key) for row in rows])
        result.problems.append(Problem(relative, f"{error} ({len(rows)} keys: {keys})"))
        return
    result.shards += 1
    result.rows += len(rows)
    result.bytes += receipt.bytes
    named = np.unique(rows.numbers)
    for number in named[named >= receipt.rows].tolist():
        result.problems.append(Problem(relative, f"has {receipt.rows} rows, the index names row {number}"))
    named = named[named < receipt.rows]
    sound = sound_rows(reader, named)
    damaged = named[~sound]
    result.media_damage += media_damage(reader, named[sound].tolist())
    is_damaged = np.isin(rows.numbers, damaged)
    is_other = _have_other_cache_keys(reader, rows) & ~is_damaged if deep else np.zeros(len(rows), bool)
    for place in np.flatnonzero(is_damaged | is_other).tolist():
        key, number, _ = rows[place]
        what = "bytes do not match the row digest" if is_damaged[place] else "cache key differs from the index"
        result.problems.append(Problem(relative, f"row {number}, key {key!r}: {what}", key))
    if deep and not len(damaged):
        numerics = layout.canonical_json(receipt.numerics).decode()
        identity = (receipt.id, receipt.feature, receipt.spec_digest, receipt.sha256, numerics)
        if identity != (path.stem, name, spec_digest, record["sha256"].hex(), record["numerics"]):
            result.problems.append(Problem(relative, "its receipt is not the one that was committed"))
        elif durable.file_digest(path) != receipt.sha256:
            result.problems.append(
                Problem(relative, "a bit outside the rows changed (sha256 differs from the receipt)")
            )
        elif problem := header_problem(path):
            result.problems.append(Problem(relative, problem))
    reader.close()


def _have_other_cache_keys(reader: ShardReader, rows: IndexedRows) -> Array:
    """Return of which rows the shard and the index state different cache keys, ``[len(rows)] bool``."""
    differ = np.zeros(len(rows), bool)
    inside = rows.numbers < reader.receipt.rows
    stated = reader.column("cache_key")[rows.numbers[inside]]
    differ[inside] = (stated != rows.cache_keys[inside]).any(axis=1)
    return differ


def summary(result: Verification) -> VerificationSummary:
    """Return a verification as JSON values."""
    return {
        "version": result.version,
        "ok": result.ok,
        "shards": result.shards,
        "rows": result.rows,
        "bytes": result.bytes,
        "media_damage": result.media_damage.model_dump(),
        "damaged_files": dict(sorted(Counter(problem.file for problem in result.problems).items())),
        "problems": [
            {"file": problem.file, "key": problem.key, "message": problem.message} for problem in result.problems
        ],
    }
