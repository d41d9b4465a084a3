"""Reads MUSIC-AVQA: one JSON array per split, ``avqa-<split>.json`` (original, updated and v2.0 files).

Source: ``data/json`` and ``data/json_update`` of GeWu-Lab/MUSIC-AVQA, described in ``docs/facts/coqo.md`` sections 1.3
to 1.7. Version 2.0 has rows without ids, ids that are floats, and more keys.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import json_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, RowError, shown
from parsers.annotations.schema import Question
from settings.messages import first_few

_ANSWERS = """two, cello, congas, zero, no, pipa, six, yes, one, four, three, seven, five, ukulele, right, piano, left,
accordion, clarinet, guzheng, more than ten, nine, indoor, saxophone, drum, violin, middle, outdoor, bagpipe, bassoon,
acoustic_guitar, banjo, electric_bass, ten, eight, flute, simultaneously, trumpet, erhu, xylophone, tuba, suona"""
ANSWERS = tuple(" ".join(answer.split()) for answer in _ANSWERS.split(","))
"""The 42 answers; the position is the class index in published checkpoints (``answer2idx.json`` of QA-TIGER)."""

TYPES = {
    "Audio": ("Counting", "Comparative"),
    "Visual": ("Counting", "Location"),
    "Audio-Visual": ("Existential", "Counting", "Location", "Comparative", "Temporal"),
}
"""Question types by modality, in the order of the published tables."""

_KEYS = frozenset(("video_id", "question_id", "type", "question_content", "templ_values", "question_deleted", "anser"))
_INDEX = {answer: index for index, answer in enumerate(ANSWERS)}
_SLOT = re.compile(r"<[^<>]*>")
_LONGEST_LITERAL = 1000
_LINES_SHOWN = 10


def official_names(split: str) -> list[str]:
    """Return the name of the split's file."""
    return [f"avqa-{split}.json"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one split, with their slots filled."""
    builder = _Builder(str(path), dataset, split, anomalies)
    questions = builder.build_all(json_records(read_text(path)))
    for name, (line, rows) in builder.extra_keys.items():
        message = f"{rows} rows have this key, which the published files lack; ignored"
        anomalies.append(Anomaly("note", "extra_key", str(path), line, "", name, message))
    return _distinct_ids(str(path), questions, builder.lines, anomalies)


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    """Keeps the line of each row, and of each unpublished key its first line and the number of rows that have it."""

    lines: dict[int, int] = field(default_factory=dict)
    extra_keys: dict[str, tuple[int, int]] = field(default_factory=dict)

    def build(self, row: Row) -> Question:
        self.lines[row.index] = row.line
        row.key = self.invented_id(row)
        row.key = _question_id(row)
        for name in row.fields.keys() - _KEYS:
            line, rows = self.extra_keys.get(name, (row.line, 0))
            self.extra_keys[name] = line, rows + 1
        modality, question_type = _type(row)
        template = row.text("question_content")
        values = _strings(row, "templ_values")
        if len(_SLOT.findall(template)) != len(values):
            raise RowError("wrong_slots", "templ_values", f"has {len(values)} values for the slots of {template!r}")
        fillers = iter(values)
        answer = None if self.hides_answer(row, "anser") else row.text("anser")
        if answer is not None and answer not in _INDEX:
            raise RowError("answer_not_in_options", "anser", f"{shown(answer)} is not one of the 42 answers")
        return replace(
            self.question(row, row.key_text("video_id"), _SLOT.sub(lambda _: next(fillers), template)),
            answer=answer,
            answer_index=None if answer is None else _INDEX[answer],
            type=f"{modality} {question_type}",
            modality=modality,
            template=template,
            template_values=tuple(values),
        )


def _question_id(row: Row) -> str:
    value = row.get("question_id")
    if value is None:
        row.note("missing_question_id", "question_id", f"is missing; the question is called {row.key!r}")
        return row.key
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        row.note("float_question_id", "question_id", f"{value!r} is a float; written as a whole number")
        value = int(value)
    return row.checked_key("question_id", value)


def _type(row: Row) -> tuple[str, str]:
    """Return the modality and the question type."""
    parts = _strings(row, "type")
    if len(parts) != 2 or parts[1] not in TYPES.get(parts[0], ()):
        raise RowError("unknown_type", "type", f"is not one of the nine question types (got {shown(row.get('type'))})")
    return parts[0], parts[1]


def _strings(row: Row, name: str) -> list[str]:
    """Return a list of strings, which the file holds as a string."""
    value: Any = row.required(name)
    if isinstance(value, str) and len(value) <= _LONGEST_LITERAL:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise RowError("malformed_json", name, f"must hold a list of strings (got {shown(value)})") from error
    if not isinstance(value, list):
        raise RowError("wrong_type", name, f"must hold a list of strings (got {shown(value)})")
    return [row.checked_text(name, text) for text in value]


def _untaken(identity: str, number: int, taken: set[str]) -> str:
    """Return ``<identity>#<number>``, or the next number if the file itself has a question of that name; take it."""
    while (name := f"{identity}#{number}") in taken:
        number += 1
    taken.add(name)
    return name


def _distinct_ids(
    file: str, questions: Sequence[Question], lines: dict[int, int], anomalies: Anomalies
) -> list[Question]:
    """Name the second row of an id ``<id>#2``, and so on; note every row of such an id.

    The original files give 27 (val) and 55 (test) ids twice, with contradictory answers. The update keeps neither
    always the first nor always the last, so both stay.
    """
    positions: dict[str, list[int]] = defaultdict(list)
    for position, question in enumerate(questions):
        positions[question.question_id].append(position)
    distinct = list(questions)
    taken = set(positions)
    for identity, places in positions.items():
        if len(places) == 1:
            continue
        contradictory = len({questions[place].answer for place in places}) > 1
        code = "contradictory_answer" if contradictory else "duplicate_question_id"
        where = first_few([lines[questions[place].row] for place in places], _LINES_SHOWN)
        for number, place in enumerate(places, 1):
            question = questions[place]
            name = identity if number == 1 else _untaken(identity, number, taken)
            message = f"question {identity!r} is given {len(places)} times (lines {where})"
            if contradictory:
                message += f", answered {question.answer!r} here and differently elsewhere"
            anomalies.append(Anomaly("note", code, file, lines[question.row], name, "question_id", message))
            distinct[place] = replace(question, question_id=name, flags=(*question.flags, code))
    return distinct
