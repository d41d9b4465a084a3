"""The plots of a run's page: curves of its losses and scores, accuracy by type, calibration, overlaps of spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from stores.pages.charts import short
from trainers.predictions import Prediction
from trainers.report.plots import Plot
from trainers.report.statistics import Calibration, histogram

_TRAIN = "train"
_COUNTS = ("n", "n_grounded")
_PLACE = ("step", "epoch", "kind")
_LARGEST = 1e100  # of what a curve can show


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its title."""

    title: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Curves:
    """What a run logged.

    Attributes
    ----------
    losses
        By optimiser step: losses, the norm of the gradient, the learning rate.
    scores
        By epoch: the metrics of the validation split.
    split
        The validation split.
    """

    losses: tuple[Figure, ...]
    scores: tuple[Figure, ...]
    split: str


def curves(journals: Mapping[str, Sequence[Mapping[str, Any]]]) -> Curves:
    """Draw the curves of one run, or of two runs over each other.

    Parameters
    ----------
    journals
        Name of a run to the entries of its journal; what the first run logged is drawn.
    """
    first = next(iter(journals.values()))
    split = next((entry["kind"] for entry in first if entry["kind"] != _TRAIN), "")
    return Curves(
        tuple(_curve(name, journals, _TRAIN, "step") for name in _names(first, _TRAIN)),
        tuple(_curve(name, journals, split, "epoch") for name in _names(first, split) if name not in _COUNTS),
        split,
    )


def _names(entries: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    own = [entry for entry in entries if entry["kind"] == kind]
    names = dict.fromkeys(name for entry in own for name, value in entry.items() if _is_number(value))
    return [name for name in names if name not in _PLACE]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST  # also false for nan


def _curve(name: str, journals: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, axis: str) -> Figure:
    points = {
        run: [
            (float(entry[axis]), float(entry[name]))
            for entry in entries
            if entry["kind"] == kind and _is_number(entry.get(name))
        ]
        for run, entries in journals.items()
    }
    every = [point for own in points.values() for point in own]
    xs, ys = [x for x, _ in every], [y for _, y in every]
    plot = Plot(f"{name} by {axis}", (min(xs), max(xs)), (min(0.0, *ys), max(ys)), axis, name)
    for (run, own), colour in zip(points.items(), "ab", strict=False):
        plot.line([x for x, _ in own], [y for _, y in own], colour, run if len(points) > 1 else name)
    return Figure(name, plot.svg())


def reliability(found: Calibration) -> Figure:
    """Draw the accuracy of the questions of each confidence, beside the diagonal on which both are equal."""
    plot = Plot(
        f"accuracy by confidence, expected calibration error {found.error:.3f}",
        (0, 1),
        (0, 1),
        "confidence",
        "accuracy",
    )
    for each in found.bins:
        told = f"{each.low:.1f}–{each.high:.1f}: accuracy {each.accuracy:.3f}, mean confidence {each.confidence:.3f}"
        plot.bars([each.low, each.high], [each.accuracy], "a", [f"{told}, {each.n} questions"])
    plot.diagonal()
    return Figure("Calibration", plot.svg())


def confidences(rows: Sequence[Prediction]) -> Figure | None:
    """Draw how many questions have which confidence; None if none has one."""
    return _counts("confidence", [row.confidence for row in rows if row.confidence is not None], 10)


def overlaps(rows: Sequence[Prediction]) -> tuple[Figure, ...]:
    """Draw how many predicted spans have which IoU and which IoP; nothing without spans."""
    iou = _counts("IoU", [row.iou for row in rows if row.iou is not None])
    iop = _counts("IoP", [row.iop for row in rows if row.iop is not None])
    return tuple(figure for figure in (iou, iop) if figure is not None)


def _counts(name: str, values: Sequence[float], bins: int = 20) -> Figure | None:
    if not values:
        return None
    edges, counts = histogram(values, bins)
    plot = Plot(f"number of questions by {name}", (0, 1), (0, max(counts)), name, "questions")
    told = [
        f"{short(low)}–{short(high)}: {count}" for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    plot.bars(edges, counts, "a", told)
    return Figure(name, plot.svg())
