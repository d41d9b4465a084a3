"""Keeps the ledger of a run: what is finished but not yet committed, what is committed, and what is missing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.extract.doubts import Doubts
from pipeline.extract.features import Feature
from pipeline.extract.identity import failure_content_id
from pipeline.extract.outcomes import Outcome, StageTimes, UnitDone
from pipeline.extract.plan import Plan
from pipeline.extract.shards import FinishedShard
from pipeline.extract.units import UnitFailure, UnitUnchanged
from pipeline.media import PERMANENT
from pipeline.shared import EventLog, StopSignals
from stores.commit import Changes, Failure, Placed, commit, place_shard
from stores.format import Manifest, Receipt

COMMIT_EVERY_S = 2.0  # a crash loses that much work at most, and versions stay few


@dataclass(slots=True)
class Progress:
    """What a run has done so far.

    Attributes
    ----------
    videos
        Videos that are finished, with rows or with failures.
    carried, computed, linked
        Rows that were copied from an older spec, that were computed, and that a stored row serves.
    bytes_written
        Bytes of published shards.
    failures
        Rows that could not be computed.
    times
        Seconds spent and items done.
    """

    videos: int = 0
    carried: int = 0
    computed: int = 0
    linked: int = 0
    bytes_written: int = 0
    failures: list[Failure] = field(default_factory=list)
    times: StageTimes = field(default_factory=StageTimes)


class Ledger:
    """Collects the outcomes of a run and commits them every few seconds; a signal never interrupts a commit.

    Parameters
    ----------
    root
        The store.
    manifest
        The version that the plan was made against.
    plan
        The plan; what planning itself has settled (links, removals, failures, sources) is entered first.
    features
        The features of the run; they become current with the first commit after that of the plan.
    events
        Receives failures and commits.
    signals
        Held back during a commit.
    replace
        Move keys to their new rows even where the cache key is the same (``--force``).
    """

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        plan: Plan,
        features: Mapping[str, Feature],
        events: EventLog,
        signals: StopSignals,
        replace: bool = False,
    ) -> None:
        self.manifest = manifest
        self.progress = Progress(linked=len(plan.placed), failures=[*plan.failures])
        self._root = root
        self._features = features
        self._events = events
        self._signals = signals
        self._replace = replace
        self._doubts = Doubts()
        self._last_commit = time.monotonic()
        # Copies: what is pending grows, and the summary counts from the plan.
        self._pending = Changes(
            placed=[*plan.placed],
            removed=[*plan.removed],
            settled=[*plan.settled],
            failures=[*plan.failures],
            sources=[*plan.sources],
        )
        goes_on = bool(plan.units or plan.carried)
        if goes_on:
            self.commit()  # at once: computing may take hours
        self._pending.current = {name: feature.spec_digest for name, feature in features.items()}
        if not goes_on:
            self.commit()

    def accept(self, outcome: Outcome) -> None:
        """Enter one outcome; commit if the last commit is a few seconds old.

        Raises
        ------
        MachineFaultError
            If an extractor fails on everything that it is given.
        """
        with self._signals.critical():
            self._enter(outcome)
            due = time.monotonic() - self._last_commit >= COMMIT_EVERY_S
            if due and (self._pending.placed or self._pending.failures):
                self.commit()

    def carry(self, receipt: Receipt, placed: Sequence[Placed]) -> None:
        """Enter a shard of rows that were copied from an older spec."""
        with self._signals.critical():
            self._pending.placed += placed
            self._pending.shards.append(receipt)
            self.progress.carried += len(placed)
            self.progress.bytes_written += receipt.bytes
            if time.monotonic() - self._last_commit >= COMMIT_EVERY_S:
                self.commit()

    def _enter(self, outcome: Outcome) -> None:
        progress, pending = self.progress, self._pending
        if isinstance(outcome, FinishedShard):
            placed = place_shard(self._root, outcome.receipt, outcome.aliases)
            pending.replace = pending.replace or self._replace
            pending.placed += placed
            pending.shards.append(outcome.receipt)
            pending.sources += outcome.sources
            progress.computed += len(placed)
            progress.bytes_written += outcome.receipt.bytes
        elif isinstance(outcome, UnitFailure):
            if outcome.of_model:
                self._doubts.hold(outcome)
            else:
                self._enter_failure(outcome)
        elif isinstance(outcome, UnitUnchanged):
            pending.sources.append(outcome.source)
            progress.linked += len(outcome.unit.keys) * len(outcome.unit.features)
        elif isinstance(outcome, UnitDone):
            progress.videos += outcome.units
            progress.times.add(outcome.times)
            for failure in self._doubts.judge(outcome.rows):
                self._enter_failure(failure)

    def settle(self) -> None:
        """Enter the failures that were held back, now that every unit is finished."""
        for failure in self._doubts.settle():
            self._enter_failure(failure)

    def _enter_failure(self, outcome: UnitFailure) -> None:
        unit = outcome.unit
        content_id = outcome.source.content_id if outcome.source else unit.content_id
        if outcome.source is not None and unit.content_id is None:  # the next plan compares it with these bytes
            self._pending.sources.append(outcome.source)
        for name in outcome.features:
            for key in unit.keys:
                failure = Failure(
                    video_id=key,
                    feature=name,
                    spec_digest=self._features[name].spec_digest,
                    failure_class=outcome.failure_class,
                    permanent=outcome.failure_class in PERMANENT,
                    message=outcome.message,
                    uri=unit.uri,
                    content_id=failure_content_id(content_id, unit.start_s, unit.end_s),
                    attempts=unit.attempts.get(name, 0) + 1,
                )
                self._pending.failures.append(failure)
                self.progress.failures.append(failure)
                self._events.emit("failure", **failure.record())

    def commit(self) -> None:
        """Publish what is pending as a new version, if there is anything."""
        self._last_commit = time.monotonic()
        if not self._pending:
            return
        with self._signals.critical():
            pending = self._pending
            self.manifest = commit(self._root, pending)
            self._events.emit(
                "commit",
                version=self.manifest.version,
                rows=len(pending.placed),
                failures=len(pending.failures),
            )
            self._pending = Changes(current=pending.current)
