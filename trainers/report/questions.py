"""The tables of questions: their columns, and their rows in files that the script ``table.js`` loads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.metrics.grounding import Span
from trainers.panels.figure import seconds, verdict
from trainers.predictions import Prediction
from trainers.report.worst import ShownPanel

SHARD_ROWS = 2000
"""Rows of a table in one file."""
Pair = tuple[Prediction, Prediction]
"""A question as two runs answered it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that the script draws.

    Attributes
    ----------
    title
        What stands above it.
    kind
        ``text`` or ``number``.
    choose
        Whether its values are listed, to choose one of them.
    """

    title: str
    kind: str = "text"
    choose: bool = False


COLUMNS = (
    Column("question id"),
    Column("video"),
    Column("type", choose=True),
    Column("question"),
    Column("predicted"),
    Column("answer"),
    Column("right", choose=True),
    Column("confidence", "number"),
)
SPANS = (Column("span"), Column("true spans"), Column("IoU", "number"))


def question_rows(rows: Iterable[Prediction], panels: Sequence[ShownPanel], spans: bool) -> Iterator[list[Any]]:
    """Yield the rows of a split's table; the last value is the place of the question's panel, if it has one."""
    places = {panel.row.question_id: number for number, panel in enumerate(panels, 1)}
    told: list[Any]
    for row in rows:
        told = [row.question_id, row.video_id, row.type, row.question, row.prediction, row.answer or ""]
        told += [verdict(row.right), _rounded(row.confidence)]
        if spans:
            true = ", ".join(map(_unbroken, row.true_spans))
            told += ["" if row.span is None else _unbroken(row.span), true, _rounded(row.iou)]
        yield [*told, places.get(row.question_id)]


def _unbroken(span: Span) -> str:
    return seconds(span).replace(" ", "\u00a0")


def paired_columns(first: str, second: str) -> tuple[Column, ...]:
    """Return the columns of a table of two runs, of which the labels are given."""
    names = [Column(f"predicted: {run}") for run in (first, second)]
    numbers = [Column(f"{what}: {run}", "number") for what in ("confidence", "IoU") for run in (first, second)]
    return (*COLUMNS[:4], COLUMNS[5], *names, Column("outcome", choose=True), *numbers)


def paired_rows(pairs: Iterable[Pair]) -> Iterator[list[Any]]:
    """Yield the rows of a table of two runs; the last value is the place of a panel, which none has."""
    for a, b in pairs:
        outcome = "not scored"
        if a.right is not None:
            outcome = {
                (True, True): "both right",
                (True, False): "only the first right",
                (False, True): "only the second right",
                (False, False): "both wrong",
            }[a.right, bool(b.right)]
        yield [
            *(a.question_id, a.video_id, a.type, a.question, a.answer or "", a.prediction, b.prediction, outcome),
            *map(_rounded, (a.confidence, b.confidence, a.iou, b.iou)),
            None,
        ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def write_rows(
    folder: Path, name: str, columns: Sequence[Column], rows: Iterable[list[Any]], verdicts: str
) -> dict[str, Any]:
    """Write the rows of a table as scripts, which a page may load from a disk, and return what the script needs.

    Scripts, since browsers do not let a page of a disk read other files.
    """
    files: list[str] = []
    shard: list[str] = []
    count = 0

    def flush() -> None:
        files.append(f"{name}-{len(files) + 1}.js")
        text = ",\n".join(shard)
        (folder / files[-1]).write_text(f"addRows([\n{text}\n]);\n", encoding="utf-8")
        shard.clear()

    for row in rows:
        shard.append(json.dumps(row, ensure_ascii=True, allow_nan=False))
        count += 1
        if len(shard) == SHARD_ROWS:
            flush()
    if shard:
        flush()
    return {
        "files": files,
        "count": count,
        "verdict": [column.title for column in columns].index(verdicts),
        "columns": [{"title": one.title, "kind": one.kind, "choose": one.choose} for one in columns],
    }
