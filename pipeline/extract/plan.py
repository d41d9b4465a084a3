"""The plan: what must be computed, why, and what it will cost.

Wanted keys (source × spec) are anti-joined with the pinned manifest. Videos with the same bytes
and the same clip bounds become one unit of work, whatever their keys and however many features
want them: a video is decoded once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key, content_id, describe_os_error, failed_content, remote_status, stamp
from pipeline.extract.sources import SourceItem
from stores.commit import Failure, Placed, SourceRecord
from stores.format import Manifest, SegmentLog, feature_directory, schemas

MAX_ATTEMPTS = 3
_HASHERS = 4


class Reason(StrEnum):
    """Why a wanted row is, or is not, computed in this run."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    NEW = "new"
    CONTENT_CHANGED = "content_changed"
    SPEC_CHANGED = "spec_changed"
    MISSING_SHARD = "missing_shard"
    RETRY = "retry"
    FORCED = "forced"
    FAILED_PERMANENT = "failed_permanent"
    REMOVED = "removed"


COMPUTED = (
    Reason.NEW,
    Reason.CONTENT_CHANGED,
    Reason.SPEC_CHANGED,
    Reason.MISSING_SHARD,
    Reason.RETRY,
    Reason.FORCED,
)


@dataclass(frozen=True, slots=True)
class Unit:
    """One decode: a file (or a clip of it), the keys that share its bytes, the features wanted.

    ``keys[0]`` names the row in its shard, the others become aliases in the index. ``content`` is
    None for remote files that were never read, or changed: the worker hashes while it copies, and
    ``stored`` says which cache keys the rows of the key have now, so that a touched file with the
    same bytes computes nothing.
    """

    uri: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    content: str | None
    size: int
    stamp: str
    start_s: float | None = None
    end_s: float | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the command line asked of planning."""

    retry_failed: bool = False
    force: bool = False
    prune: bool = False
    only: frozenset[str] = frozenset()
    limit: int | None = None


@dataclass(slots=True)
class Plan:
    """What one run will do."""

    units: list[Unit] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    settled: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    sources: list[SourceRecord] = field(default_factory=list)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    wanted: int = 0
    stored: int = 0
    bytes_to_write: int = 0
    bytes_to_read: int = 0

    @property
    def rows_to_compute(self) -> int:
        return sum(len(unit.features) for unit in self.units)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute and nothing to commit."""
        return not (self.units or self.placed or self.removed or self.failures or self.settled)


@dataclass(slots=True)
class _Known:
    """What the manifest says about one feature under its wanted spec."""

    feature: Feature
    rows: dict[str, tuple[bytes, bytes]]  # key -> (cache key, shard)
    places: dict[bytes, tuple[bytes, int]]  # cache key -> (shard, row), of shards that exist
    shards: set[bytes]
    older: set[str]  # keys with rows under another spec
    failures: dict[str, Failure]


def make_plan(
    root: Path,
    manifest: Manifest,
    items: Sequence[SourceItem],
    features: Sequence[Feature],
    options: PlanOptions | None = None,
    on_hashed: Callable[[int, int], None] | None = None,
) -> Plan:
    """Compare what is wanted with what is stored.

    Parameters
    ----------
    root, manifest
        The store and the version of it that is compared with.
    items
        The videos of the source, in its order.
    features
        What is wanted of each video.
    options
        What the command line asked of planning.
    on_hashed
        Called with (files hashed, files to hash) while content ids are computed.
    """
    options = options or PlanOptions()
    plan = Plan(reasons={feature.name: Counter() for feature in features})
    known = [_known(root, manifest, feature) for feature in features]
    chosen = [item for item in items if not options.only or item.key in options.only]
    statuses, gone = _contents(root, manifest, chosen, plan, on_hashed)
    candidates: dict[tuple[Any, ...], list[tuple[SourceItem, dict[str, Reason]]]] = {}
    for item in chosen:
        record = statuses.get(item.uri)
        plan.wanted += len(features)
        wanted: dict[str, Reason] = {}
        for known_feature in known:
            if record is None:
                _plan_missing(plan, known_feature, item, gone[item.uri], options)
                continue
            reason = _decide(plan, known_feature, item, record, options)
            plan.reasons[known_feature.feature.name][reason] += 1
            if reason in COMPUTED:
                wanted[known_feature.feature.name] = reason
        if wanted and record is not None:
            identity = record.content_id or f"{item.uri}\0{item.key}"
            candidates.setdefault((identity, item.start_s, item.end_s), []).append((item, wanted))
    _make_units(plan, candidates, statuses, known)
    if options.limit is not None:
        plan.units = plan.units[: options.limit]
    _find_removed(plan, known, items, options)
    _estimate(plan, known)
    return plan


def _known(root: Path, manifest: Manifest, feature: Feature) -> _Known:
    entry = manifest.spec_entry(feature.name, feature.spec_digest)
    index = SegmentLog(root, entry.index, schemas.INDEX).table()
    directory = feature_directory(root, feature.name, feature.spec_digest)
    present = {name for name in os.listdir(directory) if name.endswith(".h5")} if directory.is_dir() else set()
    columns = [index.column(name).to_pylist() for name in ("key", "cache_key", "shard", "row")]
    shards = {shard for shard in set(columns[2]) if f"{shard.hex()}.h5" in present}
    rows = {key.decode("utf-8"): (cache, shard) for key, cache, shard, _ in zip(*columns, strict=True)}
    places = {cache: (shard, row) for _, cache, shard, row in zip(*columns, strict=True) if shard in shards}
    older: set[str] = set()
    stored = manifest.feature(feature.name)
    for spec_digest, other in (stored.specs if stored else {}).items():
        if spec_digest != feature.spec_digest:
            keys = SegmentLog(root, other.index, schemas.INDEX).table().column("key").to_pylist()
            older.update(key.decode("utf-8") for key in keys)
    failures = {
        record["video_id"]: Failure.of_record(record)
        for record in SegmentLog(root, manifest.failures, schemas.FAILURES)
        if record["feature"] == feature.name and record["spec"] == feature.spec_digest
    }
    return _Known(feature, rows, places, shards, older, failures)


def _contents(
    root: Path,
    manifest: Manifest,
    items: Sequence[SourceItem],
    plan: Plan,
    on_hashed: Callable[[int, int], None] | None,
) -> tuple[dict[str, SourceRecord], dict[str, tuple[str, str]]]:
    """Content ids by uri (empty for remote files not yet read), and what is wrong with the rest."""
    table = SegmentLog(root, manifest.sources, schemas.SOURCES).table()
    columns = [table.column(name).to_pylist() for name in ("key", "size", "stamp", "content_id")]
    remembered = {key: (size, seen, content) for key, size, seen, content in zip(*columns, strict=True)}
    found: dict[str, SourceRecord] = {}
    gone: dict[str, tuple[str, str]] = {}
    to_hash: list[SourceRecord] = []
    for item in items:
        if item.uri in found or item.uri in gone:
            continue
        try:
            size, seen = remote_status(item.uri) if item.is_remote else _local_status(item)
        except OSError as error:
            gone[item.uri] = describe_os_error(error)
            continue
        before = remembered.get(item.uri.encode("utf-8", "surrogateescape"))
        if before is not None and before[:2] == (size, seen):
            found[item.uri] = SourceRecord(item.uri, size, seen, before[2])
        else:
            found[item.uri] = SourceRecord(item.uri, size, seen, "")
            if not item.is_remote:
                to_hash.append(found[item.uri])
    for record, content in zip(to_hash, _hash_all([r.uri for r in to_hash], on_hashed), strict=True):
        if isinstance(content, OSError):
            del found[record.uri]
            gone[record.uri] = describe_os_error(content)
        else:
            found[record.uri] = replace(record, content_id=content)
            plan.sources.append(found[record.uri])
    return found, gone


def _local_status(item: SourceItem) -> tuple[int, str]:
    status = item.status or Path(item.uri).stat()
    return status.st_size, stamp(status)


def _hash_all(paths: Sequence[str], on_hashed: Callable[[int, int], None] | None) -> Iterable[str | OSError]:
    def attempt(path: str) -> str | OSError:
        try:
            return content_id(Path(path))
        except OSError as error:
            return error

    results: list[str | OSError] = []
    if paths:
        with ThreadPoolExecutor(min(_HASHERS, os.cpu_count() or 1)) as pool:
            for result in pool.map(attempt, paths, chunksize=16):
                results.append(result)
                if on_hashed is not None:
                    on_hashed(len(results), len(paths))
    return results


def _decide(plan: Plan, known: _Known, item: SourceItem, record: SourceRecord, options: PlanOptions) -> Reason:
    """Return the reason of one wanted row; stored rows, links and skipped failures are noted in the plan."""
    name, spec_digest = known.feature.name, known.feature.spec_digest
    row = known.rows.get(item.key)
    failure = known.failures.get(item.key)
    if not record.content_id:  # a remote file that was never read: its content is not known yet
        if failure is not None and _exhausted(failure, options):
            return _skip(plan, failure)
        if failure is not None:
            return Reason.RETRY
        return Reason.NEW if row is None else Reason.CONTENT_CHANGED
    wanted = cache_key(record.content_id, item.start_s, item.end_s, spec_digest)
    if options.force:
        return Reason.FORCED
    if row is not None and row[0] == wanted and row[1] in known.shards:
        plan.stored += 1
        if failure is not None:
            plan.settled.append((name, spec_digest, item.key))
        return Reason.STORED
    if wanted in known.places:
        shard, position = known.places[wanted]
        plan.placed.append(Placed(name, spec_digest, item.key, shard.hex(), position, wanted))
        plan.stored += 1
        return Reason.DUPLICATE
    if failure is not None and failure.content_id == failed_content(record.content_id, item.start_s, item.end_s):
        return _skip(plan, failure) if _exhausted(failure, options) else Reason.RETRY
    if failure is not None and not failure.permanent and failure.failure_class in ("missing", "unreadable"):
        return Reason.RETRY
    if row is not None:
        return Reason.MISSING_SHARD if row[0] == wanted else Reason.CONTENT_CHANGED
    return Reason.SPEC_CHANGED if item.key in known.older else Reason.NEW


def _exhausted(failure: Failure, options: PlanOptions) -> bool:
    return not options.retry_failed and (failure.permanent or failure.attempts >= MAX_ATTEMPTS)


def _skip(plan: Plan, failure: Failure) -> Reason:
    plan.skipped.append(failure)
    return Reason.FAILED_PERMANENT


def _plan_missing(plan: Plan, known: _Known, item: SourceItem, problem: tuple[str, str], options: PlanOptions) -> None:
    """Record a file that cannot be opened as a failure straight away, without starting a worker."""
    failure_class, message = problem
    name, spec_digest = known.feature.name, known.feature.spec_digest
    before = known.failures.get(item.key)
    attempts = before.attempts if before and before.failure_class == failure_class else 0
    if before is not None and attempts >= MAX_ATTEMPTS and not options.retry_failed:
        plan.reasons[name][_skip(plan, before)] += 1
        return
    plan.reasons[name][Reason.RETRY if before else Reason.NEW] += 1
    plan.failures.append(
        Failure(item.key, name, spec_digest, failure_class, False, message, item.uri, "", attempts + 1)
    )


def _make_units(
    plan: Plan,
    candidates: Mapping[tuple[Any, ...], list[tuple[SourceItem, dict[str, Reason]]]],
    statuses: Mapping[str, SourceRecord],
    known: Sequence[_Known],
) -> None:
    for members in candidates.values():
        item = members[0][0]
        record = statuses[item.uri]
        content = failed_content(record.content_id, item.start_s, item.end_s)
        attempts = {}
        stored = {}
        for feature in known:
            name = feature.feature.name
            row = feature.rows.get(item.key)
            if not record.content_id and row is not None and row[1] in feature.shards:
                stored[name] = row[0]
            before = feature.failures.get(item.key)
            if before is not None and before.content_id == content:
                attempts[name] = before.attempts
        plan.units.append(
            Unit(
                uri=item.uri,
                keys=tuple(member.key for member, _ in members),
                features=tuple(sorted({name for _, wanted in members for name in wanted})),
                content=record.content_id or None,
                size=record.size,
                stamp=record.stamp,
                start_s=item.start_s,
                end_s=item.end_s,
                attempts=attempts,
                stored=stored,
            )
        )


def _find_removed(plan: Plan, known: Sequence[_Known], items: Sequence[SourceItem], options: PlanOptions) -> None:
    """Rows whose video is not in the source any more: reported, and dropped with ``--prune``."""
    present = {item.key for item in items}
    for feature in known:
        name, spec_digest = feature.feature.name, feature.feature.spec_digest
        gone = [key for key in feature.rows if key not in present]
        if gone:
            plan.reasons[name][Reason.REMOVED] += len(gone)
        if options.prune:
            plan.removed += [(name, key) for key in gone]
            plan.settled += [(name, spec_digest, key) for key in feature.failures if key not in present]


def _estimate(plan: Plan, known: Sequence[_Known]) -> None:
    """Bytes to be read and written."""
    per_row = {feature.feature.name: feature.feature.expected_row_bytes for feature in known}
    plan.bytes_to_write = sum(per_row[name] for unit in plan.units for name in unit.features)
    plan.bytes_to_read = sum(unit.size for unit in plan.units)
