"""Scores of grounded question answering: Acc@VQA, Acc@GQA, IoP and IoU (NExT-GQA; ``docs/facts/cra.md`` section 6.1).

``official`` follows the published evaluator (``eval_ground.py`` of NExT-GQA) in everything: a question without a
prediction is left out, not wrong, and the right answer is the one that the prediction file states. Otherwise every
annotated question counts, and the annotations say what is right. In both, a span without length that lies inside the
truth has IoP 1, so that the midpoint of the video beats published models. ``GroundingScores`` therefore names such
spans, and gives the scores of spans that need no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Span = tuple[float, float]
"""Start and end in seconds."""
Rates = dict[str, float]
"""Metric to value in percent, and ``n``."""

THRESHOLDS = (0.3, 0.5)
"""IoP and IoU are also given as shares of questions that reach these values."""
FAITHFUL = 0.5
"""The least IoP of a span that counts as grounded."""
TITLES = {
    "acc_vqa": "VQA",
    "acc_gqa": "GQA",
    "miop": "mIoP",
    "iop_30": "IoP.3",
    "iop_50": "IoP.5",
    "miou": "mIoU",
    "iou_30": "IoU.3",
    "iou_50": "IoU.5",
    "unfaithful": "UF",
    "bias_errors": "Err",
}
"""Metric to its title in a table, in the order of published tables."""


@dataclass(frozen=True, slots=True)
class GroundedQuestion:
    """What the annotations say about a question.

    Attributes
    ----------
    key
        ``<video>_<question>``, as predictions name it.
    video_id
        The video that the question is about.
    type
        Type of the question.
    answer
        Index of the right option; None if it is unknown.
    options
        Number of options; 0 if it is unknown.
    duration
        Duration of the video in seconds.
    spans
        The spans that show the answer, in seconds; at least one.
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
    """An answer as the prediction file has it.

    Attributes
    ----------
    prediction
        Index of the predicted option.
    stated
        Index of the option that the file states to be right, or None.
    """

    prediction: int
    stated: int | None


@dataclass(frozen=True, slots=True)
class ScoredQuestion:
    """One question, scored.

    Attributes
    ----------
    right
        Whether the answer is right.
    iou
        Best IoU over the true spans.
    iop
        Best IoP over the true spans.
    """

    right: bool
    iou: float
    iop: float


@dataclass(frozen=True, slots=True)
class GroundingScores:
    """Scores of one split, in percent and unrounded.

    Attributes
    ----------
    overall
        ``acc_vqa``, ``acc_gqa``, ``miop``, ``iop_30``, ``iop_50``, ``miou``, ``iou_30``, ``iou_50``; ``unfaithful``
        (right answer, IoP below 0.5), ``bias_errors`` (wrong answer, IoP below 0.5), ``faithful`` (Acc@GQA as a share
        of Acc@VQA); ``n``, the number of questions.
    types
        The same for each question type, in alphabetical order.
    baselines
        The same answers with spans that need no model: the full video, its midpoint, its middle half.
    missing_answers
        Keys of questions without an answer, in the order of the annotations.
    missing_spans
        Keys of questions without a predicted span.
    zero_length
        Keys of predicted spans whose end is their start.
    reversed
        Keys of predicted spans that end before they start.
    outside_video
        Keys of predicted spans that begin before the video or end after it.
    """

    overall: Rates
    types: dict[str, Rates]
    baselines: dict[str, Rates]
    missing_answers: tuple[str, ...]
    missing_spans: tuple[str, ...]
    zero_length: tuple[str, ...]
    reversed: tuple[str, ...]
    outside_video: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the rates of ``overall`` and the other attributes as one object."""
        rest = asdict(self)
        return {**rest.pop("overall"), **rest}


def _full_video(question: GroundedQuestion) -> Span:
    return 0.0, question.duration


def _midpoint(question: GroundedQuestion) -> Span:
    return question.duration / 2, question.duration / 2


def _middle_half(question: GroundedQuestion) -> Span:
    return question.duration / 4, 3 * question.duration / 4


BASELINES: Mapping[str, Callable[[GroundedQuestion], Span]] = {
    "full_video": _full_video,
    "midpoint": _midpoint,
    "middle_half": _middle_half,
}
"""Spans that need no model, by name."""


def overlap(truth: Span, span: Span) -> tuple[float, float]:
    """Return IoU and IoP of a span and one true span, as published: negative if the two are disjoint.

    The union is the hull of both. A span without length has IoU 0, and IoP 1 inside the truth, ends included. A
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
    """Return the greatest IoU and, independently, the greatest IoP over the true spans; both are at least 0."""
    pairs = [(0.0, 0.0), *(overlap(truth, span) for truth in truths)]
    return max(iou for iou, _ in pairs), max(iop for _, iop in pairs)


def rates(questions: Sequence[ScoredQuestion]) -> Rates:
    """Summarise at least one scored question in percent; see ``GroundingScores.overall``."""
    n = len(questions)

    def percent(values: Iterable[float]) -> float:
        return 100.0 * sum(values) / n

    right = percent(question.right for question in questions)
    grounded = percent(question.right and question.iop >= FAITHFUL for question in questions)
    summary: Rates = {"acc_vqa": right, "acc_gqa": grounded}
    for name in ("iop", "iou"):
        values = [getattr(question, name) for question in questions]
        summary[f"m{name}"] = percent(values)
        for threshold in THRESHOLDS:
            summary[f"{name}_{round(100 * threshold)}"] = percent(value >= threshold for value in values)
    summary["unfaithful"] = percent(question.right and question.iop < FAITHFUL for question in questions)
    summary["bias_errors"] = percent(not question.right and question.iop < FAITHFUL for question in questions)
    summary["faithful"] = 100.0 * grounded / right if right else 0.0
    summary["n"] = n
    return summary


def score(
    questions: Sequence[GroundedQuestion],
    answers: Mapping[str, Answer],
    spans: Mapping[str, Span],
    official: bool = False,
) -> GroundingScores:
    """Score predicted answers and spans.

    Parameters
    ----------
    questions
        What the annotations say.
    answers
        Predicted answers by key.
    spans
        Predicted spans by key, in seconds of the video.
    official
        Score as the published evaluator does.

    Raises
    ------
    ValueError
        If there is nothing to score, or the right answer of a question is unknown (one line).
    """
    missing_answers = tuple(question.key for question in questions if question.key not in answers)
    missing_spans = tuple(question.key for question in questions if question.key not in spans)
    if official:
        questions = [question for question in questions if question.key in answers and question.key in spans]
    if not questions:
        raise ValueError("no question of the annotations has a prediction")
    right = [_is_right(question, answers.get(question.key), official) for question in questions]

    def scored(span_of: Callable[[GroundedQuestion], Span | None]) -> list[ScoredQuestion]:
        return [_scored(question, flag, span_of(question)) for question, flag in zip(questions, right, strict=True)]

    predicted = scored(lambda question: spans.get(question.key))
    by_type: dict[str, list[ScoredQuestion]] = {}
    for question, result in zip(questions, predicted, strict=True):
        by_type.setdefault(question.type, []).append(result)
    durations = {question.key: question.duration for question in questions}
    predictions = [(question.key, *spans[question.key]) for question in questions if question.key in spans]
    return GroundingScores(
        overall=rates(predicted),
        types={name: rates(by_type[name]) for name in sorted(by_type)},
        baselines={name: rates(scored(span_of)) for name, span_of in BASELINES.items()},
        missing_answers=missing_answers,
        missing_spans=missing_spans,
        zero_length=tuple(key for key, start, end in predictions if start == end),
        reversed=tuple(key for key, start, end in predictions if start > end),
        outside_video=tuple(key for key, *span in predictions if not 0 <= min(span) <= max(span) <= durations[key]),
    )


def _is_right(question: GroundedQuestion, answer: Answer | None, official: bool) -> bool:
    if answer is None:
        return False
    truth = answer.stated if official else question.answer
    if truth is None:
        raise ValueError(f"question {question.key!r}: its right answer is not known")
    return answer.prediction == truth


def _scored(question: GroundedQuestion, right: bool, span: Span | None) -> ScoredQuestion:
    iou, iop = best_overlap(question.spans, span) if span is not None else (0.0, 0.0)
    return ScoredQuestion(right, iou, iop)
