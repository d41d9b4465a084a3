"""Intervals, tests and tables against other libraries, and against what must hold."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from tests._helpers.run_folders import answered
from trainers.metrics import grounding
from trainers.predictions import SplitPredictions
from trainers.report.plots import Plot
from trainers.report.statistics import (
    Measure,
    by_group,
    calibration,
    confusion,
    intervals,
    mcnemar,
    measures_of,
    paired,
)
from trainers.report.tables import score_tables
from trainers.report.worst import worst_first


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (40, 70), (1200, 1100)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_an_interval_covers_what_the_normal_approximation_says() -> None:
    right = np.random.default_rng(3).random(800) < 0.7
    videos = [f"v{index}" for index in range(800)]
    found = intervals(videos, {"accuracy": Measure(100.0 * right, np.ones(800))})["accuracy"]
    half = 196 * np.sqrt(right.mean() * (1 - right.mean()) / 800)
    assert found.value == pytest.approx(100 * right.mean())
    assert found.low == pytest.approx(found.value - half, abs=0.5)
    assert found.high == pytest.approx(found.value + half, abs=0.5)


def test_questions_of_one_video_are_no_independent_samples() -> None:
    """Each question asked ten times about its video leaves the interval as it was, in any order."""
    right = np.random.default_rng(4).random(60) < 0.5
    videos = [f"v{index}" for index in range(60)]

    def found(copies: int, shuffled: bool = False) -> tuple[float | None, float | None]:
        pairs = [(video, flag) for video, flag in zip(videos, right, strict=True) for _ in range(copies)]
        if shuffled:
            random.Random(1).shuffle(pairs)
        amounts = np.array([100.0 * flag for _, flag in pairs])
        own = intervals([video for video, _ in pairs], {"a": Measure(amounts, np.ones(len(pairs)))})["a"]
        return own.low, own.high

    assert found(10) == pytest.approx(found(1)) and found(10, shuffled=True) == pytest.approx(found(1))
    one = intervals(["v", "v"], {"a": Measure(np.array([100.0, 0.0]), np.ones(2))})["a"]
    assert (one.value, one.low, one.high) == (50.0, None, None)


NUMBERS = st.floats(-1e100, 1e100)
ROWS = [
    answered(0),
    answered(1, right=False, span=(2.0, 4.0)),
    answered(2, span=(5.0, 6.0)),
    answered(3, span=(2.5, 3.5), modality="Audio"),
    answered(4, right=False, span=None),
    answered(5, right=None),
    answered(6, right=False, true_spans=[]),
]


def test_measures_are_those_of_the_evaluator() -> None:
    grounded = [row for row in ROWS if row.right is not None and row.iou is not None]
    questions = [
        grounding.GroundedQuestion(r.question_id, r.video_id, r.type, 0, 3, 8.0, ((2.0, 4.0),)) for r in grounded
    ]
    answers = {row.question_id: grounding.Answer(row.prediction_index or 0, 0) for row in grounded}
    spans = {row.question_id: row.span for row in grounded if row.span is not None}
    expected = grounding.score(questions, answers, spans).overall
    found = measures_of(ROWS)
    assert found["accuracy"].value == pytest.approx(100 * 3 / 6) and found["accuracy"].n == 6
    names = [name for name in found if name != "accuracy"]
    assert set(names) == set(expected) - {"n", "acc_vqa"}
    assert {name: found[name].value for name in names} == pytest.approx({name: expected[name] for name in names})
    assert measures_of([answered(0, right=None)]) == {}


def test_groups_and_tables_count_what_is_known() -> None:
    groups = by_group(ROWS, [row.type for row in ROWS])
    assert {name: (each.value, each.n) for name, each in groups.items()} == {
        "CW": (50.0, 2),
        "TN": (50.0, 4),
    }
    tables = score_tables(SplitPredictions("toy", "val", tuple(ROWS)))
    assert [table.title for table in tables] == ["Grounding, %", "Accuracy, %"]
    assert dict(tables[0].rows)["all"][-1] == "4" and "(full_video)" in dict(tables[0].rows)
    assert dict(tables[1].rows)["all"] == ("50.00", "6")
    assert score_tables(SplitPredictions("toy", "test", (answered(0, right=None),))) == []
    counts = [answered(i, right=i == 3, options=[], answer="3", prediction=str(i), answer_index=None) for i in (3, 5)]
    (numbers,) = score_tables(SplitPredictions("tgif_count", "test", tuple(counts)))
    assert dict(numbers.rows)["raw"] == ("2.0000", "2") and "50.00 %" in numbers.notes[0]
    found = measures_of(counts, "tgif_count")
    assert {name: f"{found[f'MSE, {name}'].value:.4f}" for name, _ in numbers.rows} == {
        name: error for name, (error, _) in numbers.rows
    }
    assert not any("MSE" in name for name in measures_of(counts))


def test_options_of_one_text_stay_apart_in_the_table() -> None:
    twins = answered(0, right=False, options=["this", "this"], prediction="this", prediction_index=1)
    (table,) = score_tables(SplitPredictions("toy", "val", (answered(1, span=None), twins)))[-1:]
    assert dict(table.rows)["all"] == ("50.00", "2")


def test_calibration_error() -> None:
    sure = [answered(i, right=i < 9, confidence=0.9) for i in range(10)]
    found = calibration(sure)
    assert found is not None and found.error == pytest.approx(0.0)
    wrong = [answered(i, right=False, confidence=1.0) for i in range(10)]
    both = calibration([*sure, *wrong])
    assert both is not None and both.error == pytest.approx(abs(0.95 - 0.45))  # 0.9 and 1.0 share the last bin
    assert [(bin.low, bin.n) for bin in both.bins] == [(0.9, 20)]
    assert calibration([answered(0, confidence=None), answered(1, right=None)]) is None


def test_confusion_is_that_of_scikit_learn_and_rare_answers_are_counted_together() -> None:
    generator = random.Random(0)
    pairs = [(generator.choice("abc"), generator.choice("abc")) for _ in range(200)]
    found = confusion(pairs)
    right, given = zip(*pairs, strict=True)
    assert [row[:-1] for row in found.counts] == [tuple(row) for row in confusion_matrix(right, given).tolist()]
    assert found.answers == ("a", "b", "c") and not found.beyond and found.others == ()
    few = confusion([*pairs, ("a", "rare"), ("odd", "b")], most=3)
    assert few.answers == ("a", "b", "c") and few.beyond and sum(few.others) == 1
    assert sum(map(sum, few.counts)) + sum(few.others) == 202


def test_two_runs_on_the_same_questions() -> None:
    found = paired(["a", "b", "c", "d"], [True, True, False, False], [True, False, True, False])
    assert (found.both, found.first, found.second, found.neither, found.p) == (1, 1, 1, 1, 1.0)
    assert found.difference.value == 0.0


def test_the_worst_are_the_surest_wrong_ones_then_right_ones_beside_the_truth() -> None:
    rows = [
        answered(0, right=False, confidence=0.4),
        answered(1, right=False, confidence=0.9),
        answered(2, span=(5.0, 6.0)),
        answered(3, span=(2.0, 3.0)),
        answered(4, right=None, confidence=1.0),
    ]
    assert [row.question_id for row in worst_first(rows, 10)] == ["q1", "q0", "q2"]
    assert [row.question_id for row in worst_first(rows, 1)] == ["q1"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_any_points_can_be_plotted(points: list[tuple[float, float]]) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    plot = Plot("p", (min(xs), max(xs)), (min(ys), max(ys)), "x", "y")
    plot.line(xs, ys, "a", "run")
    root = ElementTree.fromstring(str(plot.svg()))
    drawn = [float(each) for line in root.iter("polyline") for each in line.attrib["points"].replace(",", " ").split()]
    assert len(drawn) == 2 * len(points) and all(0 <= each <= 360 for each in drawn)


def test_a_plot_is_well_formed_and_shows_texts_as_texts() -> None:
    plot = Plot('<script> & "x"', (0, 1000), (5, 5), "<step>", "a & b")
    plot.line(range(1000), [5.0] * 1000, "a", "<run>")
    plot.bars([0, 500, 1000], [5.0, 5.2], "b", ["<one>", "two & three"])
    plot.diagonal()
    root = ElementTree.fromstring(str(plot.svg()))
    assert root.attrib["aria-label"] == '<script> & "x"'
    assert {"<step>", "a & b", "1k"} <= {"".join(each.itertext()) for each in root.iter("text")}
    assert [each.text for each in root.iter("title")] == ["<one>", "two & three"]
    (line,) = root.iter("polyline")
    assert len(line.attrib["points"].split()) == 300  # of 1,000 points
