"""MUSIC-AVQA: rows quoted from the published files, repeated ids, and what refuses a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests._helpers.annotation_files import MUSIC_ROW, brief, json_array, read


def rows(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [MUSIC_ROW | change for change in changes]


@pytest.mark.parametrize(
    ("row", "question", "kind", "index", "flags"),
    [
        (MUSIC_ROW, "Is the ukulele in the video always playing?", "Audio-Visual Existential", 7, []),
        (
            {
                "video_id": "00006864",
                "question_id": 15863,
                "type": '["Audio", "Counting"]',
                "question_content": "Are there <Object> and <Object> sound? ",
                "templ_values": '["accordion", "violin"]',
                "question_deleted": 0,
                "anser": "yes",
            },
            "Are there accordion and violin sound?",
            "Audio Counting",
            7,
            ["trailing_blank"],
        ),
        (
            {
                "video_id": "vv00000606",
                "question_id": 41766,
                "type": '["Audio-Visual", "Counting"]',
                "question_content": "How many sounding <Object> in the video？",
                "templ_values": '["suona"]',
                "question_deleted": 0,
                "anser": "one",
            },
            "How many sounding suona in the video?",
            "Audio-Visual Counting",
            8,
            ["full_width_mark"],
        ),
        (
            {
                "video_id": "00004049",
                "question_id": 36519,
                "type": '["Visual", "Location"]',
                "question_content": "What is the instrument on the <LR> of <Object>?",
                "templ_values": '["left", "ukulele"]',
                "question_deleted": 0,
                "anser": "violin",
            },
            "What is the instrument on the left of ukulele?",
            "Visual Location",
            25,
            [],
        ),
    ],
)
def test_quoted_rows(
    tmp_path: Path, row: dict[str, Any], question: str, kind: str, index: int, flags: list[str]
) -> None:
    table, anomalies = read("music_avqa", json_array(tmp_path, [row], "avqa-val.json"))
    (row_read,) = table.to_pylist()
    assert anomalies.errors == []
    assert (row_read["question"], row_read["type"], row_read["answer_index"]) == (question, kind, index)
    assert row_read["modality"] == kind.split()[0]
    assert row_read["flags"] == flags
    assert (row_read["question_id"], row_read["options"]) == (str(row["question_id"]), [])
    assert len(row_read["template_values"]) == row_read["template"].count("<")


def test_test_questions_may_hide_their_answers(tmp_path: Path) -> None:
    without = {key: value for key, value in MUSIC_ROW.items() if key != "anser"}
    hidden = [without, *rows({"question_id": 8, "anser": ""}, {"question_id": 9, "anser": None})]
    table, anomalies = read("music_avqa", json_array(tmp_path, hidden, "avqa-test.json"), "test")
    assert anomalies == []
    assert table["answer"].to_pylist() == table["answer_index"].to_pylist() == [None] * 3
    _, anomalies = read("music_avqa", json_array(tmp_path, [without], "avqa-val.json"))
    assert brief(anomalies.errors) == [("missing_field", 2, "7", "anser")]


def test_v2_ids_and_keys(tmp_path: Path) -> None:
    absent = {key: value for key, value in MUSIC_ROW.items() if key != "question_id"}
    extra = {"unmatch_audio": None, "person": None, "video_id": "iveNvQ4jCis_flip"}
    table, anomalies = read(
        "music_avqa",
        json_array(tmp_path, [absent, *rows({"question_id": None} | extra, {"question_id": 41.0} | extra)], "x.json"),
        "test_balance",
        dataset="music_avqa_v2",
    )
    assert anomalies.errors == []
    assert table["question_id"].to_pylist() == ["row:test_balance/x.json:0", "row:test_balance/x.json:1", "41"]
    assert table["flags"].to_pylist() == [["missing_question_id"], ["missing_question_id"], ["float_question_id"]]
    assert table["dataset"].to_pylist() == ["music_avqa_v2"] * 3
    extras = [(note.line, note.field, note.message[:6]) for note in anomalies if note.code == "extra_key"]
    assert sorted(extras) == [(3, "person", "2 rows"), (3, "unmatch_audio", "2 rows")]


def test_repeated_ids_stay_apart_and_contradictions_are_flagged(tmp_path: Path) -> None:
    path = json_array(tmp_path, rows({}, {"question_id": 8}, {"anser": "no"}, {"question_id": 8}), "avqa-val.json")
    table, anomalies = read("music_avqa", path)
    assert table["question_id"].to_pylist() == ["7", "8", "7#2", "8#2"]
    assert table["answer"].to_pylist() == ["yes", "yes", "no", "yes"]
    assert table["flags"].to_pylist() == [
        ["contradictory_answer"],
        ["duplicate_question_id"],
        ["contradictory_answer"],
        ["duplicate_question_id"],
    ]
    assert anomalies.errors == []
    assert brief(anomalies.notes)[1] == ("contradictory_answer", 4, "7#2", "question_id")


def test_a_repeated_id_never_takes_the_name_of_another_question(tmp_path: Path) -> None:
    path = json_array(tmp_path, rows({}, {}, {"question_id": "7#2"}), "avqa-val.json")
    assert read("music_avqa", path)[0]["question_id"].to_pylist() == ["7", "7#3", "7#2"]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"anser": "eleven"}, "answer_not_in_options", "anser"),
        ({"anser": 1}, "wrong_type", "anser"),
        ({"anser": None}, "missing_field", "anser"),
        ({"type": '["Audio", "Existential"]'}, "unknown_type", "type"),
        ({"type": "Audio Counting"}, "malformed_json", "type"),
        ({"type": "[" * 900}, "malformed_json", "type"),
        ({"type": '["' + "a" * 2000 + '"]'}, "wrong_type", "type"),
        ({"type": '{"a": []}'}, "wrong_type", "type"),
        ({"type": "{[]: 1}"}, "malformed_json", "type"),
        ({"templ_values": "[]"}, "wrong_slots", "templ_values"),
        ({"templ_values": '["a", "b"]'}, "wrong_slots", "templ_values"),
        ({"templ_values": "[1]"}, "wrong_type", "templ_values"),
        ({"question_id": True}, "wrong_type", "question_id"),
        ({"question_id": float("nan")}, "wrong_type", "question_id"),
        ({"question_id": 1.5}, "wrong_type", "question_id"),
        ({"video_id": 28.0}, "wrong_type", "video_id"),
        ({"question_content": "a" * 10_000_000}, "too_long", "question_content"),
    ],
)
def test_a_bad_field_refuses_its_row_alone(tmp_path: Path, changes: dict[str, Any], code: str, field: str) -> None:
    table, anomalies = read("music_avqa", json_array(tmp_path, rows(changes, {"question_id": 9}), "avqa-val.json"))
    assert table["question_id"].to_pylist() == ["9"]
    assert [(anomaly.code, anomaly.line, anomaly.field) for anomaly in anomalies.errors] == [(code, 2, field)]
