"""Goldens of ``docs/facts/cra.md`` section 5.4, from running the published functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainers.cra import spans

TIMES = [round((1 + 3 * c) / 6, 1) for c in range(32)]


def weights(peaks: dict[int, float]) -> np.ndarray:
    values = np.zeros(32)
    for frame, value in peaks.items():
        values[frame] = value
    return values


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ({}, [0.2, 15.7]),
        ({10: 1}, [5.2, 5.2]),
        ({10: 1, 12: 0.8}, [5.2, 6.2]),
        ({3: 1, 0: 0.9}, [1.7, 1.7]),
        ({31: 1, 28: 0.5}, [14.2, 15.7]),
        ({10: 1, 31: 0.9}, [5.2, 15.7]),
        ({10: 1, 25: 0.3}, [5.2, 12.7]),
        ({5: 1, 20: 1}, [2.7, 10.2]),
    ],
)
def test_posthoc_is_the_published_scan(peaks: dict[int, float], expected: list[float]) -> None:
    assert spans.posthoc(weights(peaks), TIMES, published=True) == expected


def test_the_clean_posthoc_scan_sees_the_first_frame() -> None:
    assert spans.posthoc(weights({3: 1, 0: 0.9}), TIMES) == [0.2, 1.7]
    assert spans.posthoc(weights({10: 1, 12: 0.8}), TIMES) == [5.2, 6.2]


def test_a_low_frame_far_from_the_peak_ends_the_scan() -> None:
    far = [float(2 * t) for t in range(32)]
    assert spans.posthoc(weights({10: 1, 20: 0.9}), far) == [20.0, 20.0]  # frames 16 to 19 are low and beyond 10 s


def test_best_window_goldens() -> None:
    smooth = np.exp(-(np.linspace(-3, 3, 32) ** 2)) + 0.1
    assert spans.best_window(weights({31: 1}) + 0.01) == (27, 5)
    assert spans.best_window(weights({0: 1}) + 0.01) == (0, 5)
    assert spans.best_window(np.full(32, 0.25)) == (0, 5)
    assert spans.best_window(weights({10: 1})) == (10, 1)
    assert spans.best_window(smooth)[1] == 5


def test_the_published_window_can_end_beyond_the_video() -> None:
    last = weights({31: 1}) + 0.01
    assert spans.window(last, published=True) == pytest.approx([27 / 31, 32 / 31], abs=1e-7)
    assert spans.window(last) == [27 / 31, 1]


def test_merge_is_the_intersection_or_the_span_in_seconds() -> None:
    assert spans.merge([0.1, 0.5], [2.0, 8.0], 10.0, published=True) == [2.0, 5.0]
    assert spans.merge([0.1, 0.15], [2.0, 8.0], 10.0, published=True) == [2.0, 8.0]
    assert spans.merge([0.123, 0.5], [1.0, 8.0], 10.0) == [1.23, 5.0]
    assert spans.merge([0.123, 0.5], [1.0, 8.0], 10.0, published=True) == [1.2, 5.0]


def test_published_seconds_are_those_of_float32_and_numpy() -> None:
    """The published chain, with its own operations: torch divides in float32, numpy multiplies and rounds."""
    generator = np.random.default_rng(0)
    differ = 0
    for duration in generator.uniform(5, 60, 3000).round(2).tolist():
        peak = int(generator.integers(32))
        attention = weights({peak: 1}) + 0.01
        start, width = spans.best_window(attention)
        stated = (torch.tensor([start, start + width]) / 31.0).tolist()
        expected = np.round(np.asarray(stated) * duration, 1).tolist()
        assert spans.span("window", attention, None, duration, published=True) == expected
        differ += expected != [round(frame / 31 * duration, 1) for frame in (start, start + width)]
    assert differ > 0  # else the arithmetic would not matter


def test_fractions_of_a_file_are_multiplied_as_they_are() -> None:
    """The official evaluator reads them as float64: np.round(fraction * duration, 1)."""
    for fraction in np.linspace(0, 1, 101).tolist():
        assert spans.to_seconds([fraction], 33.3, published=True) == [float(np.round(fraction * 33.3, 1))]


PEAK = weights({10: 1, 12: 0.8}) + 0.01


def test_a_proposal_is_a_span_of_its_own_and_is_merged_with_the_posthoc_span() -> None:
    """The published code reports the Gaussian span, the post-hoc span and their intersection (section 11.2)."""
    proposed = [0.1, 0.35]
    found = {
        rule: spans.span(rule, PEAK, TIMES, 16.0, True, proposed) for rule in ("proposal", "posthoc", "window", "merge")
    }
    assert found["proposal"] == [1.6, 5.6]
    assert found["posthoc"] == spans.posthoc(PEAK, TIMES, True) == [5.2, 6.2]
    assert found["window"] == spans.span("window", PEAK, TIMES, 16.0, True) != found["proposal"]
    assert found["merge"] == [5.2, 5.6]
    apart = spans.span("merge", PEAK, TIMES, 16.0, True, [0.6, 0.9])
    assert apart == found["posthoc"]
    with pytest.raises(ValueError, match="'proposal' needs a model that proposes a span"):
        spans.span("proposal", PEAK, TIMES, 16.0)


def test_short_videos_have_windows_too() -> None:
    assert spans.span("window", [1.0], None, 7.0) == [0.0, 0.0]
    assert spans.span("window", [0.1, 0.9, 0.2], None, 6.0) == [3.0, 3.0]


def test_times_must_match_the_weights() -> None:
    with pytest.raises(ValueError, match="2 weights, but 1 times"):
        spans.span("posthoc", [0.1, 0.2], [1.0], 7.0)
    with pytest.raises(ValueError, match="needs the times"):
        spans.span("merge", [0.1, 0.2], None, 7.0)
