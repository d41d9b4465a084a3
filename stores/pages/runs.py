"""What the event logs tell of the runs that filled a store: when, from what, how fast; how to try failures again."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..format import layout
from ..store import Store
from . import charts

SHOWN = 50
"""The page shows at most this many runs, the latest."""
_FAILURE = b'"event": "failure"'


@dataclass(slots=True)
class Run:
    """A run as its log tells it.

    Attributes
    ----------
    log
        Name of the log.
    started
        Unix seconds of its first event.
    stage
        ``extract`` or ``parse``.
    plan, summary
        Fields of these events; empty if the log has none, as ``summary`` of a run that was killed.
    commits
        Unix seconds of each commit, with its rows.
    failures
        Number of failures that were logged.
    """

    log: str
    started: float = 0.0
    stage: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    commits: list[tuple[float, int]] = field(default_factory=list)
    failures: int = 0

    @property
    def start(self) -> str:
        """When it began, in UTC."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.started))

    @property
    def what(self) -> str:
        """What it read: a source of videos, or a split's questions."""
        return str(self.plan.get("source") or self.plan.get("part") or "")

    @property
    def seconds(self) -> float:
        """How long it took: as it says itself, else until the last commit."""
        wall = self.summary.get("wall_s")
        return float(wall) if wall else max(0.0, (self.commits[-1][0] if self.commits else self.started) - self.started)

    @property
    def end(self) -> str:
        """How it ended."""
        if not self.summary:
            return "has no end: it was killed, or is going on"
        stopped = self.summary.get("stopped_by")
        return f"stopped by {stopped}" if stopped else "finished"

    def facts(self) -> list[tuple[str, str]]:
        """Return its throughput, of what it measured, as (subject, value)."""
        told, seconds = self.summary, self.summary.get("compute_s") or 0.0
        facts = [("rows committed", f"{sum(rows for _, rows in self.commits):,}")]
        if seconds and told.get("videos_done"):
            facts.append(("videos per hour", f"{told['videos_done'] / seconds * 3600:,.0f}"))
        if seconds and told.get("bytes_written"):
            facts.append(("MB written per hour", f"{told['bytes_written'] / seconds * 3600 / 1e6:,.1f}"))
        for name, title in (("frames_decoded", "frames decoded"), ("steps_computed", "steps computed")):
            if told.get(name):
                facts.append((title, f"{told[name]:,}"))
        for name, title in (
            ("decode_s", "s of decoding"),
            ("model_s", "s in models"),
            ("write_s", "s of writing"),
            ("waiting_s", "s of waiting"),
        ):
            if name in told:
                facts.append((title, f"{told[name]:,.1f}"))
        return facts

    def chart(self) -> Markup | None:
        """Draw rows committed per second over the run; None if it has no two moments to draw between."""
        rows = [(moment - self.started, count) for moment, count in self.commits if count]
        if not rows or rows[-1][0] <= 0:
            return None
        return charts.rates([moment for moment, _ in rows], [count for _, count in rows], "rows", "since the start")


def read_runs(store: Store) -> tuple[list[Run], int]:
    """Return the latest runs up to the pinned version, the latest first, and how many logs there are."""
    logs = sorted((store.path / layout.EVENTS).glob("*.jsonl"), reverse=True)
    runs = [run for log in logs[:SHOWN] if (run := _read(log, store.version)).started]
    return sorted(runs, key=lambda run: (-run.started, run.log)), len(logs)


def _read(log: Path, version: int) -> Run:
    run = Run(log.name)
    for line in log.read_bytes().splitlines():
        if _FAILURE in line[:200]:
            run.failures += 1
            continue
        try:
            event = json.loads(line)
            name, moment = event["event"], float(event["time"])
        except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
            continue
        if event.get("version", 0) > version:
            continue
        run.started = run.started or moment
        if name in ("plan", "parse_plan"):
            run.stage, run.plan = ("parse" if name == "parse_plan" else "extract"), event
        elif name in ("summary", "parse_summary"):
            run.summary = event
        elif name == "commit":
            run.commits.append((moment, int(event.get("rows", event.get("parses", 0)))))
    return run


def retry_command(store: Store, commands: Iterator[str] | Sequence[str]) -> str:
    """Return the command line that tries failed rows again.

    Parameters
    ----------
    store
        The store.
    commands
        The command lines that published its versions, the latest first.
    """
    for command in commands:
        try:
            words = shlex.split(command)
        except ValueError:
            continue
        if words and Path(words[0]).stem == "extract":
            left = [word for word in words[1:] if word not in ("--retry-failed", "--plan")]
            return shlex.join(["python", "jobs/extract.py", *left, "--retry-failed"])
    source = next((run.what for run in read_runs(store)[0] if run.stage == "extract" and run.what), "SOURCE")
    return shlex.join(["python", "jobs/extract.py", source, "--store", str(store.path), "--retry-failed"])
