"""Plans an extraction: compares the videos of a source with what is stored of them.

Wanted keys (source × spec) are anti-joined with the pinned manifest, column by column: rows that are plainly there, a
million of them in the usual second run, cost no Python object. The others are looked at one by one. Videos with the
same bytes and the same clip bounds become one unit of work, whatever their keys and however many features want them: a
video is decoded once.

The worker that decodes a file hashes it. Planning hashes only what it must know to plan: files of keys that have rows
or failures, and files that may be copies of others, because their sizes are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from extractors import names_machine
from pipeline.extract.carrying import Candidate, CarriedRow, Prover
from pipeline.extract.contents import Contents, Mask, Positions, read_contents
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key, failure_content_id
from pipeline.extract.plan import COMPUTED, Plan, PlanOptions, Reason, Unit
from pipeline.extract.remote import DEFAULT_BOUNDS, Bounds
from pipeline.extract.sources import SourceItem, Sources
from pipeline.extract.stored import Selection, StoredFeature, find_rows
from stores.commit import Failure, Placed, SourceRecord
from stores.format import Manifest

MAX_ATTEMPTS = 3
"""Runs that try a row again whose failure may pass by itself; ``--retry-failed`` tries more often."""


def make_plan(
    root: Path,
    manifest: Manifest,
    items: Sources,
    features: Sequence[Feature],
    options: PlanOptions | None = None,
    on_hashed: Callable[[int, int], None] | None = None,
    prover: Prover | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
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
    bounds
        How long a remote filesystem may take to answer.

    Returns
    -------
    Plan
        Its units are in the order of ``items``.
    """
    options = options or PlanOptions()
    plan = Plan(reasons={feature.name: Counter() for feature in features})
    stored = [StoredFeature(root, manifest, feature) for feature in features]
    rows = find_rows(items.column("key"), stored)
    _find_removed(plan, stored, items, rows, options)
    if options.only:
        positions = items.positions(options.only)
        items, rows = items.take(positions), [found[positions] for found in rows]
    keys = items.column("key")

    def known(positions: Positions) -> Mask:
        some = keys.take(pa.array(positions))
        known = np.zeros(len(positions), bool)
        for feature, found in zip(stored, rows, strict=True):
            known |= feature.are_known(some, found[positions])
        return known

    contents = read_contents(root, manifest, items, known, on_hashed, bounds)
    plan.sources = contents.hashed
    plan.wanted = len(items) * len(features)
    done = np.full(len(items), not options.force)
    for feature, found in zip(stored, rows, strict=True):
        if done.any():
            done &= feature.are_stored(items, contents, found)
    if done.any():
        for counts in plan.reasons.values():
            counts[Reason.STORED] += int(done.sum())
    plan.stored = int(done.sum()) * len(features)
    remaining = np.flatnonzero(~done)
    if len(remaining):
        _plan_remaining(plan, _Remaining(items, contents, remaining, stored, rows), options, prover)
    _estimate(plan, features)
    return plan


class _Remaining:
    """The videos of which some row is not plainly stored, as Python objects."""

    def __init__(
        self,
        items: Sources,
        contents: Contents,
        positions: Positions,
        stored: Sequence[StoredFeature],
        rows: Sequence[Positions],
    ) -> None:
        self.items = list(items.items(positions))
        self.unreadable = {}
        self.records: dict[str, SourceRecord] = {}
        for position, item in zip(positions.tolist(), self.items, strict=True):
            if position in contents.unreadable:
                self.unreadable[item.key] = contents.unreadable[position]
            else:
                self.records[item.key] = contents.record(position, item.uri)
        keys = items.column("key").take(pa.array(positions))
        self.selections = [
            feature.select(keys, found[positions], self._cache_keys(feature.feature.spec_digest))
            for feature, found in zip(stored, rows, strict=True)
        ]

    def _cache_keys(self, spec_digest: str) -> list[bytes]:
        return [
            cache_key(record.content_id, item.start_s, item.end_s, spec_digest)
            for item in self.items
            if (record := self.records.get(item.key)) is not None and record.content_id
        ]


def _plan_remaining(plan: Plan, remaining: _Remaining, options: PlanOptions, prover: Prover | None) -> None:
    """Decide about each row of each video that remains, and make units of those to be computed."""
    decisions: dict[tuple[str, str], Reason] = {}
    carriable: list[Candidate] = []
    for item in remaining.items:
        record = remaining.records.get(item.key)
        for state in remaining.selections:
            if item.key not in state.rows:
                plan.lacking[state.feature.name] += 1
            if record is None:
                _plan_unreadable(plan, state, item, remaining.unreadable[item.key], options)
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
    for (_, name), reason in decisions.items():
        plan.reasons[name][reason] += 1
    units = _make_units(remaining, decisions)
    plan.units = units if options.limit is None else units[: options.limit]


def _carriable(state: Selection, item: SourceItem, content_id: str) -> Iterator[Candidate]:
    """Yield the rows of older specs that may be carried over to a wanted row: those of the same bytes and bounds."""
    feature = state.feature
    wanted = cache_key(content_id, item.start_s, item.end_s, feature.spec_digest)
    for older in state.carriable.get(item.key, ()):
        if older.cache_key == cache_key(content_id, item.start_s, item.end_s, older.spec_digest):
            yield Candidate(item, feature, CarriedRow(feature.name, item.key, older, wanted))


def _decide(plan: Plan, state: Selection, item: SourceItem, record: SourceRecord, options: PlanOptions) -> Reason:
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
    plan: Plan, state: Selection, item: SourceItem, problem: tuple[str, str], options: PlanOptions
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


def _make_units(remaining: _Remaining, decisions: Mapping[tuple[str, str], Reason]) -> list[Unit]:
    """Make one unit of all keys with the same bytes and clip bounds."""
    groups: dict[tuple[str, float | None, float | None], list[tuple[SourceItem, list[str]]]] = {}
    for item in remaining.items:
        record = remaining.records.get(item.key)
        if record is None:
            continue
        names = [state.feature.name for state in remaining.selections]
        wanted = [name for name in names if decisions[item.key, name] in COMPUTED]
        if wanted:
            identity = record.content_id or f"{item.uri}\0{item.key}"
            groups.setdefault((identity, item.start_s, item.end_s), []).append((item, wanted))
    return [_unit(members, remaining) for members in groups.values()]


def _unit(members: Sequence[tuple[SourceItem, list[str]]], remaining: _Remaining) -> Unit:
    item = members[0][0]
    record = remaining.records[item.key]
    content_id = failure_content_id(record.content_id, item.start_s, item.end_s)
    attempts = {}
    stored = {}
    for state in remaining.selections:
        name = state.feature.name
        row = state.rows.get(item.key)
        if not record.content_id and row is not None and row[1] in state.shards:
            stored[name] = row[0]
        before = state.failures.get(item.key)
        if before is not None and before.content_id == content_id:
            attempts[name] = before.attempts
    return Unit(
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


def _find_removed(
    plan: Plan, stored: Sequence[StoredFeature], items: Sources, rows: Sequence[Positions], options: PlanOptions
) -> None:
    """Count rows whose video is no longer in the source, and drop them with ``--prune``."""
    for feature, found in zip(stored, rows, strict=True):
        name, spec_digest = feature.feature.name, feature.feature.spec_digest
        absent = feature.keys_without(found)
        if len(absent):
            plan.reasons[name][Reason.REMOVED] += len(absent)
        if options.prune:
            plan.removed += [(name, raw.decode("utf-8")) for raw in absent.to_pylist()]
            plan.settled += [(name, spec_digest, key) for key in feature.failures_outside(items)]


def _estimate(plan: Plan, features: Sequence[Feature]) -> None:
    """Estimate the bytes to read and to write."""
    per_row = {feature.name: feature.expected_row_bytes for feature in features}
    plan.bytes_to_write = sum(per_row[name] for unit in plan.units for name in unit.features)
    plan.bytes_to_write += sum(per_row[row.feature] for row in plan.carried)
    plan.bytes_to_read = sum(unit.size for unit in plan.units)
