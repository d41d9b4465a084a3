"""Grounded question answering, scored: Acc@VQA, Acc@GQA, IoP and IoU (NExT-GQA; facts/cra.md section 6.1).

``official`` follows the published evaluator (NExT-GQA ``eval_ground.py``) in everything it does: a question without a
prediction is left out, not wrong; the right answer is the one that the prediction file states. Otherwise every
annotated question counts, and the annotations say what is right. In both, a span without length that lies inside the
truth has IoP 1, so that the midpoint of the video beats published models: see ``Report.zero_length`` and ``baselines``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Span = tuple[float, float]

THRESHOLDS = (0.3, 0.5)
FAITHFUL = 0.5


@dataclass(frozen=True, slots=True)
class GroundedQuestion:
    """What the annotations say of a question.

    Attributes
    ----------
    key : ``<video>_<question>``, as predictions name it.
    answer : index of the right option; None if not known.
    options : how many there are; 0 if not known.
    duration : seconds of the video.
    spans : the seconds that show the answer; at least one.
    """

    key: str
    video_id: str
    type: str
    answer: int | None
    options: int
    duration: float
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A predicted option, and the right one as the prediction file states it."""

    prediction: int
    stated: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question scored: right or wrong, and its best IoU and IoP over the true spans."""

    right: bool
    iou: float
    iop: float


Rates = dict[str, float]


@dataclass(frozen=True, slots=True)
class Report:
    """Rates in percent, unrounded; ``n`` is their denominator.

    Attributes
    ----------
    overall : ``acc_vqa, acc_gqa, miop, iop_30, iop_50, miou, iou_30, iou_50``; ``unfaithful`` (right answer, IoP below
        0.5), ``bias_errors`` (wrong answer, IoP below 0.5), ``faithful`` (Acc@GQA of Acc@VQA); ``n``.
    types : the same for each question type, sorted.
    baselines : the same answers with spans that no model needs: the full video, its midpoint, its middle half.
    missing_answers, missing_spans, zero_length, reversed : keys, in the order of the annotations.
    """

    overall: Rates
    types: dict[str, Rates]
    baselines: dict[str, Rates]
    missing_answers: tuple[str, ...]
    missing_spans: tuple[str, ...]
    zero_length: tuple[str, ...]
    reversed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """``overall`` at the top, the rest by name."""
        rest = asdict(self)
        return {**rest.pop("overall"), **rest}


def _full(duration: float) -> Span:
    return 0.0, duration


def _midpoint(duration: float) -> Span:
    return duration / 2, duration / 2


def _middle_half(duration: float) -> Span:
    return duration / 4, 3 * duration / 4


BASELINES: dict[str, Callable[[float], Span]] = {
    "full_video": _full,
    "midpoint": _midpoint,
    "middle_half": _middle_half,
}


def overlap(truth: Span, span: Span) -> tuple[float, float]:
    """(IoU, IoP) of one true span, as published: may be negative, where the spans are apart.

    The union is the hull of both. A span without length has IoP 1 inside the truth, ends included, and IoU 0; a
    reversed span has IoP 0.
    """
    start, end = span
    if start == end:
        return 0.0, float(truth[0] <= start <= truth[1])
    intersection = min(end, truth[1]) - max(start, truth[0])
    hull = max(end, truth[1]) - min(start, truth[0])
    length = end - start
    return (intersection / hull if hull > 0 else 0.0), (intersection / length if length > 0 else 0.0)


def best_overlap(truths: Iterable[Span], span: Span) -> tuple[float, float]:
    """The greatest IoU and, apart from it, the greatest IoP over the true spans; at least 0."""
    pairs = [(0.0, 0.0), *(overlap(truth, span) for truth in truths)]
    return max(iou for iou, _ in pairs), max(iop for _, iop in pairs)


def rates(outcomes: Sequence[Outcome]) -> Rates:
    """Percentages over ``outcomes``, of which there is at least one."""
    n = len(outcomes)

    def percent(of: Iterable[float]) -> float:
        return 100.0 * sum(of) / n

    right = percent(each.right for each in outcomes)
    grounded = percent(each.right and each.iop >= FAITHFUL for each in outcomes)
    measured: Rates = {"acc_vqa": right, "acc_gqa": grounded}
    for name in ("iop", "iou"):
        values = [getattr(each, name) for each in outcomes]
        measured[f"m{name}"] = percent(values)
        for threshold in THRESHOLDS:
            measured[f"{name}_{round(100 * threshold)}"] = percent(value >= threshold for value in values)
    measured["unfaithful"] = percent(each.right and each.iop < FAITHFUL for each in outcomes)
    measured["bias_errors"] = percent(not each.right and each.iop < FAITHFUL for each in outcomes)
    measured["faithful"] = 100.0 * grounded / right if right else 0.0
    measured["n"] = n
    return measured


def score(
    questions: Sequence[GroundedQuestion],
    answers: Mapping[str, Answer],
    spans: Mapping[str, Span],
    official: bool = False,
) -> Report:
    """Score predictions; ``spans`` are seconds of the video.

    Raises
    ------
    ValueError
        If there is nothing to score, or the right answer of a question is not known (one line).
    """
    missing_answers = tuple(each.key for each in questions if each.key not in answers)
    missing_spans = tuple(each.key for each in questions if each.key not in spans)
    if official:
        questions = [each for each in questions if each.key in answers and each.key in spans]
    if not questions:
        raise ValueError("no question of the annotations has a prediction")
    right = [_is_right(each, answers.get(each.key), official) for each in questions]

    def outcomes(span_of: Callable[[GroundedQuestion], Span | None]) -> list[Outcome]:
        return [_outcome(each, correct, span_of(each)) for each, correct in zip(questions, right, strict=True)]

    scored = outcomes(lambda each: spans.get(each.key))
    by_type: dict[str, list[Outcome]] = {}
    for each, outcome in zip(questions, scored, strict=True):
        by_type.setdefault(each.type, []).append(outcome)
    predicted = [(each.key, *spans[each.key]) for each in questions if each.key in spans]
    return Report(
        overall=rates(scored),
        types={name: rates(by_type[name]) for name in sorted(by_type)},
        baselines={
            name: rates(outcomes(lambda each, span=span: span(each.duration)))  # type: ignore[misc]
            for name, span in BASELINES.items()
        },
        missing_answers=missing_answers,
        missing_spans=missing_spans,
        zero_length=tuple(key for key, start, end in predicted if start == end),
        reversed=tuple(key for key, start, end in predicted if start > end),
    )


def _is_right(question: GroundedQuestion, answer: Answer | None, official: bool) -> bool:
    if answer is None:
        return False
    truth = answer.stated if official else question.answer
    if truth is None:
        raise ValueError(f"question {question.key!r}: its right answer is not known")
    return answer.prediction == truth


def _outcome(question: GroundedQuestion, right: bool, span: Span | None) -> Outcome:
    iou, iop = best_overlap(question.spans, span) if span is not None else (0.0, 0.0)
    return Outcome(right, iou, iop)
