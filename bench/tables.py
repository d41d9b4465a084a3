"""Holds the tables and the wrapped text of a bench's report, no line of which is longer than ``WIDTH``."""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH = 80
"""Longest line of a table, in characters."""
FIRST_CELL = 44
"""Longest cell of a table's first column when the table does not fit; what is longer ends with an ellipsis."""

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers, to the right; a plain string in place of it is a column of text, to the left.

    Attributes
    ----------
    name
        Its heading, with the unit.
    form
        How numbers are formatted, as by ``format``; three digits that count if it is empty.
    """

    name: str
    form: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """Columns of a table that fit beside each other.

    Attributes
    ----------
    headings, rows
        The text of the cells.
    right
        Whether a column goes to the right.
    widths
        The width of each column, in characters.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    widths: Sequence[int]

    def markdown(self) -> str:
        """Return it as Markdown, padded so that it can be read as it is."""
        rules = ["-" * (width - right) + ":" * right for width, right in zip(self.widths, self.right, strict=True)]
        padded = [
            [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, self.widths, self.right, strict=True)
            ]
            for row in (self.headings, *self.rows)
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rules, *padded[1:]))


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes
    ----------
    title
        What it shows.
    columns
        Headings; a table that is too wide is shown in several parts, each of which begins with the first column.
    rows
        As many cells in each as there are columns: text, or a number as it was measured. None is an empty cell.
    note
        A paragraph below it, like the notes of a report.

    Raises
    ------
    ValueError
        If a row has other cells than there are columns.
    """

    title: str
    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row)} cells in a row of {len(self.columns)} columns: {row}")

    def parts(self) -> Iterator[Part]:
        """Yield the parts that it is shown in."""
        shown = [[_heading(column) for column in self.columns]]
        shown += [[_text(cell, column) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows]
        widths = [max(3, *(len(row[place]) for row in shown)) for place in range(len(self.columns))]
        if _line(widths) > WIDTH:
            widths[0] = min(widths[0], max(FIRST_CELL, WIDTH - _line(widths[1:]) - 3))
            widths[1:] = [min(width, WIDTH - _line(widths[:1]) - 3) for width in widths[1:]]
        for places in _split(widths):
            cells = [[_shortened(row[place], widths[place]) for place in places] for row in shown]
            right = [isinstance(self.columns[place], Column) for place in places]
            yield Part(cells[0], cells[1:], right, [widths[place] for place in places])


def wrapped(text: str) -> str:
    """Wrap paragraphs, and lists of which each line begins with a dash, at ``WIDTH`` characters."""
    blocks = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        items = re.split(r"\n(?=- )", paragraph)
        filled = [
            textwrap.fill(
                " ".join(item.split()),
                WIDTH,
                subsequent_indent="  " if item.startswith("- ") else "",
                break_long_words=False,
                break_on_hyphens=False,
            )
            for item in items
        ]
        blocks.append("\n".join(filled))
    return "\n\n".join(blocks)


def _heading(column: Column | str) -> str:
    return _escaped(column if isinstance(column, str) else column.name)


def _text(cell: Cell, column: Column | str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return _escaped(cell)
    return number_text(cell, column.form if isinstance(column, Column) else "")


def number_text(value: float, form: str) -> str:
    """Format a number, as ``format`` does; without a form with three digits that count, and whole from 1000 on."""
    if form or not math.isfinite(value):
        return format(value, form)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _line(widths: Sequence[int]) -> int:
    """Return the length of a line with cells of these widths."""
    return sum(width + 3 for width in widths) + 1


def _split(widths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the columns of each part of a table that is ``WIDTH`` wide; every part begins with the first."""
    part = [0]
    for place in range(1, len(widths)):
        if len(part) > 1 and _line([widths[each] for each in [*part, place]]) > WIDTH:
            yield part
            part = [0]
        part.append(place)
    yield part


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"
