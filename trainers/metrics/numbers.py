"""Scores of answers that are numbers: mean squared error, for which two projects have two rules, and accuracy.

TGIF-QA's counts are 0 and 2 to 10. Its own evaluator (``gifqa/models/count_base.py``) rounds a prediction and clamps it
to 1 … 10, and compares it with the annotated number. HCRN does the same, and lifts annotated zeros to 1 as well, which
makes a quarter of the test questions easier. Errors under the two cannot be compared (``docs/facts/videoqa.md`` section
4). ``raw`` compares both numbers as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from trainers.errors import EvaluationError

NumberRule = Literal["raw", "tgif_qa", "hcrn"]
"""``raw``; ``tgif_qa``: prediction in 1 … 10; ``hcrn``: prediction in 1 … 10, and annotated numbers at least 1."""
NUMBER_RULES: tuple[NumberRule, ...] = get_args(NumberRule)
LEAST, MOST = 1, 10


@dataclass(frozen=True, slots=True)
class NumberScores:
    """Scores of one split.

    Attributes
    ----------
    mse
        Rule to mean squared error, unrounded.
    accuracy
        Percentage of questions whose rounded prediction is the annotated number, under ``raw``.
    n
        Number of questions.
    unknown
        Ids of predictions for questions that are not in the annotations, which do not count.
    rule
        What the errors are, in one line.
    """

    mse: dict[str, float]
    accuracy: float
    n: int
    unknown: tuple[str, ...]
    rule: str = (
        "raw: numbers as they are; tgif_qa: prediction rounded and clamped to 1 … 10; hcrn: that, and annotated "
        "numbers lifted to at least 1"
    )

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return asdict(self)


def decided(prediction: float, rule: NumberRule) -> float:
    """Return what a rule makes of a prediction; halves are rounded to the even number, as by the published code."""
    return prediction if rule == "raw" else float(min(max(round(prediction), LEAST), MOST))


def expected(answer: float, rule: NumberRule) -> float:
    """Return what a rule makes of an annotated number."""
    return max(answer, LEAST) if rule == "hcrn" else answer


def score(answers: Mapping[str, float], predictions: Mapping[str, float]) -> NumberScores:
    """Compare predicted with annotated numbers, both by question id.

    Raises
    ------
    EvaluationError
        If there is nothing to score, or a question has no prediction: no number could stand for it.
    """
    if not answers:
        raise EvaluationError("no question has a number to compare with")
    missing = next((name for name in answers if name not in predictions), None)
    if missing is not None:
        raise EvaluationError(f"question {missing!r}: has no prediction; an error needs one of every question")
    pairs = [(predictions[name], answer) for name, answer in answers.items()]

    def error(rule: NumberRule) -> float:
        return _mean([(decided(prediction, rule) - expected(answer, rule)) ** 2 for prediction, answer in pairs])

    return NumberScores(
        mse={rule: error(rule) for rule in NUMBER_RULES},
        accuracy=100 * _mean([float(round(prediction) == answer) for prediction, answer in pairs]),
        n=len(pairs),
        unknown=tuple(name for name in predictions if name not in answers),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
