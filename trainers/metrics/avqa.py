"""Scores of audio-visual question answering: top-1 accuracy by question type and modality.

The protocol is that of MUSIC-AVQA (``docs/facts/coqo.md`` section 1.8). Every rate is micro: right answers over
questions of the group, never a mean of rates. A question without a prediction is wrong.

The original MUSIC-AVQA files hold some question ids twice, with contradictory answers (section 1.7). Published numbers
count both rows, and so do these: each row is scored against the one prediction of its id, or against its own if the
predictions name rows as the store does (``<id>#2``). The updated files have no such ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainers.errors import EvaluationError
from trainers.metrics.files import read_object

MODALITIES = ("Audio", "Visual", "Audio-Visual")
"""Groups of question types, in the order of published tables (``docs/facts/coqo.md`` section 1.8)."""
TYPES = (
    *("Audio Counting", "Audio Comparative", "Visual Counting", "Visual Location", "Audio-Visual Existential"),
    *("Audio-Visual Counting", "Audio-Visual Location", "Audio-Visual Comparative", "Audio-Visual Temporal"),
)
"""The nine question types of MUSIC-AVQA, in the order of published tables."""
_REPEATED = frozenset(("contradictory_answer", "duplicate_question_id"))


@dataclass(frozen=True, slots=True)
class Question:
    """What the annotations say about a question.

    Attributes
    ----------
    question_id
        A unique id.
    published_id
        The id in the annotation file; both rows of an id given twice have the same.
    type
        Type of the question.
    modality
        One of ``MODALITIES``; None if the dataset has no such groups.
    answer
        The right answer.
    """

    question_id: str
    published_id: str
    type: str
    modality: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class Rate:
    """Accuracy of a group.

    Attributes
    ----------
    accuracy
        Percentage of right answers, unrounded; None if the group has no questions.
    n
        Number of questions.
    """

    accuracy: float | None
    n: int


@dataclass(frozen=True, slots=True)
class AvqaScores:
    """Scores of one split.

    Attributes
    ----------
    overall
        The rate of all questions.
    groups
        Modality to rate, in the order of published tables; empty if the dataset has no modalities.
    types
        Question type to rate, in the order of published tables. If the dataset has modalities, these include all nine
        types of MUSIC-AVQA.
    missing
        Ids of questions without a prediction, which count as wrong.
    unknown
        Ids of predictions for questions that are not in the annotations, which do not count.
    repeated
        Ids that the annotations give more than once; every row counts.
    outside
        Ids of questions whose predicted answer is none of the possible ones, which counts as wrong.
    right_but_for_spelling
        Those of ``outside`` whose answer would be right without regard to case and blanks. The metric compares texts
        exactly, as the published evaluator does, so they do not count.
    """

    overall: Rate
    groups: dict[str, Rate]
    types: dict[str, Rate]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    repeated: tuple[str, ...]
    outside: tuple[str, ...]
    right_but_for_spelling: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name; a rate is ``{"accuracy": percent, "n": int}``."""
        return asdict(self)


def score(
    questions: Sequence[Question], predictions: Mapping[str, str], possible: Collection[str] | None = None
) -> AvqaScores:
    """Compare predictions by question id with the annotated answers; a right one is the same text.

    Parameters
    ----------
    questions
        What the annotations say.
    predictions
        Answers by question id.
    possible
        All answers that a prediction may be; by default, those of the annotations.
    """
    answers = [_prediction(question, predictions) for question in questions]
    right = [answer == question.answer for answer, question in zip(answers, questions, strict=True)]
    musical = any(question.modality for question in questions)
    published_types = TYPES if musical else ()
    types = [*published_types, *sorted({question.type for question in questions} - set(published_types))]
    rows = Counter(question.published_id for question in questions)
    vocabulary = frozenset(question.answer for question in questions) if possible is None else frozenset(possible)
    outside = [
        (question, answer)
        for answer, question in zip(answers, questions, strict=True)
        if answer is not None and answer not in vocabulary
    ]
    known = {name for question in questions for name in (question.question_id, question.published_id)}

    def rates(names: Sequence[str], groups: Sequence[str | None]) -> dict[str, Rate]:
        return {
            name: _rate([flag for flag, group in zip(right, groups, strict=True) if group == name]) for name in names
        }

    return AvqaScores(
        overall=_rate(right),
        groups=rates(MODALITIES if musical else (), [question.modality for question in questions]),
        types=rates(types, [question.type for question in questions]),
        missing=tuple(q.question_id for answer, q in zip(answers, questions, strict=True) if answer is None),
        unknown=tuple(name for name in predictions if name not in known),
        repeated=tuple(name for name, count in rows.items() if count > 1),
        outside=tuple(question.question_id for question, _ in outside),
        right_but_for_spelling=tuple(
            question.question_id for question, answer in outside if _plain(answer) == _plain(question.answer)
        ),
    )


def questions_of(table: pa.Table, source: Path | None = None) -> list[Question]:
    """Return the questions of a table with the columns of a store's ``questions`` table.

    Parameters
    ----------
    table
        The table.
    source
        The file that it is from, for messages.

    Raises
    ------
    EvaluationError
        If an answer is hidden.
    """
    columns = ("question_id", "type", "modality", "answer", "flags")
    questions = []
    for row in table.select(columns).to_pylist():
        name = row["question_id"]
        if row["answer"] is None:
            where = "" if source is None else f"{source}: "
            raise EvaluationError(
                f"{where}question {name!r}: its answer is hidden; only files with all answers can be scored"
            )
        repeated = not _REPEATED.isdisjoint(row["flags"])
        published = name.rpartition("#")[0] if repeated and "#" in name else name
        questions.append(Question(name, published, row["type"], row["modality"], row["answer"]))
    return questions


def read_predictions(path: Path) -> dict[str, str]:
    """Read answers by question id from a JSON file ``{"<question_id>": "<answer>"}``.

    Raises
    ------
    EvaluationError
        If the file cannot be read or has another form.
    """
    predictions = read_object(path)
    for name, answer in predictions.items():
        if not isinstance(answer, str):
            raise EvaluationError(f"{path}: question {name!r}: its answer must be a text")
    return predictions


def _prediction(question: Question, predictions: Mapping[str, str]) -> str | None:
    return predictions.get(question.question_id, predictions.get(question.published_id))


def _plain(answer: str) -> str:
    return answer.strip().casefold()


def _rate(right: Sequence[bool]) -> Rate:
    return Rate(100 * sum(right) / len(right) if right else None, len(right))
