"""From attention over frames to one span (facts/cra.md section 5.4). No torch here: evaluators import it alone.

Every rule has a published form, with its quirks, and a clean one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Interval = Literal["posthoc", "window", "merge"]

_WINDOWS = (1, 3, 5)
_REACH_S = 10.0
_THRESHOLD = 1.3


def posthoc(
    attention: Sequence[float] | NDArray[np.floating], times: Sequence[float], published: bool = False
) -> list[float]:
    """Grow a span around the peak (the published ``find_seg_ada``).

    A frame joins while its rescaled weight, damped by its distance to the peak, reaches 1.3 times the mean; a side
    ends at a frame that does not, more than 10 s away. Nearer gaps are bridged.

    Parameters
    ----------
    attention : ``[T]`` weights of the frames.
    times : ``[T]`` seconds of the frames, ascending.
    published : do not look at the first frame, as the published scan to the left.

    Returns
    -------
    ``[start, end]`` seconds, times of two frames; equal where the peak stands alone.
    """
    weights = np.asarray(attention, dtype=np.float64)
    weights = (weights - weights.min()) / (weights.max() - weights.min() + 1e-12)
    peak = int(weights.argmax())
    threshold = _THRESHOLD * weights.mean()

    def edge(frames: range) -> int:
        last = peak
        for frame in frames:
            distance = abs(times[peak] - times[frame])
            if weights[frame] / (1 + distance / _REACH_S) >= threshold:
                last = frame
            elif distance > _REACH_S:
                break
        return last

    left = edge(range(peak - 1, 0 if published else -1, -1))
    right = edge(range(peak + 1, len(weights)))
    return [float(times[left]), float(times[right])]


def best_window(attention: Sequence[float] | NDArray[np.floating]) -> tuple[int, int]:
    """The window of 1, 3 or 5 frames around the peak with the largest sum, as (first frame, frames).

    Windows wider than half the frames are not tried; of equal sums the narrower, then the earlier wins. Positive
    weights always give the widest (the published ``find_best_interval``).
    """
    weights = np.asarray(attention, dtype=np.float64)
    peak = int(weights.argmax())
    best, best_sum = (peak, 1), -np.inf
    for width in _WINDOWS:
        if width > max(1, len(weights) // 2):
            continue
        for start in range(max(0, peak - width + 1), min(peak, len(weights) - width) + 1):
            total = float(weights[start : start + width].sum())
            if total > best_sum:
                best, best_sum = (start, width), total
    return best


def window(attention: Sequence[float] | NDArray[np.floating], published: bool = False) -> list[float]:
    """:func:`best_window` as ``[start, end]`` fractions of the video, of which frame t of T stands at t / (T - 1).

    ``published``: the end is the frame after the window, so that it can lie beyond 1.
    """
    start, width = best_window(attention)
    last = max(1, len(attention) - 1)
    end = start + width if published else start + width - 1
    return [start / last, end / last]


def merge(
    fractions: Sequence[float], seconds: Sequence[float], duration: float, published: bool = False
) -> list[float]:
    """The intersection of a span in fractions and one in seconds; the latter where they are apart.

    ``published`` rounds the fractions' seconds to 0.1 first.
    """
    start, end = to_seconds(fractions, duration, published)
    start, end = max(start, seconds[0]), min(end, seconds[1])
    return [start, end] if start <= end else [float(seconds[0]), float(seconds[1])]


def to_seconds(fractions: Sequence[float], duration: float, published: bool = False) -> list[float]:
    """Fractions of a video as seconds, rounded to 0.1 if ``published``."""
    seconds = [fraction * duration for fraction in fractions]
    return [round(each, 1) for each in seconds] if published else seconds


def span(
    interval: Interval,
    attention: Sequence[float] | NDArray[np.floating],
    times: Sequence[float] | None,
    duration: float,
    published: bool = False,
) -> list[float]:
    """``[start, end]`` seconds by one of the three rules; ``window`` needs no times.

    Raises
    ------
    ValueError
        If times are needed and not given, or not one for each weight.
    """
    if interval == "window":
        return to_seconds(window(attention, published), duration, published)
    if times is None:
        raise ValueError(f"interval {interval!r} needs the times of the frames")
    if len(times) != len(attention):
        raise ValueError(f"{len(attention)} weights for {len(times)} times")
    seconds = posthoc(attention, times, published)
    if interval == "posthoc":
        return seconds
    return merge(window(attention, published), seconds, duration, published)
