"""The evaluators' tables as texts: what ``jobs/evaluate.py`` and a training's end print, and a run's page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainers.metrics import grounding
from trainers.metrics.avqa import AvqaScores
from trainers.metrics.grounding import GroundingScores
from trainers.metrics.numbers import NumberScores


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """A table of scores.

    Attributes
    ----------
    title
        What it is.
    columns
        Titles of its columns after the first.
    rows
        A label and a text for each column.
    notes
        What its words mean, and the evaluator's rule.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...] = ()


def grounding_table(scores: GroundingScores) -> ScoreTable:
    """Return Acc@VQA, Acc@GQA, IoP and IoU: of all questions, by type, and of spans that need no model."""
    lines: list[tuple[str, Mapping[str, float]]] = [
        ("all", scores.overall),
        *scores.types.items(),
        *((f"({name})", rates) for name, rates in scores.baselines.items()),
    ]
    return ScoreTable(
        "Grounding, %",
        (*grounding.TITLES.values(), "n"),
        tuple((name, (*(f"{rates[key]:.1f}" for key in grounding.TITLES), str(rates["n"]))) for name, rates in lines),
        (
            "In brackets: the same answers with spans that need no model.",
            "UF: right answers with IoP below 0.5; Err: wrong answers with IoP below 0.5.",
        ),
    )


def accuracy_table(scores: AvqaScores) -> ScoreTable:
    """Return accuracy by type, group and subset, and that of all questions."""
    rates = {**scores.types, **scores.groups, **scores.subsets, "all": scores.overall}
    return ScoreTable(
        "Accuracy, %",
        ("accuracy", "n"),
        tuple(
            (name, ("–" if rate.accuracy is None else f"{rate.accuracy:.2f}", str(rate.n)))
            for name, rate in rates.items()
        ),
        (f"Rule: {scores.rule}",) if scores.rule else (),
    )


def numbers_table(scores: NumberScores) -> ScoreTable:
    """Return the mean squared error under each rule."""
    return ScoreTable(
        "Numbers",
        ("mean squared error", "n"),
        tuple((rule, (f"{error:.4f}", str(scores.n))) for rule, error in scores.mse.items()),
        (f"Exact after rounding: {scores.accuracy:.2f} %.", scores.rule),
    )
