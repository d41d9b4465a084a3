"""Shows a run to a person: a live bar on a terminal, plain lines elsewhere, all on stderr unless they are a plan."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stores.command import Bars, duration, progress_console

__all__ = ["Terminal", "duration", "human_bytes"]


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
    lines
        Where lines and tables go, if they are the result that was asked for, as a plan is; warnings and bars stay
        where they are.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False, lines: Console | None = None) -> None:
        self.console = console or progress_console(quiet)
        self._lines = lines or self.console
        self._bars = Bars(self.console)

    def _print(self, markup: str, console: Console | None = None) -> None:
        (console or self.console).print(markup, emoji=False)  # a key may look like :cat:

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def line(self, text: str) -> None:
        """Print one line as it is."""
        self._print(escape(text), self._lines)

    def warn(self, text: str) -> None:
        """Print one line that begins with ``warning:``."""
        self._print(f"[yellow]warning:[/yellow] {escape(text)}")

    def stage(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move a stage's bar; if stderr is not a terminal, print a line every ten seconds instead."""
        self._bars.stage(name, done, total, note)

    def labelled(self, label: str, text: str) -> None:
        """Print one line that begins with a red label."""
        self._print(f"[red]{escape(label)}:[/red] {escape(text)}")

    def table(self, table: Table) -> None:
        """Print a table."""
        self._lines.print(table)

    def close(self) -> None:
        """Remove the bars; lines can still be printed."""
        self._bars.close()
