"""From attention over frames to one span (``docs/facts/cra.md`` section 5.4), without torch.

Every rule has a published form, including its known errors, and a corrected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Interval = Literal["posthoc", "window", "merge"]
"""Rules that need attention alone."""
Rule = Literal["posthoc", "window", "proposal", "merge"]
"""Rules for a model that may also propose a span."""

_WINDOWS = (1, 3, 5)
_REACH_S = 10.0
_THRESHOLD = 1.3


def posthoc(
    attention: Sequence[float] | NDArray[np.floating], times: Sequence[float], published: bool = False
) -> list[float]:
    """Grow a span around the peak (the published ``find_seg_ada``).

    A frame joins the span if its rescaled weight, divided by 1 + its distance to the peak / 10 s, is at least 1.3 times
    the mean weight. Each side ends at the first frame that does not join and is more than 10 s away; nearer gaps are
    bridged.

    Parameters
    ----------
    attention
        ``[T]`` weights of the frames.
    times
        ``[T]`` times of the frames in seconds, ascending.
    published
        Never look at the first frame, like the published scan to the left.

    Returns
    -------
    ``[start, end]`` in seconds: the times of two frames, equal if no other frame joins the peak.
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
    """Return the window around the peak with the largest sum, as (first frame, number of frames).

    Windows have 1, 3 or 5 frames, but not more than half of all frames. Among equal sums the narrower window wins, then
    the earlier one. Positive weights always give the widest (the published ``find_best_interval``).
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
    """Return the best window as ``[start, end]`` fractions of the video; frame t of T is at t / (T - 1).

    If ``published``, the span ends at the frame after the window, so that its end can exceed 1, and the fractions are
    those of float32.
    """
    start, width = best_window(attention)
    last = max(1, len(attention) - 1)
    if published:
        return [float(np.float32(frame) / np.float32(last)) for frame in (start, start + width)]
    return [start / last, (start + width - 1) / last]


def merge(
    fractions: Sequence[float], seconds: Sequence[float], duration: float, published: bool = False
) -> list[float]:
    """Intersect a span in fractions with one in seconds; return the latter if they are disjoint.

    If ``published``, the first span is rounded to 0.1 s before.
    """
    start, end = to_seconds(fractions, duration, published)
    start, end = max(start, seconds[0]), min(end, seconds[1])
    return [start, end] if start <= end else [float(seconds[0]), float(seconds[1])]


def to_seconds(fractions: Sequence[float], duration: float, published: bool = False) -> list[float]:
    """Convert fractions of a video to seconds, rounded to 0.1 s if ``published``, as numpy rounds.

    Python rounds the nearest decimal of a product, numpy its tenfold; where the duration is not an integer, this and
    the float32 of ``window`` change a few of 10,000 spans by 0.1 s (``docs/facts/cra.md`` section 11.2).
    """
    if published:
        rounded: list[float] = np.round(np.asarray(fractions, np.float64) * duration, 1).tolist()
        return rounded
    return [fraction * duration for fraction in fractions]


def span(
    rule: Rule,
    attention: Sequence[float] | NDArray[np.floating],
    times: Sequence[float] | None,
    duration: float,
    published: bool = False,
    proposed: Sequence[float] | None = None,
) -> list[float]:
    """Return the span ``[start, end]`` in seconds that a rule finds.

    Parameters
    ----------
    rule
        ``posthoc`` and ``window`` read attention, ``proposal`` takes what the model proposes. ``merge`` intersects the
        post-hoc span with the proposal, or with the window if there is none, as the published ``combine`` does.
    attention
        ``[T]`` weights of the frames.
    times
        ``[T]`` times of the frames in seconds, ascending; ``window`` and ``proposal`` do not need them.
    duration
        Duration of the video in seconds.
    published
        Use the published form of the rule.
    proposed
        ``[start, end]`` as fractions of the video, from a model that proposes a span.

    Raises
    ------
    ValueError
        If the rule needs times or a proposal and there are none, or the number of times is not that of the weights.
    """
    if rule == "proposal":
        if proposed is None:
            raise ValueError("interval 'proposal' needs a model that proposes a span")
        return to_seconds(proposed, duration, published)
    if rule == "window":
        return to_seconds(window(attention, published), duration, published)
    if times is None:
        raise ValueError(f"interval {rule!r} needs the times of the frames")
    if len(times) != len(attention):
        raise ValueError(f"{len(attention)} weights, but {len(times)} times")
    seconds = posthoc(attention, times, published)
    if rule == "posthoc":
        return seconds
    return merge(window(attention, published) if proposed is None else proposed, seconds, duration, published)
