"""Charts as SVG of our own: axes with ticks, numbers on hover, the colours of the page.

Positions along x are percentages, so a chart fills whatever width there is, while text and lines keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from ..format.rows import Array
from ..wording import plural

BINS = 24
RATE_BINS = 48
HEIGHT = 140
"""Height of the area between the axes, in CSS pixels."""
_X_TICKS, _X_AXIS = 24, 40
_SHORT = 3
_ROW = 20


@dataclass(frozen=True, slots=True)
class Mark:
    """A rectangle between the axes.

    Attributes
    ----------
    start, end
        Its sides on the x axis, in the axis's unit.
    low, high
        Its lower and upper side, as shares of the height, from 0 to 1.
    told
        What is shown on hover.
    kind
        Its class in the style sheet.
    """

    start: float
    end: float
    low: float
    high: float
    told: str
    kind: str = "column"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 round numbers from ``low`` to ``high``, 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def short(number: float) -> str:
    """Return a number as an axis shows it: ``1.5k``, ``2M``, ``0.05``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"


def histogram(values: Sequence[float] | Array, what: str, unit: str, bins: int = BINS) -> Markup:
    """Draw how many of the values lie in each of some bins of equal width.

    Parameters
    ----------
    values
        Finite numbers, at least one.
    what, unit
        What they are (``durations``), and their unit (``s``, or nothing), for the labels.
    bins
        Number of bins; fewer where the values are a few whole numbers.
    """
    numbers = np.asarray(values, np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    whole = bool((numbers == np.rint(numbers)).all()) and high - low < bins
    if whole:
        edges = np.arange(math.floor(low), math.floor(high) + 2) - 0.5  # whole numbers: a bar around each
        names = [short(number) for number in range(math.floor(low), math.floor(high) + 1)]
    else:
        span = (high - low) or abs(high) or 1.0
        edges = np.linspace(low if high > low else low - span / 2, high if high > low else low + span / 2, bins + 1)
        names = [f"{start:.4g} to {end:.4g}" for start, end in pairwise(edges)]
    counts, _ = np.histogram(numbers, edges)
    top = int(counts.max())
    marks = [
        Mark(float(start), float(end), 0, count / top, f"{name} {unit}".rstrip() + f": {count}")
        for start, end, count, name in zip(edges[:-1], edges[1:], counts.tolist(), names, strict=True)
    ]
    spread = f"from {low:.4g} to {high:.4g} {unit}".rstrip()
    label = f"Histogram of {what} of {plural(len(numbers), 'value')}, {spread}, median {np.median(numbers):.4g}"
    return frame(marks, (float(edges[0]), float(edges[-1])), label, unit, y_ticks=_counts(top), whole=whole)


def _counts(top: float) -> list[tuple[float, str]]:
    """Return ticks of a y axis from 0 to ``top``, as (share of the height, text)."""
    return [(number / top, short(number)) for number in ticks(0, top, 4)] if top else [(0.0, "0")]


def rates(times: Sequence[float], amounts: Sequence[float], what: str, begun: str) -> Markup:
    """Draw how much was done per second over a run, in pieces of equal length.

    Parameters
    ----------
    times
        When something was finished, in seconds from the start, ascending, the last above 0: it was worked on since the
        one before it.
    amounts
        How much was finished then.
    what, begun
        What the amounts are (``rows``), and where the seconds begin, for the labels.
    """
    done = np.cumsum([0.0, *amounts])
    edges = np.linspace(0, times[-1], min(RATE_BINS, len(times)) + 1)  # no finer than what is known
    speeds = np.diff(np.interp(edges, [0.0, *times], done)) / (edges[1] - edges[0])
    top = float(speeds.max()) or 1.0
    scale, unit = _clock(times[-1])
    marks = [
        Mark(start / scale, end / scale, 0, speed / top, f"{start:.4g} to {end:.4g} s: {speed:.4g} {what} per second")
        for start, end, speed in zip(edges[:-1].tolist(), edges[1:].tolist(), speeds.tolist(), strict=True)
    ]
    label = f"{what.capitalize()} per second over {times[-1]:.0f} s, at most {top:.3g}; {done[-1]:g} {what} in all"
    return frame(marks, (0.0, times[-1] / scale), label, f"{unit} {begun}", y_ticks=_counts(top))


def _clock(seconds: float) -> tuple[float, str]:
    return next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= 2 * size or size == 1)


def frame(
    marks: Iterable[Mark],
    span: tuple[float, float],
    label: str,
    x_title: str,
    *,
    y_ticks: Sequence[tuple[float, str]] = (),
    height: int = HEIGHT,
    behind: Markup | None = None,
    whole: bool = False,
) -> Markup:
    """Draw rectangles between two axes.

    Parameters
    ----------
    marks
        What is drawn.
    span
        Both ends of the x axis.
    label
        What a screen reader says instead of the picture.
    x_title
        What the x axis shows: below it at its right end, or, if it is short, as a unit after the last number.
    y_ticks
        Pairs of a share of the height and a text.
    height
        Height between the axes in CSS pixels.
    behind
        SVG that is drawn before the marks.
    whole
        Whether the x axis has ticks at whole numbers only.
    """
    low, width = span[0], (span[1] - span[0]) or 1.0
    apart = len(x_title) > _SHORT
    parts = [
        Markup('<svg class="chart" role="img" aria-label="{}" height="{}">').format(
            label, height + (_X_AXIS if apart else _X_TICKS)
        )
    ]
    for share, text in y_ticks:
        y = _px(height * (1 - share))
        parts.append(
            Markup(
                '<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/><text class="y" x="-8" y="{1}">{2}</text>'
            ).format(y, _px(height * (1 - share) + 4), text)
        )
    parts.append(behind or Markup(""))
    for mark in marks:
        start, end = 100 * (mark.start - low) / width, 100 * (mark.end - low) / width
        parts.append(
            Markup('<rect class="{}" x="{}%" width="{}%" y="{}" height="{}"><title>{}</title></rect>').format(
                mark.kind,
                _px(start),
                _px(max(end - start, 0)),
                _px(height * (1 - mark.high)),
                _px(height * (mark.high - mark.low)),
                mark.told,
            )
        )
    parts.append(Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(height))
    numbers = [number for number in ticks(*span) if not whole or number == round(number)]
    for number in numbers:
        at = 100 * (number - low) / width
        parts.append(
            Markup(
                '<line class="axis" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}"/><text class="x" x="{0}%" y="{3}">{4}</text>'
            ).format(
                _px(at),
                height,
                height + 4,
                height + 18,
                f"{short(number)} {x_title}".rstrip() if number == numbers[-1] and not apart else short(number),
            )
        )
    if apart:
        parts.append(Markup('<text class="unit" x="100%" y="{}">{}</text>').format(height + 35, x_title))
    return Markup("").join([*parts, Markup("</svg>")])


def timeline(rows: Sequence[tuple[str, Sequence[Mark]]], seconds: float, label: str) -> Markup:
    """Draw spans of a video, a line for each row; the sides ``low`` and ``high`` of their marks do not count.

    Parameters
    ----------
    rows
        Short name and spans of each row, the topmost first.
    seconds
        Length of the video or clip.
    label
        What a screen reader says instead of the picture.
    """
    count = len(rows)
    marks = [
        Mark(mark.start, mark.end, 1 - (place + 0.8) / count, 1 - (place + 0.2) / count, mark.told, mark.kind)
        for place, (_, spans) in enumerate(rows)
        for mark in spans
    ]
    names = [(1 - (place + 0.5) / count, name) for place, (name, _) in enumerate(rows)]
    return frame(marks, (0.0, seconds), label, "s", y_ticks=names, height=_ROW * count)


def strip(kinds: Sequence[str], told: Sequence[str], label: str) -> Markup:
    """Draw one cell for each step of a row, in the colour of its kind."""
    count = len(kinds)
    cells = [
        Markup('<rect class="{}" x="{}%" width="{}%" y="0" height="18"><title>{}</title></rect>').format(
            kind, _px(100 * at / count), _px(100 / count), text
        )
        for at, (kind, text) in enumerate(zip(kinds, told, strict=True))
    ]
    return Markup('<svg class="strip" role="img" aria-label="{}" height="18">{}</svg>').format(
        label, Markup("").join(cells)
    )


def image(source: str, height: int) -> Markup:
    """Return a picture that fills the area between the axes, for ``frame(behind=...)``."""
    return Markup(
        '<image href="{}" x="0" y="0" width="100%" height="{}" preserveAspectRatio="none" class="pixels"/>'
    ).format(source, height)


def wave(peaks: Sequence[tuple[float, float]], height: int) -> Markup:
    """Draw the least and greatest sample of equal pieces of a waveform, each from -1 to 1."""
    middle, width = height / 2, 100 / len(peaks)
    pieces = [
        Markup('<rect x="{}%" width="{}%" y="{}" height="{}"/>').format(
            _px(width * at), _px(width), _px(middle * (1 - high) - 0.5), _px(middle * (high - low) + 1)
        )
        for at, (low, high) in enumerate(peaks)
    ]
    return Markup('<g class="wave">{}</g>').format(Markup("").join(pieces))


def _px(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
