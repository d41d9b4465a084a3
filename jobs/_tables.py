"""Tables of scores on stdout, as ``jobs/evaluate.py`` and the end of a training print them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from settings.messages import printable
from stores.command import make_console
from trainers.metrics.tables import ScoreTable

__all__ = ["console", "plain", "show_tables"]

console = make_console()
_WIDEST = 10_000


def plain(text: str) -> Text:
    """Return a name from a file as plain text: nothing in it is markup, and nothing moves the cursor."""
    return Text(printable(text))


def show_tables(tables: Sequence[ScoreTable]) -> None:
    """Print tables, each with its notes below it."""
    for given in tables:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(given.title, no_wrap=True)
        for title in given.columns:
            table.add_column(title, justify="right", no_wrap=True)
        for label, values in given.rows:
            table.add_row(plain(label), *values)
        needed = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
        console.print(table, width=max(needed, console.width), crop=False)  # a cut name or score is none
        for note in given.notes:
            console.print(plain(note))
