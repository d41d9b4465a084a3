"""Scores of audio-visual question answering: top-1 accuracy by question type and modality.

The protocol is that of MUSIC-AVQA (``docs/facts/coqo.md`` section 1.8). Every rate is micro: right answers over
questions of the group, never a mean of rates. A question without a prediction is wrong.

The original MUSIC-AVQA files hold some question ids twice, with contradictory answers (section 1.7). Published numbers
count both rows, and so do these: each row is scored against the one prediction of its id, or against its own if the
predictions name rows as the store does (``<id>#2``). The updated files have no such ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainers.errors import EvaluationError
from trainers.metrics.files import read_object
from trainers.metrics.rules import Rule

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
    subset
        Part of the split that the dataset names, such as ``head`` and ``tail``; None if it names none.
    """

    question_id: str
    published_id: str
    type: str
    modality: str | None
    answer: str
    subset: str | None = None


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
        Modality to rate, in the order of published tables, or the groups of the dataset's rule; empty if the dataset
        has neither.
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
    subsets
        Part of the split to rate, in alphabetical order; empty if the dataset names no parts.
    rule
        What the dataset's own evaluator does, in one line; empty if the dataset has no rule of its own.
    """

    overall: Rate
    groups: dict[str, Rate]
    types: dict[str, Rate]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    repeated: tuple[str, ...]
    outside: tuple[str, ...]
    right_but_for_spelling: tuple[str, ...]
    subsets: dict[str, Rate] = field(default_factory=dict)
    rule: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name; a rate is ``{"accuracy": percent, "n": int}``."""
        return asdict(self)


def score(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    possible: Collection[str] | None = None,
    rule: Rule | None = None,
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
    rule
        How the dataset's own evaluator divides the questions; by default, by type and modality.
    """
    if rule is not None:
        questions = [replace(question, type=rule.merged.get(question.type, question.type)) for question in questions]
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

    def rates(names: Iterable[str], groups: Sequence[str | None]) -> dict[str, Rate]:
        return {
            name: _rate([flag for flag, group in zip(right, groups, strict=True) if group == name]) for name in names
        }

    kinds = [question.type for question in questions]
    groups = rates(MODALITIES if musical else (), [question.modality for question in questions])
    for name, own in rule.groups.items() if rule is not None else ():
        groups[name] = _rate([flag for flag, kind in zip(right, kinds, strict=True) if kind in own])
    subsets = [question.subset for question in questions]
    return AvqaScores(
        overall=_rate(right),
        groups=groups,
        types=rates(types, kinds),
        missing=tuple(q.question_id for answer, q in zip(answers, questions, strict=True) if answer is None),
        unknown=tuple(name for name in predictions if name not in known),
        repeated=tuple(name for name, count in rows.items() if count > 1),
        outside=tuple(question.question_id for question, _ in outside),
        right_but_for_spelling=tuple(
            question.question_id for question, answer in outside if _plain(answer) == _plain(question.answer)
        ),
        subsets=rates(sorted({subset for subset in subsets if subset is not None}), subsets),
        rule="" if rule is None else rule.text,
    )


def with_answer(question: Question, answer: str) -> Question:
    """Return a question with another text for its answer."""
    return replace(question, answer=answer)


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
    subsets = table["subset"].to_pylist() if "subset" in table.column_names else [None] * table.num_rows
    for row, subset in zip(table.select(columns).to_pylist(), subsets, strict=True):
        name = row["question_id"]
        if row["answer"] is None:
            where = "" if source is None else f"{source}: "
            raise EvaluationError(
                f"{where}question {name!r}: its answer is hidden; only files with all answers can be scored"
            )
        repeated = not _REPEATED.isdisjoint(row["flags"])
        published = name.rpartition("#")[0] if repeated and "#" in name else name
        questions.append(Question(name, published, row["type"], row["modality"], row["answer"], subset))
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
