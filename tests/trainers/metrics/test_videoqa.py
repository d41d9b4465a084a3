"""Metrics of video question answering against published predictions, counts and rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from parsers.annotations.schema import Question, questions_table
from trainers.errors import EvaluationError
from trainers.metrics import RULES, AvqaScores, NumberScores, avqa, videoqa
from trainers.metrics.avqa import Rate
from trainers.metrics.numbers import score as score_numbers

# Rows of MSVD-QA's test split and what HQGA predicts for them: ``results/msvd`` and ``dataset/msvd`` of doc-doc/HQGA.
MSVD = [
    ("50481", "who is on the exercising machine", "boy", "man"),
    ("50482", "when is a boy doing exercise", "cycle", "stage"),
    ("50484", "who is on a elliptical", "child", "boy"),
    ("50486", "who is riding a bicycle", "boy", "boy"),
    ("50498", "what is a boy doing", "play", "play"),
    ("50499", "what is a boy doing", "use", "play"),
    ("50500", "what is a kid doing", "play", "play"),
    ("50501", "what is a little boy doing", "play", "play"),
]
# ``docs/facts/videoqa.md`` section 1: questions by first word, and how many of them HQGA answers rightly.
HQGA = {"what": (8149, 2477), "who": (4552, 2602), "how": (370, 282), "when": (58, 44), "where": (28, 9)}


def table(*rows: Mapping[str, Any]) -> pa.Table:
    base = {"video_id": "v", "dataset": "d", "split": "test", "row": 0, "question": "what"}
    return questions_table(Question(**{**base, **row}) for row in rows)


def scored(questions: pa.Table, predictions: Any, dataset: str, folder: Path) -> Any:
    path = folder / "answers.json"
    path.write_text(json.dumps(predictions))
    return videoqa.score(questions, path, dataset)


def test_rows_and_predictions_of_msvd(tmp_path: Path) -> None:
    rows = [{"question_id": key, "question": q, "answer": a, "type": q.split()[0]} for key, q, a, _ in MSVD]
    scores = scored(table(*rows), {key: answer for key, _, _, answer in MSVD}, "msvd_qa", tmp_path)
    assert isinstance(scores, AvqaScores)
    assert scores.overall == Rate(50.0, 8)
    assert scores.types == {"what": Rate(75.0, 4), "when": Rate(0.0, 1), "who": Rate(pytest.approx(100 / 3), 3)}
    assert scores.outside == ("50481", "50482")  # "man" and "stage" are the answers to none of these questions


def test_the_published_counts_give_the_published_accuracy() -> None:
    """HQGA on MSVD-QA: 41.149 % of 13,157 (41.2 in the paper), the micro average of its five types."""
    questions, predictions = [], {}
    for kind, (n, right) in HQGA.items():
        for number in range(n):
            name = f"{kind}{number}"
            questions.append(avqa.Question(name, name, kind, None, "man"))
            predictions[name] = "man" if number < right else "<not in the vocabulary>"
    scores = avqa.score(questions, predictions, rule=RULES["msvd_qa"])
    assert scores.overall.n == 13157 and scores.overall.accuracy == pytest.approx(100 * 5414 / 13157)
    assert round(scores.overall.accuracy or 0, 3) == 41.149
    rounded = {name: round(rate.accuracy or 0, 2) for name, rate in scores.types.items()}
    assert rounded == {"what": 30.4, "who": 57.16, "how": 76.22, "when": 75.86, "where": 32.14}


def test_free_of_activitynet_is_over_its_own_questions() -> None:
    """The official example of predictions: 6,369 of 12,600 free questions and 7,171 of all 18,000 are right.

    The published script prints 75.83 % for Free, because it takes the questions of other types to divide by.
    """
    counts = {"Motion": (1800, 300), "Spatial Relation": (1800, 200), "Temporal Relation": (1800, 302)}
    counts |= {"Yes/No": (5000, 3000), "Color": (2000, 1000), "Object": (1600, 800), "Location": (1500, 700)}
    counts |= {"Number": (1500, 600), "Other": (1000, 269)}
    questions, predictions = [], {}
    for kind, (n, right) in counts.items():
        for number in range(n):
            name = f"{kind}{number}"
            questions.append(avqa.Question(name, name, kind, None, "yes"))
            predictions[name] = "yes" if number < right else "no"
    scores = avqa.score(questions, predictions, rule=RULES["activitynet_qa"])
    assert scores.groups == {"Free": Rate(pytest.approx(100 * 6369 / 12600), 12600)}
    assert round(scores.groups["Free"].accuracy or 0, 2) == 50.55
    assert round(scores.overall.accuracy or 0, 2) == 39.84
    assert "75.83" in scores.rule and "not reproduced" in scores.rule


def test_nextqa_counts_tp_with_tn_and_groups_by_the_first_letter(tmp_path: Path) -> None:
    kinds = ("CW", "CH", "TN", "TP", "TC", "DC", "DL", "DO")
    options = ("a", "b", "c", "d", "e")
    rows = [{"question_id": kind, "type": kind, "options": options, "answer": "b", "answer_index": 1} for kind in kinds]
    predictions = {kind: {"prediction": 1 if kind in ("CW", "TP", "DO") else 0, "answer": 1} for kind in kinds}
    scores = scored(table(*rows), predictions, "nextqa", tmp_path)
    assert "TP" not in scores.types and scores.types["TN"] == Rate(50.0, 2)
    assert scores.groups == {
        "Acc_C": Rate(50.0, 2),
        "Acc_T": Rate(pytest.approx(100 / 3), 3),
        "Acc_D": Rate(pytest.approx(100 / 3), 3),
    }
    assert scores.overall == Rate(37.5, 8) and scores.outside == ()


def test_an_option_is_named_by_index_or_text_and_its_index_is_exact(tmp_path: Path) -> None:
    own = {"options": ("sit", "run", "sit"), "answer": "sit", "answer_index": 2}
    rows = table(*({"question_id": name, **own} for name in "abcde"))
    predictions = {"a": 2, "b": 0, "c": "sit", "d": "fly", "e": "run"}
    scores = scored(rows, predictions, "tgif_action", tmp_path)
    assert scores.overall == Rate(40.0, 5)  # index 0 is another option of the same text
    assert scores.outside == ("d",)


def test_head_and_tail_are_reported(tmp_path: Path) -> None:
    rows = table(
        {"question_id": "1", "answer": "yes", "subset": "head"},
        {"question_id": "2", "answer": "no", "subset": "tail"},
        {"question_id": "2#2", "answer": "no", "subset": "tail", "flags": ("reworded_question",)},
    )
    scores = scored(rows, {"1": "yes", "2": "no"}, "fortisavqa", tmp_path)
    assert scores.subsets == {"head": Rate(100.0, 1), "tail": Rate(50.0, 2)}
    assert scores.missing == ("2#2",)  # each wording needs an answer of its own


@pytest.mark.parametrize(
    ("prediction", "answer", "raw", "tgif_qa", "hcrn"),
    [
        (3, 0, 9, 9, 4),  # HCRN lifts the zero to 1
        (0, 0, 0, 1, 0),  # both clamp the prediction to 1
        (12, 10, 4, 0, 0),
        (2.4, 3, 0.36, 1, 1),
        (2.5, 2, 0.25, 0, 0),  # halves are rounded to even numbers, as numpy and TensorFlow do
    ],
)
def test_the_rules_of_counts(prediction: float, answer: float, raw: float, tgif_qa: float, hcrn: float) -> None:
    scores = score_numbers({"q": answer}, {"q": prediction})
    assert scores.mse == {"raw": pytest.approx(raw), "tgif_qa": tgif_qa, "hcrn": hcrn}


def test_counts_are_read_as_numbers_or_texts(tmp_path: Path) -> None:
    rows = table(*({"question_id": name, "answer": answer} for name, answer in (("a", "3"), ("b", "0"))))
    scores = scored(rows, {"a": "3", "b": 2.0, "z": 1}, "tgif_count", tmp_path)
    assert isinstance(scores, NumberScores)
    assert (scores.mse, scores.accuracy, scores.unknown) == ({"raw": 2.0, "tgif_qa": 2.0, "hcrn": 0.5}, 50.0, ("z",))


@pytest.mark.parametrize(
    ("dataset", "row", "predictions", "message"),
    [
        ("tgif_count", {"answer": "3"}, {}, "question 'q': has no prediction"),
        ("tgif_count", {"answer": "3"}, {"q": "many"}, "question 'q': its answer must be a number"),
        ("tgif_count", {"answer": "3"}, {"q": 1e300}, "question 'q': its answer must be a number"),
        ("msvd_qa", {"answer": "man"}, {"q": 3}, "question 'q': its answer must be a text"),
        ("msvd_qa", {"answer": None}, {"q": "man"}, "its answer is hidden"),
        ("nextqa", {"answer": "b", "answer_index": 1, "options": ("a", "b")}, {"q": 2}, "option 2 of 2"),
        ("nextqa", {"answer": "b", "answer_index": 1, "options": ("a", "b")}, {"q": None}, "the text or the index"),
    ],
)
def test_bad_predictions_are_one_line(
    tmp_path: Path, dataset: str, row: dict[str, Any], predictions: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        scored(table({"question_id": "q", **row}), predictions, dataset, tmp_path)
