"""Plots with axes as inline SVG: no script, no network, colours from the page's CSS, numbers where a pointer rests.

A plot is scaled to the width that it gets. Its colours are the classes ``a`` (a run), ``b`` (the run beside it) and
``dim`` of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from markupsafe import Markup

from stores.pages.charts import short, ticks

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 36
_MOST_POINTS = 300
_NARROW = 1e-9  # a shorter axis, of its own numbers, has no ticks between its ends
_MARKED = 60  # lines of so many points or fewer have marks with numbers


class Plot:
    """A plot with a linear axis in each direction.

    Parameters
    ----------
    label
        What it shows, for those who cannot see it.
    x, y
        The least and the greatest value of each axis.
    x_label, y_label
        Titles of the axes.
    """

    def __init__(
        self,
        label: str,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
    ) -> None:
        self._label, self._x_label, self._y_label = label, x_label, y_label
        self._x, self._y = _widened(x), _widened(y)
        self._parts: list[str] = []

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str, name: str) -> None:
        """Draw a line through points; one with many is drawn through the means of equal parts of them."""
        xs, ys = _thinned(xs), _thinned(ys)
        path = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self._parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        if len(xs) <= _MARKED:
            for x, y in zip(xs, ys, strict=True):
                told = escape(f"{name} {short(y)} at {short(x)}")
                self._parts.append(
                    f'<circle class="{kind}" cx="{self._at_x(x):.1f}" cy="{self._at_y(y):.1f}" r="2.2">'
                    f"<title>{told}</title></circle>"
                )

    def bars(self, edges: Sequence[float], heights: Sequence[float], kind: str, told: Sequence[str]) -> None:
        """Draw a bar between each two edges, with what a pointer on it tells."""
        bottom = self._at_y(max(self._y[0], 0))
        for low, high, height, text in zip(edges[:-1], edges[1:], heights, told, strict=True):
            left, right, top = self._at_x(low), self._at_x(high), self._at_y(height)
            self._parts.append(
                f'<rect class="bar {kind}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
                f'height="{max(bottom - top, 0):.1f}"><title>{escape(text)}</title></rect>'
            )

    def diagonal(self) -> None:
        """Draw the line on which both axes have the same value."""
        low, high = max(self._x[0], self._y[0]), min(self._x[1], self._y[1])
        self._parts.append(
            f'<line class="line dim" x1="{self._at_x(low):.1f}" y1="{self._at_y(low):.1f}" '
            f'x2="{self._at_x(high):.1f}" y2="{self._at_y(high):.1f}"/>'
        )

    def svg(self) -> Markup:
        """Return the plot."""
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        axes = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
        for value in ticks(*self._x):
            x = self._at_x(value)
            axes.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
            axes.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{short(value)}</text>')
        for value in ticks(*self._y):
            y = self._at_y(value)
            axes.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
            axes.append(f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{short(value)}</text>')
        middle = (_LEFT + right) / 2, (_TOP + bottom) / 2
        axes.append(
            f'<text x="{middle[0]}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(self._x_label)}</text>'
            f'<text transform="translate(10 {middle[1]}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._y_label)}</text>"
        )
        body = "".join([*axes, *self._parts])
        label = escape(self._label)
        return Markup(
            f'<svg class="plot" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{body}</svg>'
        )

    def _at_x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * (_WIDTH - _RIGHT - _LEFT)

    def _at_y(self, value: float) -> float:
        low, high = self._y
        bottom = _HEIGHT - _BOTTOM
        return bottom - (min(max(value, low), high) - low) / (high - low) * (bottom - _TOP)


def _widened(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if high - low > _NARROW * max(abs(low), abs(high), _NARROW):
        return low, high
    space = abs(low) / 2 or 0.5
    return low - space, high + space


def _thinned(values: Sequence[float]) -> list[float]:
    count = len(values)
    if count <= _MOST_POINTS:
        return list(values)
    edges = [round(part * count / _MOST_POINTS) for part in range(_MOST_POINTS + 1)]
    return [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
