"""Shows how far the stages of an operation are: bars on a terminal, a line every ten seconds elsewhere, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

_LINE_EVERY_S = 10.0  # a log file should not fill with progress


def progress_console(quiet: bool = False) -> Console:
    """Return a console for progress on stderr.

    It has bars only on a terminal, even if ``FORCE_COLOR`` is set, as Jupyter and continuous integration do: there they
    would be hundreds of lines.
    """
    is_terminal = None if sys.stderr.isatty() else False
    return Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True, force_terminal=is_terminal)


class Bars:
    """The stages of one operation, each with its rate and the time that is left of it.

    Parameters
    ----------
    console
        Where to write; stderr if not given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or progress_console()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stage(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move a stage's bar; if stderr is not a terminal, print a line every ten seconds instead."""
        began, before = self._began.setdefault(name, (time.monotonic(), done))
        pace = _pace(done - before, time.monotonic() - began, total - done)
        if not self.console.is_terminal:
            if time.monotonic() - self._last_line >= _LINE_EVERY_S:
                self._last_line = time.monotonic()
                text = " · ".join(part for part in (f"{name}: {done}/{total}", pace, note) if part)
                self.console.print(escape(f"{clock_time()} {text}"), emoji=False)
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description:>8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total, pace=pace, note=note)
        self._bar.update(self._tasks[name], completed=done, total=total, pace=pace, note=escape(note))

    def close(self) -> None:
        """Remove the bars; lines can still be printed, and a stage that comes again begins anew."""
        self._began.clear()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks.clear()


def _pace(done: int, seconds: float, left: int) -> str:
    """Return the rate and the time that is left, as far as they are known."""
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    shown = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
    return f"{shown}, {duration(left / rate)} left" if left > 0 else shown


def clock_time() -> str:
    """Return the time of day of this machine, ``14:03:59``, for a line of a log."""
    return time.strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: ``41.0 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
