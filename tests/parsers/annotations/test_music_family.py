"""The family of MUSIC-AVQA: FortisAVQA's published rows, rewordings, head and tail, and v2.0's files by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests._helpers.annotation_files import MUSIC_ROW, brief, json_array, read

FORTIS: list[dict[str, Any]] = [  # both rows of the README of reml-group/fortisavqa, without its comments
    {
        "video_id": "00000823",
        "question_id": 2945,
        "type": '["Audio", "Comparative"]',
        "question_content": "Is the clarinet louder than the acoustic_guitar",
        "anser": "yes",
        "split": "tail",
        "x": 0.7958979489744872,
    },
    {
        "video_id": "00000823",
        "question_id": 2945,
        "type": '["Audio", "Comparative"]',
        "question_content": "When compared to the acoustic_guitar does the clarinet sound louder?",
        "anser": "yes",
        "split": "tail",
        "x": 0.7958979489744872,
    },
]


def test_fortis_rows_are_wordings_of_one_question(tmp_path: Path) -> None:
    other = FORTIS[0] | {"question_id": 3, "split": "head"}
    table, anomalies = read("music_avqa", json_array(tmp_path, [*FORTIS, other], "test.json"), "test", "fortisavqa")
    assert table["question_id"].to_pylist() == ["2945", "2945#2", "3"]
    assert table["subset"].to_pylist() == ["tail", "tail", "head"]
    assert table["flags"].to_pylist() == [["reworded_question"], ["reworded_question"], []]
    assert table["template_values"].to_pylist() == [[], [], []]
    assert table["question"][0].as_py() == "Is the clarinet louder than the acoustic_guitar"
    # One line for the file: MUSIC-AVQA-R has 211,572 such rows.
    assert brief(anomalies) == [("reworded_question", 0, "", "question_id")]
    assert anomalies[0].message.startswith("2 rows are wordings of 1 id;")


def test_the_same_words_twice_are_still_a_contradiction(tmp_path: Path) -> None:
    path = json_array(tmp_path, [FORTIS[0], FORTIS[0] | {"anser": "no"}], "test.json")
    table, anomalies = read("music_avqa", path, "test")
    assert {note.code for note in anomalies} == {"contradictory_answer"}
    assert table["flags"].to_pylist() == [["contradictory_answer"]] * 2


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        (FORTIS[0] | {"split": "middle"}, "unknown_subset", "split"),
        (FORTIS[0] | {"split": 1}, "wrong_type", "split"),
        ({key: value for key, value in MUSIC_ROW.items() if key != "templ_values"}, "missing_field", "templ_values"),
        (FORTIS[0] | {"templ_values": '["cello"]'}, "wrong_slots", "templ_values"),
    ],
)
def test_a_bad_row_is_refused(tmp_path: Path, row: dict[str, Any], code: str, field: str) -> None:
    table, anomalies = read("music_avqa", json_array(tmp_path, [row], "test.json"), "test")
    assert table.num_rows == 0
    assert [(error.code, error.field) for error in anomalies.errors] == [(code, field)]


@pytest.mark.parametrize("split", ["test_balance", "test_bias"])
def test_the_files_of_version_2_are_found_by_their_split(tmp_path: Path, split: str) -> None:
    row = MUSIC_ROW | {"question_id": 41.0, "video_id": "6cjIJVzP6eI_#05_flip", "person": None}
    json_array(tmp_path, [row], f"{split}.json")
    table, anomalies = read("music_avqa", tmp_path, split, "music_avqa_v2")
    assert anomalies.errors == []
    assert (table["video_id"].to_pylist(), table["split"].to_pylist()) == (["6cjIJVzP6eI_#05_flip"], [split])
    assert table["subset"].to_pylist() == [None]
