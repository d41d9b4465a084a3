"""Reads MUSIC-AVQA and its family: one JSON array per split, ``avqa-<split>.json`` or ``<split>.json``.

Source: ``data/json`` and ``data/json_update`` of GeWu-Lab/MUSIC-AVQA, described in ``docs/facts/coqo.md`` sections 1.3
to 1.7. The family is described in ``docs/facts/videoqa.md`` section 7:

- Version 2.0 (``test_balance.json`` and ``test_bias.json`` of DragonLiu1995/MUSIC-AVQA-v2.0) has rows without ids, ids
  that are floats, and more keys.
- MUSIC-AVQA-R and FortisAVQA (reml-group, of the same names) give one question in many wordings under one id, have no
  ``templ_values`` where a text has no slots, and say in ``split`` whether its answer is a frequent one (``head``) or a
  rare one (``tail``).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import json_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, RowError, shown
from parsers.annotations.schema import Question
from settings.messages import first_few, plural

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

SUBSETS = ("head", "tail")
"""Parts of a test split by how frequent the answer is, in MUSIC-AVQA-R and FortisAVQA."""

_KEYS = frozenset(
    (
        *("video_id", "question_id", "type", "question_content", "templ_values", "question_deleted", "anser"),
        *("split", "x"),  # of FortisAVQA: k in equation 9 of its paper
    )
)
_INDEX = {answer: index for index, answer in enumerate(ANSWERS)}
_SLOT = re.compile(r"<[^<>]*>")
_LONGEST_LITERAL = 1000
_LINES_SHOWN = 10
_REWORDED = "reworded_question"


def official_names(split: str) -> list[str]:
    """Return the names of the split's file, the most likely first."""
    return [f"avqa-{split}.json", f"{split}.json"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one split, with their slots filled."""
    builder = _Builder(str(path), dataset, split, anomalies)
    questions = builder.build_all(json_records(read_text(path)))
    return _distinct_ids(str(path), questions, builder.lines, anomalies)


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    """Keeps the line of each row."""

    known: ClassVar[frozenset[str] | None] = _KEYS

    lines: dict[int, int] = field(default_factory=dict)

    def build(self, row: Row) -> Question:
        self.lines[row.index] = row.line
        row.key = self.invented_id(row)
        row.key = _question_id(row)
        modality, question_type = _type(row)
        template = row.text("question_content")
        slots = len(_SLOT.findall(template))
        values = [] if not slots and row.get("templ_values") is None else _strings(row, "templ_values")
        if slots != len(values):
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
            subset=_subset(row),
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


def _subset(row: Row) -> str | None:
    """Return ``head`` or ``tail``; None if the file does not say."""
    if row.get("split") is None:
        return None
    subset = row.text("split")
    if subset not in SUBSETS:
        raise RowError("unknown_subset", "split", f"is neither head nor tail (got {shown(subset)})")
    return subset


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
    """Name the second row of an id ``<id>#2``, and so on; flag every row of such an id.

    The original files give 27 (val) and 55 (test) ids twice, with contradictory answers. The update keeps neither
    always the first nor always the last, so both stay, and every such row is noted.

    Where the texts of an id differ, they are wordings of one question: MUSIC-AVQA-R and FortisAVQA are made of them.
    One note then speaks for the file.
    """
    positions: dict[str, list[int]] = defaultdict(list)
    for position, question in enumerate(questions):
        positions[question.question_id].append(position)
    distinct = list(questions)
    taken = set(positions)
    reworded: list[int] = []
    for identity, places in positions.items():
        if len(places) == 1:
            continue
        rows = [questions[place] for place in places]
        contradictory = len({row.answer for row in rows}) > 1
        is_reworded = len({row.question for row in rows}) > 1
        code = "contradictory_answer" if contradictory else "duplicate_question_id"
        if is_reworded:
            code = _REWORDED
            reworded.append(len(places))
        where = first_few([lines[row.row] for row in rows], _LINES_SHOWN)
        for number, place in enumerate(places, 1):
            question = questions[place]
            name = identity if number == 1 else _untaken(identity, number, taken)
            distinct[place] = replace(question, question_id=name, flags=(*question.flags, code))
            if is_reworded:
                continue
            message = f"question {identity!r} is given {len(places)} times (lines {where})"
            if contradictory:
                message += f", answered {question.answer!r} here and differently elsewhere"
            anomalies.append(Anomaly("note", code, file, lines[question.row], name, "question_id", message))
    if reworded:
        message = f"{sum(reworded)} rows are wordings of {plural(len(reworded), 'id')}; the second is called <id>#2, …"
        anomalies.append(Anomaly("note", _REWORDED, file, 0, "", "question_id", message))
    return distinct
