"""Tells a person and a script about an extraction: its plan, its failures, its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from extractors.dtypes import describe
from pipeline.extract.features import Feature
from pipeline.extract.ledger import Progress
from pipeline.extract.plan import COMPUTED, Plan, Reason
from pipeline.shared import MachineConfig, StageResult, Terminal, duration, human_bytes
from pipeline.shared.sizing import visible_gpus
from stores.commit import Failure

_FAILURES_SHOWN = 20  # about a screen; the store lists them all
_REASONS = (Reason.STORED, Reason.DUPLICATE, Reason.CARRIED, *COMPUTED, Reason.FAILED_PERMANENT, Reason.REMOVED)


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """A plan in numbers.

    Attributes
    ----------
    features
        Names of the features.
    specs
        Feature name to spec digest.
    wanted, stored, to_compute
        Number of rows that are wanted, need no computing, and are to be computed.
    videos
        Number of videos to decode.
    skipped
        Number of rows that failed before and are not tried again.
    reasons
        Feature name to the number of rows by reason.
    bytes_to_read, bytes_to_write
        Size of the files to decode, and estimated size of the new rows.
    ignored
        Number of files that the source's listing left out, by suffix.
    computes_in
        Feature name to what its network computes in, and on this machine, where that is not float32 everywhere.
    """

    features: list[str]
    specs: dict[str, str]
    wanted: int
    stored: int
    to_compute: int
    videos: int
    skipped: int
    reasons: dict[str, dict[str, int]]
    bytes_to_read: int
    bytes_to_write: int
    ignored: dict[str, int]
    computes_in: dict[str, str]

    @classmethod
    def of_plan(
        cls,
        plan: Plan,
        features: Mapping[str, Feature],
        ignored: Mapping[str, int] | None = None,
        device_type: str = "cpu",
    ) -> PlanSummary:
        """Sum up a plan; ``device_type``, cpu or cuda, is where models run on this machine."""
        entries = {name: feature.spec["model"].get("compute_dtype") for name, feature in features.items()}
        computes_in = {name: describe(entry, device_type) for name, entry in entries.items()}
        return cls(
            features=list(features),
            specs={name: feature.spec_digest for name, feature in features.items()},
            wanted=plan.wanted,
            stored=plan.stored + len(plan.carried),
            to_compute=plan.rows_to_compute,
            videos=len(plan.units),
            skipped=len(plan.skipped),
            reasons={name: {str(k): v for k, v in sorted(counts.items())} for name, counts in plan.reasons.items()},
            bytes_to_read=plan.bytes_to_read,
            bytes_to_write=plan.bytes_to_write,
            ignored=dict(ignored or {}),
            computes_in={name: text for name, text in computes_in.items() if text is not None},
        )


def device_type_here(machine: MachineConfig) -> str:
    """Return where models run on this machine, ``cpu`` or ``cuda``, by the configuration and the GPUs that are seen."""
    if machine.device != "auto":
        return machine.device.partition(":")[0]
    return "cuda" if machine.gpus != 0 and visible_gpus() else "cpu"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes
    ----------
    stored
        Number of wanted rows that the store holds at the end.
    carried
        Number of rows that were copied from an older spec.
    computed, failed
        Number of rows that were computed, and that could not be.
    failures, failures_by_class
        The wanted rows that the store lacks, and their number by failure class.
    version
        The version of the store afterwards.
    videos_done, frames_decoded, steps_computed, bytes_written
        How much was done.
    sandbox
        Number of videos by what kept their decoder from doing anything else: ``seccomp`` (it could open no file, reach
        no network and start no process), ``seccomp, files may be opened`` or ``rlimits``.
    wall_s, compute_s, decode_s, model_s, write_s, waiting_s
        Seconds: in all, of the executor, and of these in decoders (summed over workers), in models, in writing, and
        spent waiting for decoders.
    """

    stored: int
    carried: int
    computed: int
    failed: int
    failures_by_class: dict[str, int]
    failures: list[dict[str, Any]]
    version: int
    videos_done: int
    bytes_written: int
    wall_s: float
    compute_s: float
    decode_s: float
    model_s: float
    write_s: float
    waiting_s: float
    frames_decoded: int
    steps_computed: int
    sandbox: dict[str, int]

    @classmethod
    def of_run(cls, plan: Plan, progress: Progress, version: int, wall_s: float, compute_s: float) -> RunSummary:
        """Sum up a run."""
        missing = [*progress.failures, *plan.skipped]
        times = progress.times
        return cls(
            stored=plan.stored + progress.carried + progress.computed + progress.linked - len(plan.placed),
            carried=progress.carried,
            computed=progress.computed,
            failed=len(progress.failures),
            failures_by_class=dict(sorted(Counter(failure.failure_class for failure in missing).items())),
            failures=[failure.record() for failure in missing],
            version=version,
            videos_done=progress.videos,
            bytes_written=progress.bytes_written,
            wall_s=round(wall_s, 3),
            compute_s=round(compute_s, 3),
            decode_s=round(times.decode_s, 3),
            model_s=round(times.model_s, 3),
            write_s=round(times.write_s, 3),
            waiting_s=round(times.waiting_s, 3),
            frames_decoded=times.frames,
            steps_computed=times.steps,
            sandbox=dict(sorted(times.sandboxes.items())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult(StageResult):
    """How an extraction ended.

    Attributes
    ----------
    plan
        What was planned; None if a signal came before the plan.
    run
        What was done; None for a plan only, or if a signal came before anything was done.
    seconds_estimated
        For a plan only: seconds that it will take, judged by past runs; None if there are none.
    """

    plan: PlanSummary | None = None
    run: RunSummary | None = None
    seconds_estimated: float | None = None

    @property
    def has_work(self) -> bool:
        if self.plan is None:
            return False
        carried = sum(counts.get(str(Reason.CARRIED), 0) for counts in self.plan.reasons.values())
        return self.plan.to_compute > 0 or carried > 0

    @property
    def incomplete(self) -> bool:
        return self.run is not None and bool(self.run.failures)

    def summary(self) -> dict[str, Any]:
        record: dict[str, Any] = asdict(self.plan) if self.plan else {}
        if self.run is not None:
            return {**record, **asdict(self.run), "stopped_by": self.stopped_by}
        if self.stopped_by is not None:
            return {**record, "stopped_by": self.stopped_by}
        return {**record, "seconds_estimated": self.seconds_estimated}


def show_plan(terminal: Terminal, plan: Plan, summary: PlanSummary, seconds: float | None) -> None:
    """Print a table of reasons by feature, then what half precision there is, then bytes and time."""
    used = [reason for reason in _REASONS if any(counts[reason] for counts in plan.reasons.values())]
    table = Table(title="plan", title_justify="left")
    table.add_column("feature")
    table.add_column("spec")
    for reason in used:
        table.add_column(str(reason), justify="right")
    for name, counts in plan.reasons.items():
        table.add_row(name, summary.specs[name][:8], *(str(counts[reason]) for reason in used))
    terminal.table(table)
    by_text: dict[str, list[str]] = {}
    for name, text in summary.computes_in.items():
        by_text.setdefault(text, []).append(name)
    for text, names in by_text.items():
        terminal.line(f"{', '.join(names)}: {text}")
    time = "none"
    if plan.units:
        time = "unknown (no earlier run)" if seconds is None else f"about {duration(seconds)}"
    terminal.line(
        f"to compute: {summary.to_compute} rows of {summary.videos} videos "
        f"({human_bytes(summary.bytes_to_read)} to read, {human_bytes(summary.bytes_to_write)} to write); time: {time}"
    )


def show_failures(terminal: Terminal, failures: Sequence[Failure]) -> None:
    """Print the missing rows, one line each, up to the first twenty."""
    for failure in failures[:_FAILURES_SHOWN]:
        lasting = "permanent" if failure.permanent else "transient"
        terminal.labelled(
            "missing",
            f"{failure.feature} {failure.video_id!r}: {failure.failure_class} ({lasting}): {failure.message}",
        )
    if len(failures) > _FAILURES_SHOWN:
        more = len(failures) - _FAILURES_SHOWN
        terminal.line(f"… and {more} more; run 'python jobs/store.py inspect DIR' to list them all")


def show_summary(terminal: Terminal, plan: PlanSummary, run: RunSummary) -> None:
    """Print what the store holds now and, if anything was computed, how fast."""
    failed = ", ".join(f"{count} {name}" for name, count in run.failures_by_class.items()) or "none"
    carried = f", {run.carried} carried over from an older spec" if run.carried else ""
    terminal.line(
        f"stored {run.stored} of {plan.wanted} wanted rows "
        f"({run.computed} computed now{carried}), version {run.version}; missing: {failed}"
    )
    if not run.computed:
        return
    decode = run.frames_decoded / run.decode_s if run.decode_s else 0.0
    model = run.steps_computed / run.model_s if run.model_s else 0.0
    waiting = f"{run.waiting_s:.1f} s waiting for decoders, " if run.waiting_s else ""
    terminal.line(
        f"{duration(run.wall_s)}: {decode:.1f} frames/s per decode worker, {model:.1f} steps/s in "
        f"models, {waiting}{human_bytes(run.bytes_written)} written"
    )
