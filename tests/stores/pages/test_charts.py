"""Charts and graphs: ticks are round, bars have the counts, every box and arrow is there."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from stores.pages import charts
from stores.pages.drawing import Triple, draw_graph
from stores.pages.features import sample, similarity
from stores.pages.words import spec_in_words
from tests._helpers.pages import Page


def read(svg: Markup) -> Page:
    return Page(svg.encode())


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, width: float, most: int) -> None:
    high = low + width
    if high - low < 1e-9 * max(abs(low), 1):  # the axis has no width left
        return
    found = charts.ticks(low, high, most)
    assert len(found) <= most + 1
    slack = 1e-6 * (high - low) + 1e-9
    assert all(low - slack <= number <= high + slack for number in found)
    steps = np.diff(found)
    if len(steps):
        digits = f"{steps[0]:.3e}"
        assert digits.startswith(("1.000", "2.000", "5.000")) or abs(low) > 1e4 * width


def test_ticks_of_an_axis_without_length() -> None:
    assert charts.ticks(3.0, 3.0) == [3.0]
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10]


def counts(svg: Markup) -> list[int]:
    return [int(count) for count in re.findall(r"<title>[^<]*: (\d+)</title>", svg)]


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=50))
def test_a_histogram_holds_every_value(values: list[float]) -> None:
    drawn = charts.histogram(values, "norms", "")
    assert sum(counts(drawn)) == len(values)
    read(drawn)  # well-formed


def test_a_histogram_of_few_whole_numbers_has_a_bar_for_each() -> None:
    drawn = charts.histogram([3, 3, 4, 6], "steps", "steps")
    assert counts(drawn) == [2, 1, 0, 1]
    assert re.findall(r'class="x"[^>]*>([^<]*)', drawn) == ["3", "4", "5", "6"]
    assert read(drawn).values("aria-label") == ["Histogram of steps of 4 values, from 3 to 6 steps, median 3.5"]


def test_a_rate_is_spread_over_the_time_since_the_commit_before() -> None:
    drawn = charts.rates([10.0, 20.0], [100, 300], "rows", "since the start")
    assert re.findall(r"<title>([^<]*)</title>", drawn) == [
        "0 to 10 s: 10 rows per second",
        "10 to 20 s: 30 rows per second",
    ]
    assert 'aria-label="Rows per second over 20 s, at most 30; 400 rows in all"' in drawn


def test_marks_lie_where_their_numbers_say() -> None:
    drawn = charts.timeline([("Q1", [charts.Mark(2.0, 4.0, 0, 1, "span", "span")])], 8.0, "timeline")
    assert '<rect class="span" x="25%" width="25%"' in drawn
    assert charts.strip(["valid", "padding"], ["a", "b"], "mask").count("<rect") == 2


def test_a_graph_has_every_text_once_and_every_arrow() -> None:
    triples = [
        Triple("the boy", "hold", "the ball"),
        Triple("the boy", "throw", "the ball"),
        Triple("the ball", "hit", "the boy"),
        Triple("the dog", "bark", None, "answer"),
        Triple(None, "sleep", None),
        Triple("a very long subject indeed", "is", "a very long subject indeed"),
    ]
    drawn = draw_graph(triples)
    shown = read(drawn)
    texts = re.findall(r"<text[^>]*>(?:<title>[^<]*</title>)?([^<]*)</text>", drawn)
    assert sorted(texts) == sorted(
        ["the boy", "the ball", "the dog", "–", "–", "–", "a very long su…"]
        + ["hold", "throw", "hit", "bark", "sleep", "is"]
    )
    assert shown.values("class").count("head") == len(triples) and shown.values("class").count("edge answer") == 1
    assert draw_graph([]) == ""


def test_a_graph_goes_from_left_to_right() -> None:
    drawn = draw_graph([Triple("a", "p", "b"), Triple("b", "q", "c"), Triple("a", "r", "c")])
    x = {name: int(at) for name, at in re.findall(r'<title>(.)</title><rect x="(\d+)"', drawn)}
    assert x["a"] < x["b"] < x["c"]


def test_samples_are_even_and_include_both_ends() -> None:
    assert sample(0, 5) == [] and sample(3, 5) == [0, 1, 2] and sample(1, 1) == [0]
    assert sample(101, 5) == [0, 25, 50, 75, 100]


def test_similarity_is_the_cosine() -> None:
    found = similarity(np.array([[[1.0], [0.0]], [[1.0], [1.0]], [[0.0], [0.0]], [[-2.0], [0.0]]], np.float16))
    half = np.sqrt(0.5)
    assert np.allclose(found, [[1, half, 0, -1], [half, 1, 0, -half], [0, 0, 0, 0], [-1, -half, 0, 1]], atol=1e-6)


def test_a_spec_in_words() -> None:
    spec = {
        "extractor": "clip", "steps": 32, "step_shape": [768], "dtype": "float16", "units": "embedding",
        "sampling": {"policy": "segments", "t": 60, "seconds": 1.0, "pad": "zero"},
        "decode": {"backend": "pyav", "version": "14", "damage": "fail", "truncated": "keep"},
        "model": {"model": "ViT-L-14", "activation": "quickgelu", "weights": {"tag": "openai"},
                  "preprocessing": {"size": 224, "crop": "letterbox"}},
    }  # fmt: skip
    told = dict(spec_in_words(spec))
    assert told["Steps"].startswith("60 segments of 1.0 s from the start") and "filled with zeros" in told["Steps"]
    assert told["Decoding"] == "by pyav 14; damage fails the row; a file that is cut short keeps what it has"
    assert told["Preparation"] == "224 × 224 pixels, scaled to fit, with bars"
    assert told["Model"] == "clip ViT-L-14, activation quickgelu" and told["Weights"] == "tag openai"
    assert told["Values"] == "32 × 768 float16: embedding"
    assert spec_in_words({"external": True})[0][0] == "Origin"
    assert dict(spec_in_words({"sampling": {"policy": "mine"}}))["Steps"] == '{"policy": "mine"} (mine)'
