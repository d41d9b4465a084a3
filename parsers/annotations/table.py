"""Reads a plain table of questions: csv, jsonl or parquet.

The columns ``video_id`` and ``question`` are required. The others may be absent: ``question_id``, ``answer``,
``options`` (a list) or ``a0`` to ``aN``, ``type``, ``modality``, ``spans`` (a list of pairs [start, end]) or ``start``
and ``end``, ``duration``, ``split``. Times are in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parsers.annotations.anomalies import AnnotationError, Anomalies, Anomaly
from parsers.annotations.files import (
    Broken,
    FileProblem,
    Record,
    csv_records,
    jsonl_records,
    parquet_records,
    read_bytes,
    read_text,
)
from parsers.annotations.rows import (
    QuestionBuilder,
    Row,
    RowError,
    check_spans,
    find_answer,
    is_empty,
    note_repeated,
    option_names,
    shown,
)
from parsers.annotations.schema import Question
from settings.messages import available

_SUFFIXES = (".csv", ".jsonl", ".parquet")
_REQUIRED = ("video_id", "question")
_COLUMNS = (
    *_REQUIRED,
    "question_id",
    "answer",
    "options",
    "type",
    "modality",
    "spans",
    "start",
    "end",
    "duration",
    "split",
)


def official_names(split: str) -> list[str]:
    """Return the names of the split's file, the most likely first."""
    return [f"{split}{suffix}" for suffix in _SUFFIXES]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one table; if it has a column ``split``, only those of this split."""
    builder = _Builder(str(path), dataset, split, anomalies)
    questions = builder.build_all(_records(path))
    if builder.other_splits and not questions:
        message = f"no row has split {split!r} ({available(sorted(builder.other_splits))})"
        anomalies.append(Anomaly("error", "no_such_split", str(path), 0, "", "split", message))
    return questions


def _records(path: Path) -> Iterable[Record | Broken]:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return csv_records(read_text(path), _REQUIRED)
    if suffix == ".jsonl":
        return jsonl_records(read_text(path))
    if suffix == ".parquet":
        return parquet_records(read_bytes(path), _REQUIRED)
    raise AnnotationError(f"{path}: a table of questions must be a .csv, .jsonl or .parquet file")


def foreign_columns(path: Path) -> list[str]:
    """Return the columns that a csv of NExT-GQA has and that a table drops; none if the file is not such a csv."""
    if path.suffix.lower() != ".csv":
        return []
    try:
        first = next(csv_records(read_text(path), _REQUIRED), None)
    except FileProblem:  # said when the file is read
        return []
    names = list(first.fields) if isinstance(first, Record) else []
    if not {"qid", "a0"} <= set(names) or "question_id" in names:
        return []
    return [name for name in names if name not in _COLUMNS and not name.startswith("a")]


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    other_splits: set[str] = field(default_factory=set)

    def build(self, row: Row) -> Question | None:
        row.key = self.invented_id(row)
        if not is_empty(row.get("split")):
            split = row.key_text("split")
            if split != self.split:
                self.other_splits.add(split)
                return None
        if is_empty(row.get("question_id")):
            row.note("missing_question_id", "question_id", f"is missing; the question is called {row.key!r}")
        else:
            row.key = row.key_text("question_id")
        self.check_unique(row, "question_id")
        options = _options(row)
        answer, index = _answer(row, options)
        duration = row.duration("duration")
        return replace(
            self.question(row, row.key_text("video_id"), row.text("question")),
            options=options,
            answer=answer,
            answer_index=index,
            type=_optional(row, "type") or "",
            modality=_optional(row, "modality"),
            spans=_spans(row, duration),
            duration=duration,
        )


def _optional(row: Row, name: str) -> str | None:
    return None if is_empty(row.get(name)) else row.text(name)


def _list(row: Row, name: str) -> Any:
    """Return a list, which a csv cell holds as JSON; None if the field is absent or an empty cell."""
    value = row.get(name)
    if is_empty(value):
        return None
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError("malformed_json", name, f"does not hold a JSON list (got {shown(value)})") from error


def _options(row: Row) -> tuple[str, ...]:
    """Return ``options``, or else ``a0``, ``a1``, … up to the last that is given; none for an open-ended question."""
    values = _list(row, "options")
    if values is None:
        names = option_names(name for name, value in row.fields.items() if not is_empty(value))
        gap = next((name for name in names if is_empty(row.get(name))), None)
        if gap is not None:
            raise RowError("missing_field", gap, f"is missing, but option {names[-1]!r} is given")
        options = tuple(row.text(name) for name in names)
        note_repeated(row, options, "a0")
        return options
    if not isinstance(values, list):
        raise RowError("wrong_type", "options", f"must be a list of texts (got {shown(values)})")
    options = tuple(row.checked_text("options", value) for value in values)
    note_repeated(row, options, "options")
    return options


def _answer(row: Row, options: Sequence[str]) -> tuple[str | None, int | None]:
    """Return the answer's text and index; a number is taken as an index, and a hidden answer is (None, None)."""
    value = row.get("answer")
    if is_empty(value):
        return None, None
    if type(value) is int and options:
        if not 0 <= value < len(options):
            raise RowError("answer_not_in_options", "answer", f"{value} is not an index of {len(options)} options")
        return options[value], value
    answer = row.text("answer")
    return answer, find_answer(row, answer, options) if options else None


def _spans(row: Row, duration: float | None) -> tuple[tuple[float, float], ...]:
    spans = _list(row, "spans")
    if spans is not None:
        return check_spans(row, "spans", spans, duration)
    start, end = row.second("start"), row.second("end")
    if start is None and end is None:
        return ()
    if start is None or end is None:
        raise RowError("missing_field", "start" if start is None else "end", "is missing, but the other is given")
    return check_spans(row, "end", [[start, end]], duration)
