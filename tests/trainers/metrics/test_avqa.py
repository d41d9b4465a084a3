"""The avqa metric against the published group sizes and hand-counted cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parsers.annotations import read_annotations
from trainers.errors import EvaluationError
from trainers.metrics.avqa import MODALITIES, TYPES, Question, Rate, questions_of, read_predictions, score

# docs/facts/coqo.md section 1.6: rows per type of the updated validation file, in the order of TYPES.
VAL = (511, 295, 600, 613, 495, 633, 461, 549, 411)


def ask(name: str, kind: str = "Audio Counting", answer: str = "yes", published: str | None = None) -> Question:
    return Question(name, published or name, kind, kind.split()[0], answer)


def test_group_sizes_of_the_real_validation_file(shared: Path) -> None:
    table = read_annotations("music_avqa", shared / "data/annotations/music_avqa/avqa-val.json", "val")
    report = score(questions_of(table), {})
    assert report.overall == Rate(0.0, 4568)
    assert tuple(report.types) == TYPES
    assert tuple(rate.n for rate in report.types.values()) == VAL
    assert [report.groups[name].n for name in MODALITIES] == [511 + 295, 600 + 613, sum(VAL[4:])]
    assert len(report.missing) == 4568
    assert report.repeated == ()


def test_the_majority_answer_scores_what_the_labels_say(shared: Path) -> None:
    path = shared / "data/annotations/music_avqa/avqa-val.json"
    labels = [row["anser"] for row in json.loads(path.read_text())]
    questions = questions_of(read_annotations("music_avqa", path, "val"))
    report = score(questions, {question.question_id: "yes" for question in questions})
    assert report.overall.accuracy == pytest.approx(100 * labels.count("yes") / 4568)


def test_rates_are_micro() -> None:
    """A group's rate is over its questions, not the mean of its types' rates."""
    questions = [ask("1"), ask("2"), ask("3"), ask("4", "Audio Comparative")]
    report = score(questions, {"1": "yes", "2": "no", "3": "no", "4": "yes"})
    assert report.types["Audio Counting"].accuracy == pytest.approx(100 / 3)
    assert report.groups["Audio"] == Rate(50.0, 4)
    assert report.groups["Visual"] == Rate(None, 0)


def test_missing_is_wrong_and_named_and_strangers_are_named() -> None:
    report = score([ask("1"), ask("2")], {"1": "yes", "77": "yes"})
    assert (report.overall, report.missing, report.unknown) == (Rate(50.0, 2), ("2",), ("77",))


def test_both_rows_of_a_repeated_id_count() -> None:
    """Published numbers count both contradictory rows, of which one prediction is right at most once.

    ``docs/facts/coqo.md`` section 1.7.
    """
    questions = [ask("5", answer="yes"), ask("5#2", answer="no", published="5")]
    report = score(questions, {"5": "no"})
    assert (report.overall, report.missing, report.repeated) == (Rate(50.0, 2), (), ("5",))
    assert score(questions, {"5": "yes", "5#2": "no"}).overall.accuracy == 100


def test_repeated_ids_of_an_original_file(tmp_path: Path) -> None:
    row = {"video_id": "v", "question_id": 9, "type": '["Audio", "Counting"]', "templ_values": "[]"}
    rows = [{**row, "question_content": "Is there a sound?", "question_deleted": 0, "anser": a} for a in ("yes", "no")]
    path = tmp_path / "avqa-val.json"
    path.write_text(json.dumps(rows))
    report = score(questions_of(read_annotations("music_avqa", path, "val")), {"9": "yes"})
    assert (report.overall, report.missing, report.repeated) == (Rate(50.0, 2), (), ("9",))


def test_types_of_other_datasets_are_shown_sorted() -> None:
    questions = [Question("1", "1", "where", None, "left"), Question("2", "2", "count", None, "two")]
    report = score(questions, {"1": "left"})
    assert report.groups == {}
    assert report.types == {"count": Rate(0.0, 1), "where": Rate(100.0, 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": 3}', "question '1': its answer must be a text"),
        ("[]", "must be a JSON object"),
        ('{"1": "yes", "1": "no"}', "key '1' is given twice"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_prediction_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "preds.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
