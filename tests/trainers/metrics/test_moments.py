"""Moment retrieval: IoU by hand, and spans that need no model."""

from __future__ import annotations

import pytest

from parsers.annotations.schema import Question, questions_table
from trainers.errors import EvaluationError
from trainers.metrics.moments import queries_of, score


def query(name: str, *spans: tuple[float, float], duration: float | None = 100.0) -> Question:
    return Question(name, "v", "d", "test", 0, "he runs", spans=spans, duration=duration)


def test_iou_and_recall_by_hand() -> None:
    queries = queries_of(
        questions_table([query("a", (0, 50)), query("b", (0, 10), (40, 60)), query("c", (90, 95))]), "f"
    )
    scores = score(queries, {"a": (0, 30), "b": (45, 60), "x": (0, 1)})
    assert scores.overall == {
        "miou": pytest.approx(100 * (0.6 + 0.75 + 0) / 3),
        "r1_30": pytest.approx(200 / 3),
        "r1_50": pytest.approx(200 / 3),
        "r1_70": pytest.approx(100 / 3),
        "n": 3,
    }
    assert scores.missing == ("c",)


def test_baselines_need_no_predictions() -> None:
    """The full video, 0…100, the middle half, 25…75, and the midpoint, which has no length and so no IoU."""
    scores = score(queries_of(questions_table([query("a", (0, 50)), query("b", (20, 80))]), "f"))
    assert scores.overall is None and scores.missing == ()
    assert scores.baselines["full_video"]["miou"] == pytest.approx(100 * (0.5 + 0.6) / 2)
    assert scores.baselines["middle_half"]["miou"] == pytest.approx(100 * (25 / 75 + 50 / 60) / 2)
    assert scores.baselines["middle_half"]["r1_70"] == 50
    assert scores.baselines["midpoint"]["miou"] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "f: has no query"),
        ([query("a")], "query 'a': has no span"),
        ([query("a", (1, 2), duration=None)], "query 'a': the duration"),
    ],
)
def test_what_cannot_be_scored_is_one_line(rows: list[Question], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        queries_of(questions_table(rows), "f")
