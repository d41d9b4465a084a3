"""Shows a run to a person: a live bar on a terminal, plain lines elsewhere, all on stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

_LINE_EVERY_S = 10.0  # a log file should not fill with progress


def human_bytes(count: float) -> str:
    """Return a count of bytes with a decimal unit: ``512 B``, ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class Terminal:
    """Writes the lines and progress bars of one run to stderr.

    It knows nothing of stages, plans or executors: what is worth a line is decided where it happens.

    Parameters
    ----------
    console
        Where to write; stderr if not given.
    quiet
        Whether to write nothing.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def _print(self, markup: str) -> None:
        self.console.print(markup, emoji=False)  # a key may look like :cat:

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def line(self, text: str) -> None:
        """Print one line as it is."""
        self._print(escape(text))

    def warn(self, text: str) -> None:
        """Print one line that begins with ``warning:``."""
        self._print(f"[yellow]warning:[/yellow] {escape(text)}")

    def stage(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move a stage's bar; if stderr is not a terminal, print a line every ten seconds instead."""
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

    def labelled(self, label: str, text: str) -> None:
        """Print one line that begins with a red label."""
        self._print(f"[red]{escape(label)}:[/red] {escape(text)}")

    def table(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table)

    def close(self) -> None:
        """Remove the bars; lines can still be printed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks.clear()


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: ``41.0 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
