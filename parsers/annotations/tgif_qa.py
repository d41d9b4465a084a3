"""Reads TGIF-QA: four tasks, each with a tab-separated file per split, ``Train_count_question.csv`` and so on.

Source: ``dataset`` of YunseokJANG/tgif-qa; ``docs/facts/videoqa.md`` section 4. ``vid_id`` is the question's id and
``gif_name`` the name of the GIF, by which the video is called here. ``description`` holds the answer and is dropped.

The set has no validation split, and HCRN takes a random tenth of the training questions for it. Here split ``val`` is
the tenth of the GIFs of the training file whose names have a SHA-256 that ten divides, ``train`` are the others, and
``trainval`` is the whole file. So a GIF is never in both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import csv_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, RowError, find_index, note_repeated, shown
from parsers.annotations.schema import Question

_FILES = {"train": "Train", "val": "Train", "trainval": "Train", "test": "Test", "total": "Total"}
_OPTIONS = tuple(f"a{number}" for number in range(1, 6))
_COLUMNS = ("gif_name", "question", "answer", "vid_id", "key")
FRAME_TYPES = ("object", "number", "color", "location")
"""Types of the questions about single frames, by their number."""


@dataclass(frozen=True, slots=True)
class Task:
    """One of the four tasks.

    Attributes
    ----------
    name
        ``action`` and ``transition`` have five options, ``frameqa`` is open, and the answer to ``count`` is a number.
    """

    name: str

    def official_names(self, split: str) -> list[str]:
        """Return the name of the split's file."""
        return [f"{_FILES.get(split, split)}_{self.name}_question.csv"]

    def read(self, path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
        """Return the questions of one split."""
        extra = {"action": _OPTIONS, "transition": _OPTIONS, "frameqa": ("type",)}.get(self.name, ())
        parted = path.name.startswith("Train") and split in ("train", "val")
        builder = _Builder(str(path), dataset, split, anomalies, self.name, parted)
        questions = builder.build_all(csv_records(read_text(path), (*_COLUMNS[:-1], *extra), "\t"))
        if builder.left_out:
            other = "train" if split == "val" else "val"
            message = f"{builder.left_out} rows belong to split {other!r}, which is made of the same file"
            anomalies.append(Anomaly("note", "other_split", str(path), 0, "", "gif_name", message))
        return questions


ACTION, TRANSITION, FRAMEQA, COUNT = map(Task, ("action", "transition", "frameqa", "count"))


def is_held_out(gif: str) -> bool:
    """Return whether a GIF of the training file belongs to the split ``val``."""
    return int.from_bytes(hashlib.sha256(gif.encode()).digest(), "big") % 10 == 0


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    known: ClassVar[frozenset[str] | None] = frozenset((*_COLUMNS, *_OPTIONS, "type", "description"))

    task: str
    parted: bool
    left_out: int = 0

    def build(self, row: Row) -> Question | None:
        row.key = row.key_text("vid_id")
        self.check_unique(row, "vid_id")
        gif = row.key_text("gif_name")
        question = self.question(row, gif, row.text("question"))
        if self.task == "frameqa":
            question = replace(question, type=_frame_type(row), answer=_hidden_or_text(self, row))
        elif self.task == "count":
            question = replace(question, type=self.task, answer=_hidden_or_number(self, row))
        else:
            options = tuple(row.text(name) for name in _OPTIONS)
            note_repeated(row, options, _OPTIONS[0])
            index = None if self.hides_answer(row) else find_index(row, "answer", options)
            answer = None if index is None else options[index]
            question = replace(question, type=self.task, options=options, answer=answer, answer_index=index)
        if self.parted and is_held_out(gif) != (self.split == "val"):
            self.left_out += 1
            return None
        return question


def _hidden_or_text(builder: QuestionBuilder, row: Row) -> str | None:
    return None if builder.hides_answer(row) else row.text("answer")


def _hidden_or_number(builder: QuestionBuilder, row: Row) -> str | None:
    """Return a whole number, 0 or more, in decimal."""
    answer = _hidden_or_text(builder, row)
    if answer is not None and not (answer.isascii() and answer.isdecimal() and len(answer) < 10):
        raise RowError("wrong_number", "answer", f"must be a whole number, 0 or more (got {shown(answer)})")
    return None if answer is None else str(int(answer))


def _frame_type(row: Row) -> str:
    number = row.text("type")
    if number not in map(str, range(len(FRAME_TYPES))):
        raise RowError("unknown_type", "type", f"must be a number from 0 to 3 (got {shown(number)})")
    return FRAME_TYPES[int(number)]
