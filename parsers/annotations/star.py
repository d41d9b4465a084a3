"""Reads STAR: one JSON array per split, ``STAR_<split>.json``; the test split has neither answers nor programs.

The csv and ``gsub_<split>.json`` that CRA derives from it are read too. Source: ``docs/facts/cra.md`` sections 1.5 and
1.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parsers.annotations import nextgqa
from parsers.annotations.anomalies import Anomalies
from parsers.annotations.files import json_records, read_text
from parsers.annotations.rows import (
    QuestionBuilder,
    Row,
    RowError,
    check_spans,
    find_answer,
    finite_number,
    note_repeated,
    shown,
)
from parsers.annotations.schema import Question

_ID = re.compile(r"([A-Za-z]+_T\d+)_\d+")


def official_names(split: str) -> list[str]:
    """Return the names of the split's file, the most likely first."""
    return [f"STAR_{split}.json", f"{split}.csv"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one split; the clip of each, ``start_s`` to ``end_s``, is its span as well."""
    if path.suffix.lower() == ".csv":
        return nextgqa.read_csv(path, dataset, split, anomalies, whole_ids=True)
    return _Builder(str(path), dataset, split, anomalies).build_all(json_records(read_text(path)))


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    def build(self, row: Row) -> Question:
        row.key = row.key_text("question_id")
        self.check_unique(row, "question_id")
        id_match = _ID.fullmatch(row.key)
        if id_match is None:
            raise RowError("wrong_id", "question_id", f"must look like Interaction_T1_13 (got {shown(row.key)})")
        start, end = finite_number("start", row.required("start")), finite_number("end", row.required("end"))
        options = _options(row)
        answer, index = self._answer(row, options)
        return replace(
            self.question(row, row.key_text("video_id"), row.text("question")),
            options=options,
            answer=answer,
            answer_index=index,
            type=id_match[1],
            spans=check_spans(row, "end", [[start, end]], None),
            start_s=start,
            end_s=end,
        )

    def _answer(self, row: Row, options: Sequence[str]) -> tuple[str | None, int | None]:
        if self.hides_answer(row):
            return None, None
        answer = row.text("answer")
        return answer, find_answer(row, answer, options)


def _options(row: Row) -> tuple[str, ...]:
    """Return the texts of ``choices`` in the order of ``choice_id``, which counts from 0."""
    choices = row.required("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        raise RowError("wrong_type", "choices", f"must be a list of two or more choices (got {shown(choices)})")
    by_id: dict[Any, Any] = {}
    for choice in choices:
        number = choice.get("choice_id") if isinstance(choice, dict) else None
        if type(number) is not int or number in by_id or not 0 <= number < len(choices):
            message = f"must have choice_id 0, 1, …, each once (got {shown(number)})"
            raise RowError("wrong_choice", "choices", message)
        by_id[number] = choice.get("choice")
    options = tuple(row.checked_text("choices", by_id[number]) for number in range(len(choices)))
    note_repeated(row, options, "choices")
    return options
