"""What the event logs tell of the runs that filled a store: when, from what, how fast; how to try failures again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from markupsafe import Markup
from pydantic import BaseModel, Field, ValidationError

from ..format import StorePath, layout
from ..store import Store
from . import charts

SHOWN = 50
"""The page shows at most this many runs, the latest."""
_NARROWING = ("--only", "--limit")
_OTHER = ("--retry-failed", "--plan", "--force", "--json")
_FAILURE = b'"event": "failure"'


_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Seconds = Annotated[float, Field(ge=0, lt=1e11)]


class _Event(BaseModel):
    """What the pages read of a line of a log; other fields are left alone."""

    event: str
    time: _Seconds
    version: int = 0
    source: str = ""
    part: str = ""
    rows: _Count = 0
    parses: _Count = 0
    stopped_by: str | None = None
    wall_s: _Seconds = 0.0
    compute_s: _Seconds = 0.0
    videos_done: _Count = 0
    bytes_written: _Count = 0
    frames_decoded: _Count = 0
    steps_computed: _Count = 0
    decode_s: _Seconds | None = None
    model_s: _Seconds | None = None
    write_s: _Seconds | None = None
    waiting_s: _Seconds | None = None


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
    what
        What it read: a source of videos, or a split's questions.
    summary
        What it says of itself at its end; None if it was killed.
    commits
        Unix seconds of each commit, with its rows.
    failures
        Number of failures that were logged.
    """

    log: str
    started: float = 0.0
    stage: str = ""
    what: str = ""
    summary: _Event | None = None
    commits: list[tuple[float, int]] = field(default_factory=list)
    failures: int = 0

    @property
    def start(self) -> str:
        """When it began, in UTC."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.started))

    @property
    def seconds(self) -> float:
        """How long it took: as it says itself, else until the last commit."""
        if self.summary is not None and self.summary.wall_s:
            return self.summary.wall_s
        return (self.commits[-1][0] if self.commits else self.started) - self.started

    @property
    def end(self) -> str:
        """How it ended."""
        if self.summary is None:
            return "has no end: it was killed, or is going on"
        return f"stopped by {self.summary.stopped_by}" if self.summary.stopped_by else "finished"

    def facts(self) -> list[tuple[str, str]]:
        """Return its throughput, of what it measured, as (subject, value)."""
        facts = [("rows committed", f"{sum(rows for _, rows in self.commits):,}")]
        told = self.summary
        if told is None:
            return facts
        if told.compute_s:
            per_hour = 3600 / told.compute_s
            facts.append(("videos per hour", f"{told.videos_done * per_hour:,.0f}"))
            facts.append(("MB written per hour", f"{told.bytes_written * per_hour / 1e6:,.1f}"))
        facts += [("frames decoded", f"{told.frames_decoded:,}"), ("steps computed", f"{told.steps_computed:,}")]
        spent = (
            ("s of decoding", told.decode_s),
            ("s in models", told.model_s),
            ("s of writing", told.write_s),
            ("s of waiting", told.waiting_s),
        )
        return facts + [(title, f"{seconds:,.1f}") for title, seconds in spent if seconds is not None]

    def chart(self) -> Markup | None:
        """Draw rows committed per second over the run; None if it has no two moments to draw between."""
        rows = [(moment - self.started, count) for moment, count in self.commits if count]
        if not rows or rows[-1][0] <= 0:
            return None
        return charts.rates([moment for moment, _ in rows], [count for _, count in rows], "rows", "since the start")


def read_runs(store: Store) -> tuple[list[Run], int]:
    """Return the latest runs up to the pinned version, the latest first, and how many logs there are."""
    logs = (StorePath.of(store.path) / layout.EVENTS).files(".jsonl")[::-1]
    runs = [run for log in logs[:SHOWN] if (run := _read(log, store.version)).started]
    return sorted(runs, key=lambda run: (-run.started, run.log)), len(logs)


def _read(log: StorePath, version: int) -> Run:
    run = Run(log.name)
    for line in log.read_bytes().splitlines():
        if _FAILURE in line[:200]:
            run.failures += 1
            continue
        try:
            event = _Event.model_validate_json(line)
        except ValidationError:  # the last line of a run that was killed; and logs are not sealed
            continue
        if event.version > version:
            continue
        run.started = run.started or event.time
        if event.event in ("plan", "parse_plan"):
            run.stage, run.what = ("parse" if event.event == "parse_plan" else "extract"), event.source or event.part
        elif event.event in ("summary", "parse_summary"):
            run.summary = event
        elif event.event == "commit":
            run.commits.append((max(event.time, run.started), event.rows or event.parses))
    run.commits.sort()
    return run


@dataclass(frozen=True, slots=True)
class Retry:
    """The command line that tries failed rows again; ``lacks_settings`` if ``SETTINGS`` stands for those of the run."""

    command: str
    lacks_settings: bool = False


def retry_command(store: Store, commands: Iterable[str]) -> Retry:
    """Return how failed rows are tried again: as the last extraction was started, without what narrows it down.

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
            return Retry(shlex.join(["python", "jobs/extract.py", *_widened(words[1:]), "--retry-failed"]))
    source = next((run.what for run in read_runs(store)[0] if run.stage == "extract" and run.what), "SOURCE")
    settings = ["--store", str(store.path), "--config", "SETTINGS", "--retry-failed"]
    return Retry(shlex.join(["python", "jobs/extract.py", source, *settings]), lacks_settings=True)


def _widened(words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command without the options that narrow it down or are given anew."""
    skip = False
    for word in words:
        if not skip and word.partition("=")[0] not in (*_NARROWING, *_OTHER):
            yield word
        skip = not skip and word in _NARROWING
