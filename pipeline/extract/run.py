"""Runs one extraction: source → plan → compute → commit → summary, whichever executor computes."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from extractors import MachineFaultError
from pipeline.extract import preflight as extract_preflight
from pipeline.extract.carrying import Surveyor, copy_rows
from pipeline.extract.config import Config
from pipeline.extract.features import ready_features
from pipeline.extract.ledger import Ledger, Progress
from pipeline.extract.local import LocalExecutor
from pipeline.extract.outcomes import Executor, Outcome, UnitDone, consume
from pipeline.extract.plan import Plan, PlanOptions, Reason
from pipeline.extract.planning import make_plan
from pipeline.extract.sources import Rules, Sources, read_source
from pipeline.extract.summary import (
    ExtractResult,
    PlanSummary,
    RunSummary,
    device_type_here,
    show_failures,
    show_plan,
    show_summary,
)
from pipeline.extract.units import RunContext
from pipeline.shared import (
    EventLog,
    StageRequest,
    StopRequestedError,
    StopSignals,
    Terminal,
    UsageError,
    mark_stale,
    past_seconds_per_unit,
    preflight,
)
from settings.messages import plural
from stores.commit import Changes, commit, create_store, write_spec
from stores.describe import write_card
from stores.errors import StoreNotFoundError
from stores.format import Manifest, first_manifest, load
from stores.upkeep import adopt


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractRequest(StageRequest):
    """What an extraction needs to know.

    Attributes
    ----------
    source
        A directory, glob or table; see ``read_source``.
    config
        The configuration.
    options
        Options of planning.
    """

    source: str
    config: Config
    options: PlanOptions = field(default_factory=PlanOptions)


def extract(request: ExtractRequest, terminal: Terminal | None = None) -> ExtractResult:
    """Make the store hold every wanted row, computing only what is missing.

    Raises
    ------
    UsageError, StoreError, OSError
        If the user must change something first. Committed rows stay.
    """
    with terminal or Terminal() as shown, StopSignals() as signals:
        try:
            return _Extraction(request, shown, signals).execute()
        except StopRequestedError as stop:  # before or after computing, which handles a stop itself
            shown.line(f"stopped by {stop}; run the same command again to continue")
            return ExtractResult(stopped_by=str(stop))


class _Extraction:
    """The flow of one extraction."""

    def __init__(self, request: ExtractRequest, terminal: Terminal, signals: StopSignals) -> None:
        preflight.check_locations(request.source, request.store)
        self.executor = "local" if request.plan_only else preflight.chosen_executor(request.executor)
        self.request = request
        self.terminal = terminal
        self.signals = signals
        self.started = time.perf_counter()
        self.root = Path(request.store).absolute()
        self.features = ready_features(request.config)
        self.ignored: dict[str, int] = {}

    def execute(self) -> ExtractResult:
        with _no_cycle_collection():
            source = self.request.config.source
            rules = Rules(source.protocols, source.root, source.table_bytes, self.request.config.media.stall_s)
            listing = read_source(self.request.source, source.key, source.image_rate, rules)
        items = listing.items
        if listing.ignored:
            self.terminal.line(listing.describe_ignored())
        self.ignored = dict(sorted(listing.ignored.items()))
        self._check_only(items)
        if self.request.plan_only:
            return self._plan_only(items)
        preflight.check_writable(self.root)
        create_store(self.root)
        manifest, shards, rows = adopt(self.root, load(self.root), list(self._current().items()))
        if shards:
            self.terminal.line(f"adopted {rows} rows in {shards} finished shards that an earlier run left uncommitted")
        plan = self._plan(manifest, items)
        if not plan.is_empty:
            extract_preflight.check_space(self.root, plan)
        for feature in self.features.values():
            write_spec(self.root, feature.spec)
        return self._nothing_to_do(manifest, plan) if plan.is_empty else self._run(manifest, plan)

    def _check_only(self, items: Sources) -> None:
        only = self.request.options.only
        unknown = sorted(only - {item.key for item in items.take(items.positions(only))})
        if unknown:
            raise UsageError(f"--only {unknown[0]}: no such key in {self.request.source}")

    def _current(self) -> dict[str, str]:
        return {name: feature.spec_digest for name, feature in self.features.items()}

    def _plan(self, manifest: Manifest, items: Sources) -> Plan:
        def on_hashed(done: int, total: int) -> None:
            self.terminal.stage("hash", done, total)

        def on_read(done: int, total: int) -> None:
            self.terminal.stage("read packets", done, total)

        with _no_cycle_collection():
            plan = make_plan(
                self.root,
                manifest,
                items,
                tuple(self.features.values()),
                self.request.options,
                on_hashed,
                Surveyor(self.root, self._context().media_process, on_read),
                self.request.config.media.bounds(),
            )
        self.terminal.close()
        return plan

    def _plan_only(self, items: Sources) -> ExtractResult:
        try:
            manifest = load(self.root)
        except StoreNotFoundError:
            manifest = first_manifest()
        plan = self._plan(manifest, items)
        summary = PlanSummary.of_plan(plan, self.features, self.ignored, device_type_here(self.request.config.run))
        per_unit = past_seconds_per_unit(self.root, list(self.features))
        seconds = None if per_unit is None else per_unit * len(plan.units)
        show_plan(self.terminal, plan, summary, seconds)
        return ExtractResult(plan=summary, seconds_estimated=None if seconds is None else round(seconds, 1))

    def _nothing_to_do(self, manifest: Manifest, plan: Plan) -> ExtractResult:
        """Renew the stamps of sources, if any; all wanted rows are stored or known to fail."""
        changes = Changes(sources=plan.sources, current=self._current())
        manifest = commit(self.root, changes) if changes else manifest
        skipped = f"; {len(plan.skipped)} failed before, retry them with --retry-failed" if plan.skipped else ""
        self.terminal.line(
            f"nothing to do: {plan.stored} of {plan.wanted} wanted rows are stored "
            f"(version {manifest.version}){skipped}"
        )
        show_failures(self.terminal, plan.skipped)
        return self._result(plan, Progress(), manifest.version)

    def _run(self, manifest: Manifest, plan: Plan) -> ExtractResult:
        """Compute the units of a plan, commit their rows, and sum up."""
        events = EventLog(self.root)
        events.emit(
            "plan",
            reasons={name: dict(counts) for name, counts in plan.reasons.items()},
            videos=len(plan.units),
            source=self.request.source,
            version=manifest.version,
            **({} if self.request.options.only else {"features": self._wanted(manifest, plan)}),
        )
        replace = self.request.options.force
        ledger = Ledger(self.root, manifest, plan, self.features, events, self.signals, replace)
        started = time.perf_counter()
        stop = self._carry(plan, ledger) if plan.carried else None
        if plan.units and stop is None:
            stop = self._compute(plan, ledger)
        seconds = time.perf_counter() - started if plan.units else 0.0
        result = self._result(plan, ledger.progress, ledger.manifest.version, seconds, stop)
        events.emit("summary", **result.summary())
        self._conclude(plan, ledger, result)
        return result

    def _wanted(self, manifest: Manifest, plan: Plan) -> dict[str, dict[str, int | str]]:
        """Return what the plan wants of each feature, as ``stores.describe`` reads it to tell the coverage."""
        wanted: dict[str, dict[str, int | str]] = {}
        for name, spec_digest in self._current().items():
            counts = plan.reasons[name]
            wanted[name] = {
                "spec": spec_digest,
                "wanted": sum(count for reason, count in counts.items() if reason != Reason.REMOVED),
                "lacking": plan.lacking[name],
                "rows": manifest.spec_entry(name, spec_digest).rows,
            }
        return wanted

    def _compute(self, plan: Plan, ledger: Ledger) -> StopRequestedError | None:
        """Run the executor and enter its outcomes; return the stop, if one came."""
        config = self.request.config
        extract_preflight.check_backend(config.media.backend, self.executor, config.run)
        for feature in self.features.values():
            if feature.spec["random_weights"]:
                self.terminal.warn(f"feature {feature.name!r} uses random weights; its rows are placeholders")
        context = self._context()
        extract_preflight.check_weights(context.wanted_features(plan.units))

        def accept(outcome: Outcome) -> None:
            ledger.accept(outcome)
            if isinstance(outcome, UnitDone):
                failed = len(ledger.progress.failures)
                note = f"{plural(failed, 'row')} failed" if failed else ""
                self.terminal.stage("extract", ledger.progress.videos, len(plan.units), note)

        executor = self._executor()
        outcomes = executor.run(context, plan.units)
        try:
            ended_by = consume(outcomes, accept, on_stop=ledger.commit)
            if ended_by is None:
                ledger.settle()
        finally:
            outcomes.close()
            ledger.commit()
            executor.close()
            context.remove_copies()
        if isinstance(ended_by, MachineFaultError):
            raise UsageError(
                f"{ended_by}. No row was marked for it; {plural(ledger.progress.computed, 'row')} of this run are "
                f"committed (version {ledger.manifest.version}); mend it or leave it out, then run the same command"
            ) from ended_by
        return ended_by

    def _context(self) -> RunContext:
        config = self.request.config
        return RunContext(self.root, self.features, config.media, config.limits(), config.source.root)

    def _carry(self, plan: Plan, ledger: Ledger) -> StopRequestedError | None:
        """Copy the rows that older specs lend; return the stop, if one came."""
        run = self.request.config.run
        try:
            for receipt, placed in copy_rows(self.root, self.features, plan.carried, run.shard_mb, run.shard_rows):
                ledger.carry(receipt, placed)
        except StopRequestedError as stop:
            return stop
        finally:
            ledger.commit()
        return None

    def _executor(self) -> Executor:
        run = self.request.config.run
        if self.executor == "ray":
            from pipeline.extract.on_ray import RayExecutor  # here, because Ray takes seconds to import

            return RayExecutor(run, self.signals, self.terminal.line)
        return LocalExecutor(run, self.terminal.line)

    def _result(
        self,
        plan: Plan,
        progress: Progress,
        version: int,
        compute_s: float = 0.0,
        stop: StopRequestedError | None = None,
    ) -> ExtractResult:
        wall_s = time.perf_counter() - self.started
        return ExtractResult(
            plan=PlanSummary.of_plan(plan, self.features, self.ignored, device_type_here(self.request.config.run)),
            run=RunSummary.of_run(plan, progress, version, wall_s, compute_s),
            stopped_by=None if stop is None else str(stop),
        )

    def _conclude(self, plan: Plan, ledger: Ledger, result: ExtractResult) -> None:
        """Bring what is derived from rows up to date, and print the result."""
        self.terminal.close()
        if result.stopped_by is not None:
            self.terminal.line(
                f"stopped by {result.stopped_by}: {ledger.progress.computed} rows of this run are committed "
                f"(version {ledger.manifest.version}); run the same command again to continue"
            )
            return
        mark_stale(self.root)
        write_card(self.root)
        show_failures(self.terminal, [*ledger.progress.failures, *plan.skipped])
        if result.plan is not None and result.run is not None:
            show_summary(self.terminal, result.plan, result.run)


@contextmanager
def _no_cycle_collection() -> Iterator[None]:
    """Stop the cycle collector: planning makes a few objects per file, none in a cycle, and it would visit them all."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
