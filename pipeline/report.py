"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, all on stderr."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.executors.outcomes import StageTimes
from pipeline.plan import COMPUTED, Plan

_LINE_EVERY_S = 10.0
_FAILURES_SHOWN = 20


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class Reporter:
    """Progress and results of one run."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def _print(self, markup: str) -> None:
        self.console.print(markup, emoji=False)  # a key may look like :cat:

    def line(self, text: str) -> None:
        self._print(escape(text))

    def warn(self, text: str) -> None:
        self._print(f"[yellow]warning:[/yellow] {escape(text)}")

    def stage(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move one bar; elsewhere than on a terminal print a line every ten seconds."""
        if not self.console.is_terminal:
            if time.monotonic() - self._last_line >= _LINE_EVERY_S:
                self._last_line = time.monotonic()
                self.line(f"{name}: {done}/{total}{' · ' + note if note else ''}")
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._bar.start()
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total, note=note)
        self._bar.update(self._tasks[name], completed=done, total=total, note=escape(note))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks.clear()

    def plan(self, plan: Plan, names: Mapping[str, str], seconds: float | None) -> None:
        """A table of reasons by feature, then bytes and time."""
        used = [reason for reason in _reasons(plan) if any(plan.reasons[name][reason] for name in plan.reasons)]
        table = Table(title="plan", title_justify="left")
        table.add_column("feature")
        table.add_column("spec")
        for reason in used:
            table.add_column(reason, justify="right")
        for name, counts in plan.reasons.items():
            table.add_row(name, names[name][:8], *(str(counts[reason]) for reason in used))
        self.console.print(table)
        estimate = "unknown (no earlier run)" if seconds is None else f"about {_duration(seconds * len(plan.units))}"
        self.line(
            f"to compute: {plan.rows_to_compute} rows of {len(plan.units)} videos "
            f"({human_bytes(plan.bytes_to_read)} to read, {human_bytes(plan.bytes_to_write)} to write); time: "
            + (estimate if plan.units else "none")
        )

    def failures(self, failures: list[dict[str, Any]]) -> None:
        """The rows that are missing, one line each (the first twenty)."""
        for failure in failures[:_FAILURES_SHOWN]:
            kind = f"{failure['class']} ({'permanent' if failure['permanent'] else 'transient'})"
            self._print(
                f"[red]missing:[/red] {escape(failure['feature'])} {escape(repr(failure['video_id']))}: {kind}: "
                f"{escape(failure['message'])}"
            )
        if len(failures) > _FAILURES_SHOWN:
            self.line(f"… and {len(failures) - _FAILURES_SHOWN} more; `python jobs/store.py inspect DIR` lists all")

    def summary(self, summary: Mapping[str, Any], times: StageTimes) -> None:
        by_class = Counter(summary["failures_by_class"])
        failed = ", ".join(f"{count} {kind}" for kind, count in sorted(by_class.items())) or "none"
        self.line(
            f"stored {summary['stored']} of {summary['wanted']} wanted rows "
            f"({summary['computed']} computed now), version {summary['version']}; missing: {failed}"
        )
        if summary["computed"]:
            decode = times.frames / times.decode_s if times.decode_s else 0.0
            model = times.steps / times.model_s if times.model_s else 0.0
            waiting = f"{times.waiting_s:.1f} s waiting for decoders, " if times.waiting_s else ""
            self.line(
                f"{_duration(summary['wall_s'])}: {decode:.1f} frames/s a decode worker, {model:.1f} steps/s in "
                f"models, {waiting}{human_bytes(summary['bytes_written'])} written"
            )


def _reasons(plan: Plan) -> list[str]:
    order = ["stored", "duplicate", *COMPUTED, "failed_permanent", "removed"]
    return [str(reason) for reason in order]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
