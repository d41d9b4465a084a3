"""Numbers of a run's page: intervals over videos, calibration, confusion, and the comparison of two runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.metrics import grounding, numbers
from trainers.metrics.rules import RULES
from trainers.predictions import Prediction

DRAWS = 1000
"""Samples of the bootstrap."""
BINS = 10
"""Bins of confidence."""
_SEED = 0
_AT_ONCE = 50  # samples whose counts are in memory together


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric of a split as a ratio of two sums over its questions.

    Attributes
    ----------
    amounts
        ``[N] float64``, what each question adds to the numerator, in the unit of the metric.
    weights
        ``[N] float64``, what it adds to the denominator.
    """

    amounts: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def value(self) -> float:
        return float(self.amounts.sum() / self.weights.sum())

    @property
    def n(self) -> int:
        """Number of questions that count."""
        return int((self.weights > 0).sum())


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric with its 95 % interval.

    Attributes
    ----------
    value
        The metric.
    low, high
        The interval; None if there are fewer than two videos.
    n
        Number of questions.
    """

    value: float
    low: float | None
    high: float | None
    n: int


def intervals(videos: Sequence[str], measures: Mapping[str, Measure], draws: int = DRAWS) -> dict[str, Interval]:
    """Return metrics with 95 % percentile intervals, by a bootstrap over videos.

    Questions of one video are no independent samples, so whole videos are drawn. The seed is fixed: the same questions
    in any order give the same intervals.

    Parameters
    ----------
    videos
        The video of each of N questions.
    measures
        Name to metric, with N amounts and weights each.
    draws
        Number of samples.
    """
    if not measures:
        return {}
    names, place = np.unique(np.asarray(videos, dtype=object).astype(str), return_inverse=True)
    columns = [column for measure in measures.values() for column in (measure.amounts, measure.weights)]
    sums = np.stack([np.bincount(place, column, len(names)) for column in columns], 1)  # [V, 2 M]
    drawn: list[NDArray[np.float64]] = []
    if len(names) > 1:
        generator = np.random.default_rng(_SEED)
        shares = np.full(len(names), 1 / len(names))
        for start in range(0, draws, _AT_ONCE):
            counts = generator.multinomial(len(names), shares, min(_AT_ONCE, draws - start))
            drawn.append(counts.astype(np.float64) @ sums)
    found = {}
    for number, (name, measure) in enumerate(measures.items()):
        low = high = None
        if drawn:
            totals = np.concatenate(drawn)[:, 2 * number : 2 * number + 2]
            totals = totals[totals[:, 1] > 0]  # a sample may have no question of a rare type
            low, high = map(float, np.quantile(totals[:, 0] / totals[:, 1], (0.025, 0.975)))
        found[name] = Interval(measure.value, low, high, measure.n)
    return found


def measures_of(rows: Sequence[Prediction], dataset: str = "") -> dict[str, Measure]:
    """Return the metrics of questions whose answers are known, in percent; none without such questions.

    Where answers of the dataset are numbers, their mean squared errors are added, by rule.

    ``accuracy`` counts all of them. The metrics of spans are those of ``trainers.metrics.grounding.rates`` over the
    questions that have a predicted and a true span.
    """
    known = np.array([row.right is not None for row in rows], np.float64)
    if not known.any():
        return {}
    right = np.array([bool(row.right) for row in rows], np.float64)
    measures = {"accuracy": Measure(100 * right * known, known)}
    if (rule := RULES.get(dataset)) is not None and rule.numbers:
        for how in numbers.NUMBER_RULES:
            measures[f"MSE, {how}"] = Measure(np.array([_error(row, how) for row in rows]) * known, known)
    spanned = [
        grounding.ScoredQuestion(bool(row.right), row.iou or 0.0, row.iop or 0.0)
        if row.right is not None and row.iou is not None
        else None
        for row in rows
    ]
    if not any(spanned):
        return measures
    weights = np.array([question is not None for question in spanned], np.float64)
    alone = [None if question is None else grounding.rates([question]) for question in spanned]
    for name in next(rates for rates in alone if rates is not None):
        amounts = np.array([0.0 if rates is None else rates[name] for rates in alone])
        if name == "faithful":  # grounded answers among right ones
            if (right * weights).any():
                measures[name] = Measure(amounts, right * weights)
        elif name not in ("acc_vqa", "n"):
            measures[name] = Measure(amounts, weights)
    return measures


def _error(row: Prediction, rule: numbers.NumberRule) -> float:
    """Return the squared error of a question whose answer is a known number, else 0."""
    if row.answer is None:
        return 0.0
    return (numbers.decided(float(row.prediction), rule) - numbers.expected(float(row.answer), rule)) ** 2


def by_group(rows: Sequence[Prediction], groups: Sequence[str | None]) -> dict[str, Measure]:
    """Return the accuracy of each group of questions whose answers are known, in percent, in alphabetical order."""
    known = np.array([row.right is not None for row in rows], np.float64)
    right = np.array([bool(row.right) for row in rows], np.float64)
    found = {}
    for name in sorted({group for group in groups if group is not None}):
        weights = known * np.array([group == name for group in groups], np.float64)
        if weights.any():
            found[name] = Measure(100 * right * weights, weights)
    return found


@dataclass(frozen=True, slots=True)
class Bin:
    """The questions of some confidence.

    Attributes
    ----------
    low, high
        Bounds of the confidence.
    confidence, accuracy
        Their means, 0 to 1.
    n
        Number of questions.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence says how often answers are right.

    Attributes
    ----------
    bins
        Those of ten bins of equal width that have questions.
    error
        Expected calibration error (Guo et al. 2017): the mean distance of a bin's confidence and accuracy, weighted by
        its questions; 0 to 1.
    """

    bins: tuple[Bin, ...]
    error: float


def calibration(rows: Sequence[Prediction]) -> Calibration | None:
    """Return the calibration of the questions that have a confidence and a known answer; None if there are none."""
    pairs = [(row.confidence, row.right) for row in rows if row.confidence is not None and row.right is not None]
    if not pairs:
        return None
    confidence = np.array([confidence for confidence, _ in pairs])
    right = np.array([right for _, right in pairs], np.float64)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(number / BINS, (number + 1) / BINS, float(confidence[own].mean()), float(right[own].mean()), int(own.sum()))
        for number in range(BINS)
        if (own := place == number).any()
    )
    error = sum(each.n * abs(each.confidence - each.accuracy) for each in bins) / len(pairs)
    return Calibration(bins, float(error))


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each answer was given for each right one.

    Attributes
    ----------
    answers
        What stands for the rows and the columns: the most frequent answers, right or predicted.
    counts
        A row per right answer: the number of questions with each predicted one, and with any other.
    others
        The same for all other right answers together; empty if there are none.
    """

    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    others: tuple[int, ...]

    @property
    def beyond(self) -> bool:
        """Whether any other answer was predicted."""
        return any(row[-1] for row in self.counts)


def confusion(pairs: Sequence[tuple[str, str]], most: int = 20) -> Confusion:
    """Count pairs of a right and a predicted answer; answers beyond the ``most`` most frequent are counted together."""
    frequency = Counter(answer for pair in pairs for answer in pair)
    kept = sorted(frequency, key=lambda answer: (-frequency[answer], answer))[:most]
    answers = tuple(sorted(kept, key=lambda answer: (len(answer) if answer.isdecimal() else 0, answer)))
    place = {answer: number for number, answer in enumerate(answers)}
    counts = np.zeros((len(answers) + 1, len(answers) + 1), int)
    for right, predicted in pairs:
        counts[place.get(right, len(answers)), place.get(predicted, len(answers))] += 1
    rows = [tuple(map(int, row)) for row in counts]
    return Confusion(answers, tuple(rows[:-1]), rows[-1] if any(rows[-1]) else ())


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same questions.

    Attributes
    ----------
    both, first, second, neither
        Number of questions that both, only the first, only the second, and neither answered rightly.
    p
        McNemar's exact two-sided p: how likely a difference of at least this size is if both are right equally often.
    difference
        Accuracy of the second less that of the first in percentage points, with its interval.
    """

    both: int
    first: int
    second: int
    neither: int
    p: float
    difference: Interval


def paired(videos: Sequence[str], first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare which of at least one question two runs answered rightly."""
    a, b = np.array(first, bool), np.array(second, bool)
    measure = Measure(100 * (b.astype(float) - a.astype(float)), np.ones(len(a)))
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return Paired(
        both=int((a & b).sum()),
        first=only_a,
        second=only_b,
        neither=int((~a & ~b).sum()),
        p=mcnemar(only_a, only_b),
        difference=intervals(videos, {"difference": measure})["difference"],
    )


def mcnemar(first: int, second: int) -> float:
    """Return McNemar's exact two-sided p of two numbers of discordant questions (a binomial test with p = 1/2)."""
    n, least = first + second, min(first, second)
    ways = term = 1
    for k in range(least):
        term = term * (n - k) // (k + 1)
        ways += term
    return min(1.0, (2 * ways) / (1 << n)) if first != second else 1.0


def histogram(values: Sequence[float], bins: int = 20) -> tuple[list[float], list[int]]:
    """Return the edges and counts of values between 0 and 1."""
    counts, edges = np.histogram([value for value in values if math.isfinite(value)], bins=bins, range=(0, 1))
    return edges.tolist(), counts.tolist()
