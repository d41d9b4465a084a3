"""MUSIC-AVQA: one JSON array a split, ``avqa-<split>.json`` (original, updated and v2.0 files).

Facts: GeWu-Lab/MUSIC-AVQA data/json and data/json_update; v2.0 has rows without ids, ids that are floats, more keys.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parsers.annotations.files import json_records, read_text
from parsers.annotations.report import Anomaly, Collector
from parsers.annotations.rows import Row, RowError, build_questions, check_key, decimal, shown
from parsers.annotations.schema import Question

_ANSWERS = """two, cello, congas, zero, no, pipa, six, yes, one, four, three, seven, five, ukulele, right, piano, left,
accordion, clarinet, guzheng, more than ten, nine, indoor, saxophone, drum, violin, middle, outdoor, bagpipe, bassoon,
acoustic_guitar, banjo, electric_bass, ten, eight, flute, simultaneously, trumpet, erhu, xylophone, tuba, suona"""
ANSWERS = tuple(" ".join(answer.split()) for answer in _ANSWERS.split(","))
"""The 42 answers; the position is the class index of published checkpoints (QA-TIGER's answer2idx.json)."""

TYPES = {
    "Audio": ("Counting", "Comparative"),
    "Visual": ("Counting", "Location"),
    "Audio-Visual": ("Existential", "Counting", "Location", "Comparative", "Temporal"),
}
"""Question types by modality, in the order of published tables."""

_KEYS = frozenset(("video_id", "question_id", "type", "question_content", "templ_values", "question_deleted", "anser"))
_INDEX = {answer: index for index, answer in enumerate(ANSWERS)}
_SLOT = re.compile(r"<[^<>]*>")
_LONGEST_LITERAL = 1000
_LINES_SHOWN = 10


def official_names(split: str) -> list[str]:
    return [f"avqa-{split}.json"]


def read(path: Path, dataset: str, split: str, report: Collector) -> list[Question]:
    """Questions of one split, with their slots filled."""
    builder = _Builder(str(path), dataset, split)
    questions = build_questions(str(path), json_records(read_text(path)), builder.build, report)
    for name, (line, rows) in builder.extra.items():
        message = f"{rows} rows have this key, which the published files lack; ignored"
        report.append(Anomaly("note", "extra_key", str(path), line, "", name, message))
    return _distinct_ids(str(path), questions, builder.lines, report)


@dataclass(slots=True)
class _Builder:
    file: str
    dataset: str
    split: str
    lines: dict[int, int] = field(default_factory=dict)
    extra: dict[str, tuple[int, int]] = field(default_factory=dict)

    def build(self, row: Row) -> Question:
        self.lines[row.index] = row.line
        row.key = f"row:{row.index}"
        row.key = _question_id(row)
        for name in row.fields.keys() - _KEYS:
            line, rows = self.extra.get(name, (row.line, 0))
            self.extra[name] = line, rows + 1
        modality, kind = _type(row)
        template = row.text("question_content")
        values = _strings(row, "templ_values")
        if len(_SLOT.findall(template)) != len(values):
            raise RowError("wrong_slots", "templ_values", f"{len(values)} values for the slots of {template!r}")
        fillers = iter(values)
        answer = row.text("anser")
        if answer not in _INDEX:
            raise RowError("answer_not_in_options", "anser", f"{shown(answer)} is not one of the 42 answers")
        return Question(
            question_id=row.key,
            video_id=row.key_text("video_id"),
            dataset=self.dataset,
            split=self.split,
            row=row.index,
            question=_SLOT.sub(lambda _: next(fillers), template),
            answer=answer,
            answer_index=_INDEX[answer],
            type=f"{modality} {kind}",
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
        row.note("float_question_id", "question_id", f"{value!r} is a float; written without its point")
        value = int(value)
    return check_key("question_id", decimal(value))


def _type(row: Row) -> tuple[str, str]:
    """Modality and question type."""
    found = _strings(row, "type")
    if len(found) != 2 or found[1] not in TYPES.get(found[0], ()):
        raise RowError("unknown_type", "type", f"is none of the nine types (got {shown(row.get('type'))})")
    return found[0], found[1]


def _strings(row: Row, name: str) -> list[str]:
    """A list of strings that is itself written in a string."""
    value: Any = row.required(name)
    if isinstance(value, str) and len(value) <= _LONGEST_LITERAL:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise RowError("malformed_json", name, f"does not hold a list of strings ({shown(value)})") from error
    if not isinstance(value, list):
        raise RowError("wrong_type", name, f"must hold a list of strings (got {shown(value)})")
    return [row.checked_text(name, each) for each in value]


def _untaken(identity: str, number: int, taken: set[str]) -> str:
    """``<identity>#<number>``, or the next number if the file itself has a question of that name."""
    while (name := f"{identity}#{number}") in taken:
        number += 1
    taken.add(name)
    return name


def _distinct_ids(file: str, questions: Sequence[Question], lines: dict[int, int], report: Collector) -> list[Question]:
    """Give the second row of an id the id ``<id>#2``, and so on; note all rows of an id whose answers differ.

    The original files hold 27 (val) and 55 (test) ids twice with contradictory answers; neither "first" nor "last" is
    the one that the update keeps, so both stay.
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
        where = ", ".join(str(lines[questions[place].row]) for place in places[:_LINES_SHOWN])
        where += ", …" * (len(places) > _LINES_SHOWN)
        for number, place in enumerate(places, 1):
            question = questions[place]
            name = identity if number == 1 else _untaken(identity, number, taken)
            message = f"question {identity!r} is given {len(places)} times (lines {where})"
            if contradictory:
                message += f", answered {question.answer!r} here and otherwise elsewhere"
            report.append(Anomaly("note", code, file, lines[question.row], name, "question_id", message))
            distinct[place] = replace(question, question_id=name, flags=(*question.flags, code))
    return distinct
