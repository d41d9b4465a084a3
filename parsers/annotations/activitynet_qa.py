"""Reads ActivityNet-QA: the questions of a split in ``<split>_q.json``, their answers beside it in ``<split>_a.json``.

Source: ``dataset`` of MILVLG/activitynet-qa; ``docs/facts/videoqa.md`` section 3. Both are JSON arrays, joined by
``question_id``. A video's file is named ``v_<video_name>``, and so is the video here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from parsers.annotations.anomalies import AnnotationError, Anomalies, Anomaly
from parsers.annotations.files import Broken, FileProblem, Record, json_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, RowError, check_key, is_empty, shown
from parsers.annotations.schema import Question
from settings.messages import first_few

TYPES = (
    *("Motion", "Spatial Relation", "Temporal Relation"),
    *("Yes/No", "Color", "Object", "Location", "Number", "Other"),
)
"""Question types by their number, as the published evaluator prints them."""

_ANSWER_KEYS = frozenset(("question_id", "answer", "type"))
_SHOWN = 10


def official_names(split: str) -> list[str]:
    """Return the name of the split's file of questions."""
    return [f"{split}_q.json"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one split with their answers; a test split may lack the file of answers."""
    if not path.stem.endswith("_q"):
        raise AnnotationError(f"{path}: name the file of questions, <split>_q.json; <split>_a.json is found beside it")
    answers = _Answers.beside(path, split, anomalies)
    builder = _Builder(str(path), dataset, split, anomalies, answers)
    questions = builder.build_all(json_records(read_text(path)))
    if answers is not None:
        answers.note_rest(anomalies)
    return questions


@dataclass(slots=True)
class _Answers:
    """The file of answers.

    Attributes
    ----------
    file
        The file, as messages name it.
    rows
        Row of each question id.
    used
        The question ids that were looked up.
    """

    file: str
    rows: dict[str, Row]
    used: set[str] = field(default_factory=set)
    _moved: int = 0

    @classmethod
    def beside(cls, path: Path, split: str, anomalies: Anomalies) -> _Answers | None:
        """Read the file; return None if a test split has none.

        Raises
        ------
        AnnotationError
            If another split has none.
        """
        file = path.with_name(f"{path.stem.removesuffix('_q')}_a.json")
        if not file.is_file():
            if split.startswith("test"):
                anomalies.append(
                    Anomaly("note", "no_answers_file", str(file), 0, "", "", "not found; answers are hidden")
                )
                return None
            raise AnnotationError(f"{file}: no such file; it holds the answers to {path.name}")
        rows: dict[str, Row] = {}
        try:
            for index, record in enumerate(json_records(read_text(file))):
                _add(rows, Row(str(file), record.line, index, getattr(record, "fields", {})), record, anomalies)
        except FileProblem as problem:
            anomalies.append(problem.anomaly(str(file)))
        return cls(str(file), rows)

    def look_up(self, row: Row) -> Row:
        """Return the answer's row of a question.

        Raises
        ------
        RowError
            If there is none, with this file's name.
        """
        if row.key not in self.rows:
            raise RowError("no_answer", "question_id", f"has no answer to {row.key!r}", self.file)
        self.used.add(row.key)
        found = self.rows[row.key]
        self._moved += found.index != row.index
        return found

    def note_rest(self, anomalies: Anomalies) -> None:
        """Note answers without a question, and an order that is not that of the questions."""
        if self._moved:
            message = f"{self._moved} answers stand in another row than their question; joined by question_id"
            anomalies.append(Anomaly("note", "other_order", self.file, 0, "", "question_id", message))
        if unused := [name for name in self.rows if name not in self.used]:
            message = f"{len(unused)} answers have no question: {first_few(unused, _SHOWN)}"
            anomalies.append(Anomaly("note", "unused_answer", self.file, 0, "", "question_id", message))


def _add(rows: dict[str, Row], row: Row, record: Record | Broken, anomalies: Anomalies) -> None:
    """Add the row of one answer; a broken or repeated one is an error."""
    try:
        if isinstance(record, Broken):
            raise RowError(record.code, "", record.message)
        row.key = row.key_text("question_id")
        if extra := [name for name in row.fields if name not in _ANSWER_KEYS]:
            row.note("extra_key", extra[0], "is a key that the published files lack; ignored")
        if row.key in rows:
            raise RowError("duplicate_question_id", "question_id", f"is already given in line {rows[row.key].line}")
    except RowError as error:
        anomalies.append(Anomaly("error", error.code, row.file, row.line, row.key, error.field, error.message))
    else:
        rows[row.key] = row


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    known: ClassVar[frozenset[str] | None] = frozenset(("video_name", "question", "question_id"))

    answers: _Answers | None

    def build(self, row: Row) -> Question:
        row.key = row.key_text("question_id")
        self.check_unique(row, "question_id")
        video = check_key("video_name", f"v_{row.key_text('video_name')}")
        question = self.question(row, video, row.text("question"))
        if self.answers is None:
            return question
        found = self.answers.look_up(row)
        try:
            answer = None if self.hides_answer(found) else found.text("answer")
            kind = _type(found.fields)
        except RowError as error:
            raise RowError(error.code, error.field, error.message, found.file, found.line) from error
        row.notes.extend(found.notes)
        return replace(question, answer=answer, type=kind)


def _type(fields: Mapping[str, Any]) -> str:
    number = fields.get("type")
    if is_empty(number):
        return ""
    if type(number) is not int or not 0 <= number < len(TYPES):
        raise RowError("unknown_type", "type", f"must be a number from 0 to {len(TYPES) - 1} (got {shown(number)})")
    return TYPES[number]
