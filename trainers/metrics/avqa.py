"""Audio-visual question answering, scored: top-1 accuracy by question type and modality (facts/coqo.md 1.8).

Every rate is micro: right answers over questions of the group, never a mean of rates. A question without a prediction
is wrong.

The original MUSIC-AVQA files hold some question ids twice, with contradictory answers (facts 1.7). Published numbers
count both rows, and so does this: each is scored against the one prediction of its id, or against one of its own if
the predictions name rows as the store does (``<id>#2``). The updated files have no such ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainers.errors import EvaluationError
from trainers.metrics.files import read_object

# In the order of published tables (facts 1.8).
MODALITIES = ("Audio", "Visual", "Audio-Visual")
TYPES = (
    *("Audio Counting", "Audio Comparative", "Visual Counting", "Visual Location", "Audio-Visual Existential"),
    *("Audio-Visual Counting", "Audio-Visual Location", "Audio-Visual Comparative", "Audio-Visual Temporal"),
)
_REPEATED = frozenset(("contradictory_answer", "duplicate_question_id"))


@dataclass(frozen=True, slots=True)
class Question:
    """What the annotations say of a question.

    Attributes
    ----------
    question_id : unique.
    published_id : as the annotation file has it; the same for both rows of an id given twice.
    modality : None where the dataset has no such groups.
    """

    question_id: str
    published_id: str
    type: str
    modality: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class Rate:
    """Accuracy in percent, unrounded; None of no questions."""

    accuracy: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of one split.

    Attributes
    ----------
    groups, types : by name, in the order of published tables; the nine types of MUSIC-AVQA even where there are none.
    missing : questions without a prediction, counted as wrong.
    unknown : predictions for questions that are not in the annotations, not counted.
    repeated : ids that the annotations give more than once, every row counted.
    """

    overall: Rate
    groups: dict[str, Rate]
    types: dict[str, Rate]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    repeated: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The attributes by name; a rate is ``{"accuracy": percent, "n": int}``."""
        return asdict(self)


def score(questions: Sequence[Question], predictions: Mapping[str, str]) -> Report:
    """Compare predictions, by question id, with the annotated answers; texts must be equal."""
    found = [_prediction(question, predictions) for question in questions]
    right = [said == question.answer for said, question in zip(found, questions, strict=True)]
    musical = any(question.modality for question in questions)
    published_types = TYPES if musical else ()
    types = [*published_types, *sorted({question.type for question in questions} - set(published_types))]
    times = Counter(question.published_id for question in questions)
    known = {name for question in questions for name in (question.question_id, question.published_id)}

    def rates(names: Sequence[str], of: Sequence[str | None]) -> dict[str, Rate]:
        return {name: _rate([r for r, group in zip(right, of, strict=True) if group == name]) for name in names}

    return Report(
        overall=_rate(right),
        groups=rates(MODALITIES if musical else (), [question.modality for question in questions]),
        types=rates(types, [question.type for question in questions]),
        missing=tuple(q.question_id for said, q in zip(found, questions, strict=True) if said is None),
        unknown=tuple(name for name in predictions if name not in known),
        repeated=tuple(name for name, rows in times.items() if rows > 1),
    )


def questions_of(table: pa.Table) -> list[Question]:
    """The questions of an annotation file, as the ``questions`` table of a store has them.

    Raises
    ------
    EvaluationError
        If an answer is hidden.
    """
    columns = ("question_id", "type", "modality", "answer", "flags")
    out = []
    for row in table.select(columns).to_pylist():
        name = row["question_id"]
        if row["answer"] is None:
            raise EvaluationError(f"question {name!r}: its answer is hidden; such files cannot be scored")
        repeated = not _REPEATED.isdisjoint(row["flags"])
        published = name.rpartition("#")[0] if repeated and "#" in name else name
        out.append(Question(name, published, row["type"], row["modality"], row["answer"]))
    return out


def read_predictions(path: Path) -> dict[str, str]:
    """``{"<question_id>": "<answer>"}``.

    Raises
    ------
    EvaluationError
        If the file cannot be read or is not of that form.
    """
    predictions = read_object(path)
    for name, answer in predictions.items():
        if not isinstance(answer, str):
            raise EvaluationError(f"{path}: question {name!r}: its answer must be a text")
    return predictions


def _prediction(question: Question, predictions: Mapping[str, str]) -> str | None:
    return predictions.get(question.question_id, predictions.get(question.published_id))


def _rate(right: Sequence[bool]) -> Rate:
    return Rate(100 * sum(right) / len(right) if right else None, len(right))
