"""What a run shows to people: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich import progress as bars
from rich.console import Console


class Progress:
    """One live bar per epoch on a terminal; lines of text everywhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: bars.Progress | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            columns = (
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
            )
            self._bar = bars.Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(self, description: str, done: int, total: int) -> None:
        """Move the bar to ``done`` of ``total`` steps."""
        if self._bar is None:
            return
        if not self._bar.tasks:
            self._bar.add_task(description, total=total)
        self._bar.update(self._bar.task_ids[0], description=description, completed=done, total=total)

    def line(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)
