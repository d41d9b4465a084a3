"""Reads CG-Bench: multiple-choice questions on long videos, with the intervals that hold the clues.

Source: ``cgbench.json`` and ``cgbench_mini.json`` of CG-Bench/CG-Bench, one JSON array each; ``docs/facts/videoqa.md``
section 8. ``right_answer`` is the letter of a choice, and ``sub_category`` is the question's type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from parsers.annotations.anomalies import Anomalies
from parsers.annotations.files import json_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, find_letter, is_empty, option_list, some_spans
from parsers.annotations.schema import Question


def official_names(split: str) -> list[str]:
    """Return the names of the file, whatever the split is called."""
    return ["cgbench_mini.json", "cgbench.json"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one file."""
    return _Builder(str(path), dataset, split, anomalies).build_all(json_records(read_text(path)))


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    known: ClassVar[frozenset[str] | None] = frozenset(
        (
            *("qid", "video_uid", "question", "answer", "choices", "right_answer", "clue_intervals"),
            *("domain", "sub_category", "duration"),
        )
    )

    def build(self, row: Row) -> Question:
        row.key = row.key_text("qid")
        self.check_unique(row, "qid")
        options = option_list(row, "choices")
        index = None if self.hides_answer(row, "right_answer") else find_letter(row, "right_answer", options)
        answer = None if index is None else options[index]
        if answer is not None and not is_empty(row.get("answer")) and row.text("answer") != answer:
            row.note("other_answer", "answer", f"is another text than choice {row.get('right_answer')}, which is taken")
        duration = row.duration("duration")
        return replace(
            self.question(row, row.key_text("video_uid"), row.text("question")),
            options=options,
            answer=answer,
            answer_index=index,
            type="" if is_empty(row.get("sub_category")) else row.text("sub_category"),
            spans=self._clues(row, duration),
            duration=duration,
        )

    def _clues(self, row: Row, duration: float | None) -> tuple[tuple[float, float], ...]:
        """Return the intervals, which a test split may hide."""
        if row.get("clue_intervals") is None and self.split.startswith("test"):
            return ()
        return some_spans(row, "clue_intervals", row.required("clue_intervals"), duration)
