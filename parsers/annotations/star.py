"""STAR: one JSON array a split, ``STAR_<split>.json``; the test split has neither answers nor programs.

The csv and ``gsub_<split>.json`` that CRA derives from it are read too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parsers.annotations import nextgqa
from parsers.annotations.files import json_records, read_text
from parsers.annotations.report import Collector
from parsers.annotations.rows import (
    Row,
    RowError,
    UniqueIds,
    build_questions,
    check_spans,
    find_answer,
    note_repeated,
    number_of,
    shown,
)
from parsers.annotations.schema import Question

_ID = re.compile(r"([A-Za-z]+_T\d+)_\d+")


def official_names(split: str) -> list[str]:
    return [f"STAR_{split}.json", f"{split}.csv"]


def read(path: Path, dataset: str, split: str, report: Collector) -> list[Question]:
    """Questions of one split; each asks about one clip, ``start_s`` to ``end_s``, which is its span as well."""
    if path.suffix.lower() == ".csv":
        return nextgqa.read_csv(path, dataset, split, report, whole_ids=True)
    builder = _Builder(dataset, split)
    return build_questions(str(path), json_records(read_text(path)), builder.build, report)


@dataclass(slots=True)
class _Builder:
    dataset: str
    split: str
    ids: UniqueIds = field(default_factory=UniqueIds)

    def build(self, row: Row) -> Question:
        row.key = row.key_text("question_id")
        self.ids.check(row, "question_id")
        named = _ID.fullmatch(row.key)
        if named is None:
            raise RowError("wrong_id", "question_id", f"must look like Interaction_T1_13 (got {shown(row.key)})")
        start, end = number_of("start", row.required("start")), number_of("end", row.required("end"))
        options = _options(row)
        answer, index = self._answer(row, options)
        return Question(
            question_id=row.key,
            video_id=row.key_text("video_id"),
            dataset=self.dataset,
            split=self.split,
            row=row.index,
            question=row.text("question"),
            options=options,
            answer=answer,
            answer_index=index,
            type=named[1],
            spans=check_spans(row, "end", [[start, end]], None),
            start_s=start,
            end_s=end,
        )

    def _answer(self, row: Row, options: Sequence[str]) -> tuple[str | None, int | None]:
        if row.get("answer") is None and self.split.startswith("test"):
            return None, None
        answer = row.text("answer")
        return answer, find_answer(row, answer, options)


def _options(row: Row) -> tuple[str, ...]:
    """Texts of ``choices`` in the order of their ``choice_id`` 0, 1, …"""
    choices = row.required("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        raise RowError("wrong_type", "choices", f"must be a list of two or more choices (got {shown(choices)})")
    by_id: dict[Any, Any] = {}
    for choice in choices:
        number = choice.get("choice_id") if isinstance(choice, dict) else None
        if type(number) is not int or number in by_id or not 0 <= number < len(choices):
            raise RowError("wrong_choice", "choices", f"choice_id must be 0, 1, …, each once (got {shown(number)})")
        by_id[number] = choice.get("choice")
    options = tuple(row.checked_text("choices", by_id[number]) for number in range(len(choices)))
    note_repeated(row, options, "choices")
    return options
