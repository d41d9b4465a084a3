"""Plans an extraction: what must be computed, why, and what it will cost.

Wanted keys (source × spec) are anti-joined with the pinned manifest. Videos with the same bytes and the same clip
bounds become one unit of work, whatever their keys and however many features want them: a video is decoded once.

The worker that decodes a file hashes it. Planning hashes only what it must know to plan: files of keys that have rows
or failures, and files that may be copies of others, because their sizes are equal.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from extractors import names_machine
from pipeline.extract.carrying import Candidate, CarriedRow, OlderRow, Prover, differs_in_rules_alone, rows_of
from pipeline.extract.contents import read_records
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key, failure_content_id
from pipeline.extract.sources import SourceItem
from stores.commit import Failure, Placed, SourceRecord
from stores.format import Manifest, SegmentLog, feature_directory, schemas

MAX_ATTEMPTS = 3
"""Runs that try a row again whose failure may pass by itself; ``--retry-failed`` tries more often."""


class Reason(StrEnum):
    """Why a wanted row is, or is not, computed in this run."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CARRIED = "carried"
    NEW = "new"
    CONTENT_CHANGED = "content_changed"
    SPEC_CHANGED = "spec_changed"
    MISSING_SHARD = "missing_shard"
    RETRY = "retry"
    FORCED = "forced"
    FAILED_PERMANENT = "failed_permanent"
    REMOVED = "removed"


LACKING = (Reason.NEW, Reason.SPEC_CHANGED, Reason.RETRY, Reason.CARRIED, Reason.FAILED_PERMANENT)
"""Reasons of rows that the feature's spec has no row for, not even one of other content."""

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
    """One decode: a file (or a clip of it), the keys that share its bytes, and the features that want it.

    Attributes
    ----------
    uri
        The file: a local path or an fsspec URI.
    keys
        ``keys[0]`` names the row in its shard; the others become aliases in the index.
    features
        Names of the wanted features, sorted.
    content_id
        None for files that the worker hashes: remote ones while it copies them, local ones that are new and like no
        other.
    size, stamp
        Bytes and stamp of the file when it was planned.
    start_s, end_s
        Bounds of the clip in seconds; None means the video's own.
    image_rate
        Images per second if ``uri`` is a folder of images, else None.
    attempts
        Feature name to the number of attempts that have failed so far.
    stored
        Feature name to the cache key of the stored row if ``content_id`` is None, so that a touched file with the same
        bytes computes nothing.
    """

    uri: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    content_id: str | None
    size: int
    stamp: str
    start_s: float | None = None
    end_s: float | None = None
    image_rate: float | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of planning, as on the command line."""

    retry_failed: bool = False
    """Try rows again that failed for good, or too often."""
    force: bool = False
    """Compute stored rows again."""
    prune: bool = False
    """Drop rows of videos that the source no longer has."""
    only: frozenset[str] = frozenset()
    """Keys to plan; all if empty."""
    limit: int | None = None
    """Most units to compute; all if None."""


@dataclass(slots=True)
class Plan:
    """What one run will do.

    Attributes
    ----------
    units
        What is to be computed.
    placed
        Wanted rows that are stored under another key with the same bytes.
    carried
        Wanted rows that are copied from an older spec whose differences do not touch them.
    removed
        (feature, key) of rows to drop.
    settled
        (feature, spec digest, key) of failures to forget.
    failures
        Files that cannot even be opened.
    skipped
        Earlier failures that are not tried again.
    sources
        Files that were hashed now.
    reasons
        Feature name to the number of rows by reason.
    wanted, stored
        Number of rows that are wanted, and of those that need no computing.
    bytes_to_write, bytes_to_read
        Estimated size of the new rows, and size of the files to decode.
    """

    units: list[Unit] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    carried: list[CarriedRow] = field(default_factory=list)
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
        """Number of rows, at one per unit and feature."""
        return sum(len(unit.features) for unit in self.units)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute and nothing to commit."""
        return not (self.units or self.placed or self.carried or self.removed or self.failures or self.settled)


@dataclass(slots=True)
class _FeatureState:
    """What the manifest says about one feature under its wanted spec."""

    feature: Feature
    rows: dict[str, tuple[bytes, bytes]]  # key -> (cache key, shard)
    places: dict[bytes, tuple[bytes, int]]  # cache key -> (shard, row), for shards that exist
    shards: set[bytes]  # those that exist
    older: set[str]  # keys with rows under another spec
    carriable: dict[str, list[OlderRow]]  # by key, rows under specs that differ in rules and policies alone
    failures: dict[str, Failure]  # by key


def make_plan(
    root: Path,
    manifest: Manifest,
    items: Sequence[SourceItem],
    features: Sequence[Feature],
    options: PlanOptions | None = None,
    on_hashed: Callable[[int, int], None] | None = None,
    prover: Prover | None = None,
) -> Plan:
    """Compare what is wanted with what is stored.

    Parameters
    ----------
    root, manifest
        The store, and its version to compare with.
    items
        The videos of the source, in its order.
    features
        The features that are wanted for each video.
    options
        Options of planning, as on the command line.
    on_hashed
        Called with (files hashed, files to hash) while content ids are computed.
    prover
        Says which rows of older specs need no computing; without one, all of them do.

    Returns
    -------
    Plan
        Its units are in the order of ``items``.
    """
    options = options or PlanOptions()
    plan = Plan(reasons={feature.name: Counter() for feature in features})
    states = [_read_state(root, manifest, feature) for feature in features]
    chosen = [item for item in items if not options.only or item.key in options.only]
    known = {key for state in states for keys in (state.rows, state.failures, state.older) for key in keys}
    records, unreadable, plan.sources = read_records(root, manifest, chosen, known, on_hashed)
    plan.wanted = len(chosen) * len(features)
    decisions: dict[tuple[str, str], Reason] = {}
    carriable: list[Candidate] = []
    for item in chosen:
        record = records.get(item.uri)
        for state in states:
            if record is None:
                _plan_unreadable(plan, state, item, unreadable[item.uri], options)
                continue
            reason = _decide(plan, state, item, record, options)
            decisions[item.key, state.feature.name] = reason
            if prover is not None and reason is Reason.SPEC_CHANGED and record.content_id:
                carriable += _carriable(state, item, record.content_id)
    if prover is not None and carriable:
        for candidate, proven in zip(carriable, prover(carriable), strict=True):
            place = (candidate.item.key, candidate.feature.name)
            if proven and decisions[place] is not Reason.CARRIED:
                decisions[place] = Reason.CARRIED
                plan.carried.append(candidate.row)
    candidates: dict[tuple[Any, ...], list[tuple[SourceItem, dict[str, Reason]]]] = {}
    for item in chosen:
        record = records.get(item.uri)
        if record is None:
            continue
        reasons = {state.feature.name: decisions[item.key, state.feature.name] for state in states}
        for name, reason in reasons.items():
            plan.reasons[name][reason] += 1
        wanted = {name: reason for name, reason in reasons.items() if reason in COMPUTED}
        if wanted:
            identity = record.content_id or f"{item.uri}\0{item.key}"
            candidates.setdefault((identity, item.start_s, item.end_s), []).append((item, wanted))
    _make_units(plan, candidates, records, states)
    if options.limit is not None:
        plan.units = plan.units[: options.limit]
    _find_removed(plan, states, items, options)
    _estimate(plan, states)
    return plan


def _read_state(root: Path, manifest: Manifest, feature: Feature) -> _FeatureState:
    entry = manifest.spec_entry(feature.name, feature.spec_digest)
    index = SegmentLog(root, entry.index, schemas.INDEX).table()
    directory = feature_directory(root, feature.name, feature.spec_digest)
    present = {name for name in os.listdir(directory) if name.endswith(".h5")} if directory.is_dir() else set()
    columns = [index.column(name).to_pylist() for name in ("key", "cache_key", "shard", "row")]
    shards = {shard for shard in set(columns[2]) if f"{shard.hex()}.h5" in present}
    rows = {key.decode("utf-8"): (cache, shard) for key, cache, shard, _ in zip(*columns, strict=True)}
    places = {cache: (shard, row) for _, cache, shard, row in zip(*columns, strict=True) if shard in shards}
    older: set[str] = set()
    carriable: dict[str, list[OlderRow]] = {}
    stored = manifest.feature(feature.name)
    for spec_digest, other in sorted((stored.specs if stored else {}).items()):
        if spec_digest == feature.spec_digest:
            continue
        other_index = SegmentLog(root, other.index, schemas.INDEX).table()
        older.update(key.decode("utf-8") for key in other_index.column("key").to_pylist())
        if differs_in_rules_alone(root, spec_digest, feature):
            for key, row in rows_of(root, feature.name, spec_digest, other_index):
                carriable.setdefault(key, []).append(row)
    failures = {
        record["video_id"]: Failure.from_record(record)
        for record in SegmentLog(root, manifest.failures, schemas.FAILURES)
        if record["feature"] == feature.name and record["spec"] == feature.spec_digest
    }
    return _FeatureState(feature, rows, places, shards, older, carriable, failures)


def _carriable(state: _FeatureState, item: SourceItem, content_id: str) -> Iterator[Candidate]:
    """Yield the rows of older specs that may be carried over to a wanted row: those of the same bytes and bounds."""
    feature = state.feature
    wanted = cache_key(content_id, item.start_s, item.end_s, feature.spec_digest)
    for older in state.carriable.get(item.key, ()):
        if older.cache_key == cache_key(content_id, item.start_s, item.end_s, older.spec_digest):
            yield Candidate(item, feature, CarriedRow(feature.name, item.key, older, wanted))


def _decide(plan: Plan, state: _FeatureState, item: SourceItem, record: SourceRecord, options: PlanOptions) -> Reason:
    """Return the reason for one wanted row; note stored rows, links and skipped failures in the plan."""
    name, spec_digest = state.feature.name, state.feature.spec_digest
    row = state.rows.get(item.key)
    failure = state.failures.get(item.key)
    if not record.content_id:  # a worker will hash it: its content is not known yet
        if failure is not None and _exhausted(failure, options):
            return _skip(plan, failure)
        if failure is not None:
            return Reason.RETRY
        if options.force and not item.is_remote:
            return Reason.FORCED
        return Reason.NEW if row is None else Reason.CONTENT_CHANGED
    wanted = cache_key(record.content_id, item.start_s, item.end_s, spec_digest)
    if options.force:
        return Reason.FORCED
    if row is not None and row[0] == wanted and row[1] in state.shards:
        plan.stored += 1
        if failure is not None:
            plan.settled.append((name, spec_digest, item.key))
        return Reason.STORED
    if wanted in state.places:
        shard, position = state.places[wanted]
        plan.placed.append(Placed(name, spec_digest, item.key, shard.hex(), position, wanted))
        plan.stored += 1
        return Reason.DUPLICATE
    if failure is not None and failure.content_id == failure_content_id(record.content_id, item.start_s, item.end_s):
        return _skip(plan, failure) if _exhausted(failure, options) else Reason.RETRY
    if failure is not None and not failure.permanent and failure.failure_class in ("missing", "unreadable"):
        return Reason.RETRY
    if row is not None:
        return Reason.MISSING_SHARD if row[0] == wanted else Reason.CONTENT_CHANGED
    return Reason.SPEC_CHANGED if item.key in state.older else Reason.NEW


def _exhausted(failure: Failure, options: PlanOptions) -> bool:
    """Return whether a row is not tried again; one that a fault of the machine was counted against always is."""
    if options.retry_failed or (failure.failure_class in ("model_error", "oom") and names_machine(failure.message)):
        return False
    return failure.permanent or failure.attempts >= MAX_ATTEMPTS


def _skip(plan: Plan, failure: Failure) -> Reason:
    plan.skipped.append(failure)
    return Reason.FAILED_PERMANENT


def _plan_unreadable(
    plan: Plan, state: _FeatureState, item: SourceItem, problem: tuple[str, str], options: PlanOptions
) -> None:
    """Record a file that cannot be opened as a failure straight away, without starting a worker."""
    failure_class, message = problem
    name, spec_digest = state.feature.name, state.feature.spec_digest
    before = state.failures.get(item.key)
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
    records: Mapping[str, SourceRecord],
    states: Sequence[_FeatureState],
) -> None:
    """Make one unit of all keys with the same bytes and clip bounds."""
    for members in candidates.values():
        item = members[0][0]
        record = records[item.uri]
        content_id = failure_content_id(record.content_id, item.start_s, item.end_s)
        attempts = {}
        stored = {}
        for state in states:
            name = state.feature.name
            row = state.rows.get(item.key)
            if not record.content_id and row is not None and row[1] in state.shards:
                stored[name] = row[0]
            before = state.failures.get(item.key)
            if before is not None and before.content_id == content_id:
                attempts[name] = before.attempts
        plan.units.append(
            Unit(
                uri=item.uri,
                keys=tuple(member.key for member, _ in members),
                features=tuple(sorted({name for _, wanted in members for name in wanted})),
                content_id=record.content_id or None,
                size=record.size,
                stamp=record.stamp,
                start_s=item.start_s,
                end_s=item.end_s,
                image_rate=item.image_rate,
                attempts=attempts,
                stored=stored,
            )
        )


def _find_removed(
    plan: Plan, states: Sequence[_FeatureState], items: Sequence[SourceItem], options: PlanOptions
) -> None:
    """Count rows whose video is no longer in the source, and drop them with ``--prune``."""
    present = {item.key for item in items}
    for state in states:
        name, spec_digest = state.feature.name, state.feature.spec_digest
        absent = [key for key in state.rows if key not in present]
        if absent:
            plan.reasons[name][Reason.REMOVED] += len(absent)
        if options.prune:
            plan.removed += [(name, key) for key in absent]
            plan.settled += [(name, spec_digest, key) for key in state.failures if key not in present]


def _estimate(plan: Plan, states: Sequence[_FeatureState]) -> None:
    """Estimate the bytes to read and to write."""
    per_row = {state.feature.name: state.feature.expected_row_bytes for state in states}
    plan.bytes_to_write = sum(per_row[name] for unit in plan.units for name in unit.features)
    plan.bytes_to_write += sum(per_row[row.feature] for row in plan.carried)
    plan.bytes_to_read = sum(unit.size for unit in plan.units)
