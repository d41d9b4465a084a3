from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.evaluate import question_rows
from trainers.metrics.grounding import Answer, GroundedQuestion, Span, best_overlap, overlap, score
from trainers.metrics.grounding_files import read_questions


@pytest.mark.parametrize(
    ("truth", "span", "iou", "iop"),
    [  # docs/facts/cra.md section 6.1, from running the published evaluator
        ((1.2, 5.8), (0, 34), 0.135294, 0.135294),
        ((1.2, 5.8), (2, 4), 0.434783, 1),
        ((1.2, 5.8), (6, 8), -0.029412, -0.1),
        ((1.2, 5.8), (3, 3), 0, 1),
        ((1.2, 5.8), (9, 9), 0, 0),
        ((1.2, 5.8), (5.8, 5.8), 0, 1),
        ((2, 6), (4, 8), 0.3333, 0.5),
        ((2, 6), (8, 4), -1, 0),
        ((2, 6), (6, 10), 0, 0),
        ((2, 6), (2, 6), 1, 1),
    ],
)
def test_overlap_is_the_published_one(truth: Span, span: Span, iou: float, iop: float) -> None:
    assert overlap(truth, span) == pytest.approx((iou, iop), abs=5e-5)


def test_iou_and_iop_take_their_best_segment_apart_and_are_never_negative() -> None:
    assert best_overlap([(0, 10), (10.5, 12)], (9, 11)) == pytest.approx((1 / 6, 0.5))
    assert best_overlap([(0, 1), (0.9, 50)], (0, 2)) == pytest.approx((0.5, 0.55))
    assert best_overlap([(0, 1)], (5, 6)) == (0, 0)


@pytest.fixture(scope="module")
def val(shared: Path) -> list[GroundedQuestion]:
    folder = shared / "data" / "annotations" / "nextgqa"
    return read_questions(folder / "gsub_val.json", question_rows(folder / "val.csv"), folder / "val.csv")


def test_trivial_spans_score_on_real_annotations_what_is_published(val: list[GroundedQuestion]) -> None:
    """Full video 21.35 / 21.23 / 10.63, IoP as IoU; midpoint IoP 26.44, IoU 0 (``docs/facts/cra.md`` section 6.2)."""
    assert len(val) == 3358
    answers = {question.key: Answer(question.answer or 0, question.answer) for question in val}
    report = score(val, answers, {question.key: (0.0, question.duration) for question in val}, official=True)
    for kind in ("iop", "iou"):
        values = [report.overall[name] for name in (f"m{kind}", f"{kind}_30", f"{kind}_50")]
        assert values == pytest.approx([21.35, 21.23, 10.63], abs=0.006)
    midpoint = report.baselines["midpoint"]
    assert [midpoint[name] for name in ("miop", "iop_50")] == pytest.approx([26.44, 26.44], abs=0.05)
    assert midpoint["miou"] == midpoint["iou_30"] == 0
    assert report.baselines["full_video"] == report.overall
    assert {name: rates["n"] for name, rates in report.types.items()} == {
        "CW": 1474, "TN": 879, "CH": 481, "TC": 472, "TP": 52,
    }  # fmt: skip
    assert report.overall["acc_vqa"] == 100
    assert report.overall["acc_gqa"] == report.overall["iop_50"]


def question(
    key: str, answer: int | None = 0, type: str = "CW", spans: tuple[Span, ...] = ((2.0, 6.0),)
) -> GroundedQuestion:
    return GroundedQuestion(key, key.partition("_")[0], type, answer, 5, 10.0, spans)


ASKED = [question("v_0"), question("v_1"), question("v_2", type="TN"), question("w_0", type="TN")]


def test_strict_counts_what_is_missing_as_wrong_and_names_it() -> None:
    answers = {"v_0": Answer(0, 0), "v_1": Answer(0, 0), "v_2": Answer(1, 0)}
    spans = {"v_0": (2.0, 6.0), "v_2": (3.0, 3.0)}
    strict = score(ASKED, answers, spans)
    assert (strict.missing_answers, strict.missing_spans) == (("w_0",), ("v_1", "w_0"))
    assert strict.zero_length == ("v_2",)
    assert strict.overall["n"] == 4
    assert strict.overall["acc_vqa"] == 50
    assert strict.overall["acc_gqa"] == 25
    assert strict.overall["miop"] == 50
    assert strict.overall["miou"] == 25
    assert strict.overall["unfaithful"] == 25  # v_1: right, without a span
    assert strict.overall["bias_errors"] == 25  # w_0: wrong, and without one; v_2 is wrong but looked right
    official = score(ASKED, answers, spans, official=True)
    assert official.overall["n"] == 2
    assert official.overall["acc_vqa"] == official.overall["acc_gqa"] == 50
    assert official.overall["faithful"] == 100
    assert official.overall["miop"] == 100


def test_the_official_right_answer_is_the_stated_one() -> None:
    answers = {"v_0": Answer(3, 3)}
    assert score(ASKED[:1], answers, {"v_0": (2.0, 6.0)}, official=True).overall["acc_vqa"] == 100
    assert score(ASKED[:1], answers, {"v_0": (2.0, 6.0)}).overall["acc_vqa"] == 0


def test_reversed_spans_are_named_and_score_nothing() -> None:
    report = score(ASKED[:1], {"v_0": Answer(0, 0)}, {"v_0": (6.0, 2.0)})
    assert report.reversed == ("v_0",)
    assert report.overall["miop"] == report.overall["miou"] == report.overall["acc_gqa"] == 0


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no question"):
        score(ASKED, {}, {}, official=True)
    with pytest.raises(ValueError, match="'v_9'"):
        score([question("v_9", answer=None)], {"v_9": Answer(0, 0)}, {})


def test_the_report_is_json_with_the_agreed_keys() -> None:
    report = score(ASKED, {}, {}).to_json()
    assert json.loads(json.dumps(report, allow_nan=False))["acc_vqa"] == 0
    agreed = {"acc_vqa", "acc_gqa", "miop", "iop_30", "iop_50", "miou", "iou_30", "iou_50", "n"}
    assert agreed <= set(report)
    assert set(report["baselines"]) == {"full_video", "midpoint", "middle_half"}
