"""One run: source → plan → execute → commit → summary. The executors differ, this does not."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from extractors.base import ExtractorError
from pipeline import preflight
from pipeline.config import Config
from pipeline.errors import PreflightError, UsageError
from pipeline.events import EventLog, past_seconds_per_unit
from pipeline.executors.outcomes import Outcome, StageTimes, UnitDone
from pipeline.jobspec import FeatureJob, feature_jobs
from pipeline.media.types import PERMANENT
from pipeline.plan import Options, Plan, Unit, failed_content, make_plan
from pipeline.report import Reporter
from pipeline.signals import StopRequestedError, StopSignals
from pipeline.sizing import Sizing, choose
from pipeline.sources import SourceItem, read_source
from pipeline.staleness import mark_stale
from pipeline.work import Models, UnitFailure, UnitUnchanged, Work
from pipeline.writing import FinishedShard
from stores.card import write_card
from stores.commit import Changes, Failure, commit, create_store, place_shard, write_spec
from stores.errors import StoreNotFoundError
from stores.manifest import Manifest, first_manifest, load
from stores.verify import adopt

_COMMIT_EVERY_S = 2.0

ExecutorName = Literal["auto", "local", "ray"]


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for."""

    source: str
    store: str
    config: Config
    executor: ExecutorName = "auto"
    plan_only: bool = False
    allow_failures: bool = False
    options: Options = field(default_factory=Options)


@dataclass(slots=True)
class Result:
    """How a run ended. ``summary`` is JSON-able."""

    exit_code: int
    summary: dict[str, Any]


def run(request: Request, reporter: Reporter | None = None) -> Result:
    """Make the store hold every wanted row, computing only what is missing.

    Returns
    -------
    Result
        ``exit_code`` 0 when all wanted rows are stored (or failures are allowed), 3 when some are
        missing, 143 or 130 after SIGTERM or SIGINT.

    Raises
    ------
    UsageError
        For anything that a user must change first.
    """
    reporter = reporter or Reporter()
    try:
        job = _Run(request, reporter)
        with job.signals:
            return job.execute()
    except StopRequestedError as stop:  # before or after the computing, which handles a stop itself
        reporter.line(f"stopped by {stop}; run the same command again to go on")
        return Result(stop.exit_code, {"stopped_by": str(stop)})
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{where}{error.strerror or error}; what was committed is safe, run again") from error
    finally:
        reporter.close()


@dataclass(slots=True)
class _Progress:
    """What the run has done so far."""

    videos: int = 0
    computed: int = 0
    linked: int = 0
    bytes_written: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    times: StageTimes = field(default_factory=StageTimes)


class _Run:
    def __init__(self, request: Request, reporter: Reporter) -> None:
        self.request = request
        self.reporter = reporter
        self.started = time.perf_counter()
        preflight.check_locations(request.source, request.store)
        self.root = Path(request.store).absolute()
        self.jobs = feature_jobs(request.config)
        self.signals = StopSignals()
        self.progress = _Progress()
        self.pending = Changes()
        self.last_commit = time.monotonic()
        self.compute_s = 0.0

    def execute(self) -> Result:
        with _no_cycle_collection():
            items = read_source(self.request.source, self.request.config.source.key)
        self._check_only(items)
        if self.request.plan_only:
            return self._plan_only(items)
        preflight.check_writable(self.root)
        create_store(self.root)
        manifest, shards, rows = adopt(self.root, load(self.root), list(self._current().items()))
        if shards:
            self.reporter.line(f"adopted {rows} rows in {shards} finished shards that an earlier run left uncommitted")
        plan = self._plan(manifest, items)
        if plan.is_empty:
            return self._nothing_to_do(manifest, plan)
        preflight.check_space(self.root, plan)
        for job in self.jobs:
            write_spec(self.root, job.spec)
        self.events = EventLog(self.root)
        self.events.emit(
            "plan",
            reasons={k: dict(v) for k, v in plan.reasons.items()},
            videos=len(plan.units),
            source=self.request.source,
        )
        manifest, stop = self._compute(manifest, plan)
        return self._finish(manifest, plan, stop)

    def _check_only(self, items: Sequence[SourceItem]) -> None:
        unknown = sorted(self.request.options.only - {item.key for item in items})
        if unknown:
            raise UsageError(f"--only {unknown[0]}: no such key in {self.request.source}")

    def _plan(self, manifest: Manifest, items: Sequence[SourceItem]) -> Plan:
        with _no_cycle_collection():
            plan = make_plan(self.root, manifest, items, self.jobs, self.request.options, self._on_hashed)
        self.reporter.close()
        return plan

    def _on_hashed(self, done: int, total: int) -> None:
        self.reporter.stage("hash", done, total)

    def _plan_only(self, items: Sequence[SourceItem]) -> Result:
        try:
            manifest = load(self.root)
        except StoreNotFoundError:
            manifest = first_manifest()
        plan = self._plan(manifest, items)
        seconds = past_seconds_per_unit(self.root, [job.name for job in self.jobs])
        self.reporter.plan(plan, {job.name: job.spec_digest for job in self.jobs}, seconds)
        summary = {
            **_plan_summary(plan, self.jobs),
            "seconds_estimated": None if seconds is None else round(seconds * len(plan.units), 1),
        }
        return Result(0, summary)

    def _nothing_to_do(self, manifest: Manifest, plan: Plan) -> Result:
        """All wanted rows are stored or known to fail; at most stamps of sources are renewed."""
        changes = Changes(sources=plan.sources, current=self._current())
        for job in self.jobs:
            write_spec(self.root, job.spec)
        manifest = commit(self.root, changes) if changes else manifest
        self.reporter.line(
            f"nothing to do: {plan.stored} of {plan.wanted} wanted rows are stored (version {manifest.version})"
            + (f", {len(plan.skipped)} failed before; --retry-failed tries them again" if plan.skipped else "")
        )
        self.reporter.failures(plan.skipped)
        return Result(self._exit_code(plan), self._summary(manifest, plan, None))

    def _current(self) -> dict[str, str]:
        return {job.name: job.spec_digest for job in self.jobs}

    def _compute(self, manifest: Manifest, plan: Plan) -> tuple[Manifest, StopRequestedError | None]:
        """Run the executor and commit as shards finish; return the last manifest and the stop, if one came."""
        # Copies: what is pending grows, and the plan is what the summary counts from.
        self.pending = Changes(
            placed=[*plan.placed],
            removed=[*plan.removed],
            settled=[*plan.settled],
            failures=[*plan.failures],
            sources=[*plan.sources],
        )
        self.progress.linked = len(plan.placed)
        self.progress.failures = [failure.record() for failure in plan.failures]
        if not plan.units:
            self.pending.current = self._current()
            return commit(self.root, self.pending), None
        manifest = self._commit() or manifest
        self.pending.current = self._current()
        stopped: StopRequestedError | None = None
        started = time.perf_counter()
        outcomes = self._outcomes(plan)
        try:
            stopped = self._consume(outcomes, plan)
        finally:
            outcomes.close()
            self.compute_s = time.perf_counter() - started
            manifest = self._commit() or manifest
        return manifest, stopped

    def _consume(self, outcomes: Generator[Outcome, None, None], plan: Plan) -> StopRequestedError | None:
        """Take outcomes until the executor ends. A stop that arrives here is thrown into the executor,
        which then yields what it has finished and raises it again."""
        stop: StopRequestedError | None = None
        throw = False
        while True:
            try:
                if throw and stop is not None:
                    throw = False
                    outcome = outcomes.throw(stop)
                else:
                    outcome = next(outcomes)
                with self.signals.critical():
                    self._accept(outcome, plan)
            except StopIteration:
                return stop
            except StopRequestedError as error:
                if stop is not None:
                    return stop
                self._commit()  # at once: an executor may take seconds to end
                stop, throw = error, True

    def _outcomes(self, plan: Plan) -> Generator[Outcome, None, None]:
        config = self.request.config
        preflight.check_backend(config.media.backend, self._executor())
        work = Work(self.root, self.jobs, config.media, config.limits())
        for job in self.jobs:
            if job.spec["random_weights"]:
                self.reporter.warn(f"feature {job.name!r} uses random weights; its rows are placeholders")
        if self._executor() == "ray":
            from pipeline.executors.ray import run_ray

            return run_ray(work, plan.units, config.run, self.signals, self.reporter.line)
        sizing = choose(config.run)
        self.reporter.line(f"local: {sizing.describe()}")
        return self._local(work, plan.units, sizing)

    def _local(self, work: Work, units: Sequence[Unit], sizing: Sizing) -> Generator[Outcome, None, None]:
        from pipeline.executors.local import run_local

        try:
            models = Models.load(work.jobs_of(units), sizing.device, sizing.model_threads)
        except ExtractorError as error:
            raise PreflightError(str(error)) from error
        yield from run_local(work, units, self.request.config.run, sizing, models, self.signals)

    def _executor(self) -> Literal["local", "ray"]:
        if self.request.executor == "auto":
            return "ray" if preflight.in_ray_job() else "local"
        return self.request.executor

    def _accept(self, outcome: Outcome, plan: Plan) -> None:
        progress = self.progress
        if isinstance(outcome, FinishedShard):
            placed = place_shard(self.root, outcome.receipt, outcome.aliases)
            if self.request.options.force:
                self.pending.replace = True
            self.pending.placed += placed
            self.pending.shards.append(outcome.receipt)
            self.pending.sources += outcome.sources
            progress.computed += len(placed)
            progress.bytes_written += outcome.receipt.bytes
        elif isinstance(outcome, UnitFailure):
            self._accept_failure(outcome)
        elif isinstance(outcome, UnitUnchanged):
            self.pending.sources.append(outcome.source)
            progress.linked += len(outcome.unit.keys) * len(outcome.unit.features)
        elif isinstance(outcome, UnitDone):
            progress.videos += outcome.units
            progress.times.add(outcome.times)
            failed = f"{len(progress.failures)} failed" if progress.failures else ""
            self.reporter.stage("extract", progress.videos, len(plan.units), failed)
        worth_it = self.pending.placed or self.pending.failures
        if worth_it and time.monotonic() - self.last_commit >= _COMMIT_EVERY_S:
            self._commit()

    def _accept_failure(self, outcome: UnitFailure) -> None:
        unit = outcome.unit
        content = failed_content(
            outcome.source.content_id if outcome.source else unit.content, unit.start_s, unit.end_s
        )
        for name in outcome.features:
            spec = next(job.spec_digest for job in self.jobs if job.name == name)
            for key in unit.keys:
                failure = Failure(
                    video_id=key,
                    feature=name,
                    spec=spec,
                    kind=outcome.kind,
                    permanent=outcome.kind in PERMANENT,
                    message=outcome.message,
                    uri=unit.uri,
                    content_id=content,
                    attempts=unit.attempts.get(name, 0) + 1,
                )
                self.pending.failures.append(failure)
                self.progress.failures.append(failure.record())
                self.events.emit("failure", **failure.record())

    def _commit(self) -> Manifest | None:
        """Publish what is pending; None when there was nothing."""
        self.last_commit = time.monotonic()
        if not self.pending:
            return None
        with self.signals.critical():
            return self._commit_pending()

    def _commit_pending(self) -> Manifest:
        manifest = commit(self.root, self.pending)
        self.events.emit(
            "commit", version=manifest.version, rows=len(self.pending.placed), failures=len(self.pending.failures)
        )
        self.pending = Changes(current=self.pending.current)
        return manifest

    def _finish(self, manifest: Manifest, plan: Plan, stop: StopRequestedError | None) -> Result:
        self.reporter.close()
        summary = self._summary(manifest, plan, stop)
        self.events.emit("summary", **summary)
        if stop is not None:
            self.reporter.line(
                f"stopped by {stop}: {self.progress.computed} rows of this run are committed "
                f"(version {manifest.version}); run the same command again to go on"
            )
            return Result(stop.exit_code, summary)
        mark_stale(self.root)
        write_card(self.root)
        self.reporter.failures([*self.progress.failures, *plan.skipped])
        self.reporter.summary(summary, self.progress.times)
        return Result(self._exit_code(plan), summary)

    def _exit_code(self, plan: Plan) -> int:
        missing = bool(self.progress.failures or plan.skipped)
        return 3 if missing and not self.request.allow_failures else 0

    def _summary(self, manifest: Manifest, plan: Plan, stop: StopRequestedError | None) -> dict[str, Any]:
        progress = self.progress
        failures = [*progress.failures, *plan.skipped]
        times = progress.times
        return {
            **_plan_summary(plan, self.jobs),
            "stored": plan.stored + progress.computed + progress.linked - len(plan.placed),
            "computed": progress.computed,
            "failed": len(progress.failures),
            "failures_by_class": dict(sorted(Counter(failure["class"] for failure in failures).items())),
            "failures": failures,
            "version": manifest.version,
            "videos_done": progress.videos,
            "bytes_written": progress.bytes_written,
            "wall_s": round(time.perf_counter() - self.started, 3),
            "compute_s": round(self.compute_s, 3),
            "decode_s": round(times.decode_s, 3),
            "model_s": round(times.model_s, 3),
            "write_s": round(times.write_s, 3),
            "waiting_s": round(times.waiting_s, 3),
            "frames_decoded": times.frames,
            "steps_computed": times.steps,
            "stopped_by": str(stop) if stop else None,
        }


@contextmanager
def _no_cycle_collection() -> Iterator[None]:
    """Planning makes a few objects a file, none in a cycle; the collector would walk all of them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _plan_summary(plan: Plan, jobs: Sequence[FeatureJob]) -> dict[str, Any]:
    return {
        "features": [job.name for job in jobs],
        "specs": {job.name: job.spec_digest for job in jobs},
        "wanted": plan.wanted,
        "stored": plan.stored,
        "to_compute": plan.rows_to_compute,
        "videos": len(plan.units),
        "skipped": len(plan.skipped),
        "reasons": {name: {str(k): v for k, v in sorted(counts.items())} for name, counts in plan.reasons.items()},
        "bytes_to_read": plan.bytes_to_read,
        "bytes_to_write": plan.bytes_to_write,
    }
