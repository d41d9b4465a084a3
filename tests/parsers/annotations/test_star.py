"""STAR: questions of each split, the csv that CRA derives, and what refuses a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests._helpers.annotation_files import STAR_ROW, STAR_TEST_ROW, brief, json_array, read


def test_a_validation_question(tmp_path: Path) -> None:
    table, anomalies = read("star", json_array(tmp_path, [STAR_ROW], "STAR_val.json").parent)
    assert anomalies == []
    (question,) = table.to_pylist()
    assert question["question_id"] == "Interaction_T1_13"
    assert question["type"] == "Interaction_T1"
    assert question["options"] == ["The closet/cabinet.", "The blanket.", "The clothes.", "The table."]
    assert (question["answer"], question["answer_index"]) == ("The clothes.", 2)
    assert (question["spans"], question["start_s"], question["end_s"]) == ([[11.1, 19.6]], 11.1, 19.6)


def test_test_questions_have_no_answer_but_others_must(tmp_path: Path) -> None:
    path = json_array(tmp_path, [STAR_TEST_ROW], "STAR_test.json")
    table, anomalies = read("star", path, "test")
    assert anomalies == []
    assert table["answer"].to_pylist() == table["answer_index"].to_pylist() == [None]
    table, anomalies = read("star", path, "val")
    assert brief(anomalies.errors) == [("missing_field", 2, "Interaction_T1_1", "answer")]


def test_a_clip_that_starts_before_the_video_is_noted(tmp_path: Path) -> None:
    table, anomalies = read("star", json_array(tmp_path, [STAR_ROW | {"start": -0.1}], "STAR_val.json"))
    assert brief(anomalies) == [("span_before_start", 2, "Interaction_T1_13", "end")]
    assert table["spans"].to_pylist() == [[[-0.1, 19.6]]]
    assert table["start_s"].to_pylist() == [-0.1]


@pytest.mark.parametrize("answer", [None, "", " "])
def test_a_hidden_answer_may_be_null_or_empty(tmp_path: Path, answer: str | None) -> None:
    path = json_array(tmp_path, [STAR_TEST_ROW | {"answer": answer}], "STAR_test.json")
    table, anomalies = read("star", path, "test")
    assert anomalies == []
    assert table["answer"].to_pylist() == [None]


def test_options_are_ordered_by_their_ids(tmp_path: Path) -> None:
    row = STAR_ROW | {"choices": STAR_ROW["choices"][::-1]}
    table, _ = read("star", json_array(tmp_path, [row], "STAR_val.json"))
    assert table["options"][0].as_py()[0] == "The closet/cabinet."
    assert table["answer_index"].to_pylist() == [2]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"start": 20.0}, "reversed_span", "end"),
        ({"start": float("-inf")}, "wrong_number", "start"),
        ({"end": float("inf")}, "wrong_number", "end"),
        ({"end": "19.6"}, "wrong_number", "end"),
        ({"start": None}, "missing_field", "start"),
        ({"question_id": 13}, "wrong_id", "question_id"),
        ({"question_id": "T1_13"}, "wrong_id", "question_id"),
        ({"question_id": None}, "missing_field", "question_id"),
        ({"answer": "The pen."}, "answer_not_in_options", "answer"),
        ({"question": ["Which"]}, "wrong_type", "question"),
        ({"question": "lone \ud800"}, "not_utf8", "question"),
        ({"choices": []}, "wrong_type", "choices"),
        ({"choices": "abcd"}, "wrong_type", "choices"),
        ({"choices": ["a", "b"]}, "wrong_choice", "choices"),
        ({"choices": [STAR_ROW["choices"][0]] * 2}, "wrong_choice", "choices"),
        ({"choices": [{"choice_id": 0}, {"choice_id": 1}]}, "wrong_type", "choices"),
    ],
)
def test_a_bad_field_refuses_its_row_alone(tmp_path: Path, changes: dict[str, object], code: str, field: str) -> None:
    path = json_array(tmp_path, [STAR_ROW | changes, STAR_ROW | {"question_id": "Sequence_T2_5"}], "STAR_val.json")
    table, anomalies = read("star", path)
    assert table["question_id"].to_pylist() == ["Sequence_T2_5"]
    assert [(anomaly.code, anomaly.line, anomaly.field) for anomaly in anomalies.errors] == [(code, 2, field)]


def test_repeated_ids_are_errors(tmp_path: Path) -> None:
    table, anomalies = read("star", json_array(tmp_path, [STAR_ROW, STAR_ROW], "STAR_val.json"))
    assert table.num_rows == 1
    assert brief(anomalies.errors) == [("duplicate_question_id", 3, "Interaction_T1_13", "question_id")]


def test_the_csv_that_cra_derives(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(
        ",video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3\n"
        "0,YSKX3,901,270,480,Which object was taken by the person?,,Interaction_T1_1,T1,"
        "The shoe.,The pillow.,The cup/glass/bottle.,The dish.\n"
    )
    span = {"YSKX3": {"duration": 30.03, "location": {"Interaction_T1_1": [[11.8, 17.3]]}, "fps": 30.0}}
    (tmp_path / "gsub_test.json").write_text(json.dumps(span))
    table, anomalies = read("star", tmp_path, "test")
    (question,) = table.to_pylist()
    assert (question["question_id"], question["type"]) == ("Interaction_T1_1", "Interaction_T1")
    assert question["answer"] is None
    assert (question["spans"], question["duration"]) == ([[11.8, 17.3]], 30.03)
    assert {note.code for note in anomalies} == {"upper_case"}
