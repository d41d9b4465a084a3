"""Sets that ground queries and questions in spans: rows in the published forms, and what refuses a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests._helpers.annotation_files import brief, json_array, read

HIGHLIGHT: dict[str, Any] = {  # README of moment_detr's data
    "qid": 8737,
    "query": "A family is playing basketball together on a green court outside.",
    "duration": 126,
    "vid": "bP5KfdFJzC4_660.0_810.0",
    "relevant_windows": [[0, 16]],
    "relevant_clip_ids": [0, 1, 2, 3, 4, 5, 6, 7],
    "saliency_scores": [[4, 1, 1], [4, 1, 1], [4, 2, 1], [4, 3, 2], [4, 3, 2], [4, 3, 3], [4, 3, 3], [4, 3, 2]],
}
REXTIME: dict[str, Any] = {
    "qid": "anet_val384",
    "query": "Why does the man stop?",
    "duration": 60.5,
    "vid": "v_5R3h6lxne90",
    "relevant_windows": [[0.0, 15.83]],
    "ans": "A",
}
CG_BENCH: dict[str, Any] = {
    "qid": 6632,
    "video_uid": "Y4y2e4rUxfo",
    "question": 'when the screen shows "EACH AGE PRODUCES A SOCRATES", what is the yellow pattern on the screen?',
    "answer": "Light bulb pattern",
    "choices": ["Light bulb pattern", "Lightning bolt pattern", "Star pattern"],
    "right_answer": "A",
    "clue_intervals": [[90, 100], [120.5, 130]],
    "domain": "Art & Culture",
    "sub_category": "Event Perception",
    "duration": 1477,
}


def jsonl(folder: Path, name: str, *rows: Any) -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def charades(folder: Path, *rows: str, lengths: str | None = "id,subject,length\n3MSZA,ABC,30.96\n") -> Path:
    if lengths is not None:
        (folder / "Charades_v1_test.csv").write_text(lengths)
    path = folder / "charades_sta_test.txt"
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def test_qvhighlights(tmp_path: Path) -> None:
    jsonl(tmp_path, "highlight_val_release.jsonl", HIGHLIGHT)
    table, anomalies = read("qvhighlights", tmp_path)
    assert anomalies == []
    (row,) = table.to_pylist()
    assert (row["question_id"], row["video_id"]) == ("8737", "bP5KfdFJzC4_660.0_810.0")
    assert (row["spans"], row["duration"], row["options"], row["answer"]) == ([[0.0, 16.0]], 126.0, [], None)


def test_the_test_split_of_qvhighlights_may_hide_its_windows(tmp_path: Path) -> None:
    hidden = {name: HIGHLIGHT[name] for name in ("qid", "query", "duration", "vid")}
    path = jsonl(tmp_path, "highlight_test_release.jsonl", hidden)
    table, anomalies = read("qvhighlights", path, "test")
    assert anomalies == [] and table["spans"].to_pylist() == [[]]
    assert brief(read("qvhighlights", path, "val")[1].errors) == [("missing_field", 1, "8737", "relevant_windows")]


def test_rextime_without_and_with_options(tmp_path: Path) -> None:
    late = REXTIME | {"qid": "qvh_val114", "relevant_windows": [[50, 61]]}
    table, anomalies = read("rextime", jsonl(tmp_path, "rextime_val.jsonl", REXTIME, late))
    assert [(note.code, note.key) for note in anomalies] == [("span_after_duration", "qvh_val114"), ("no_options", "")]
    assert table["answer"].to_pylist() == [None, None]  # a letter without options is no answer
    (tmp_path / "rextime_val.jsonl").unlink()
    whole = {
        "qid": "qvh_val114",
        "question": "Why does the man stop?",
        "duration": 60.5,
        "vid": "9c_w8HU3hqc_210.0_360.0",
        "span": [10, 20],
        "options": ["He is tired.", "It rains.", "He has arrived.", "He waits."],
        "answer": "From <s0> to <e0>, <option>",
        "ans": "C",
        "source": "qvhighlights_val",
        "category": "causality",
    }
    json_array(tmp_path, [whole, whole | {"qid": "b", "ans": "E"}], "rextime_val.json")
    table, anomalies = read("rextime", tmp_path)
    (row,) = table.to_pylist()
    assert (row["answer"], row["answer_index"], row["spans"]) == ("He has arrived.", 2, [[10.0, 20.0]])
    assert (row["type"], row["question"]) == ("causality", "Why does the man stop?")
    assert brief(anomalies) == [("answer_not_in_options", 3, "b", "ans")]


def test_charades_sta(tmp_path: Path) -> None:
    charades(tmp_path, "3MSZA 24.3 30.4##person turn a light on.", "", "3MSZA 24.3 31.0##person flipped the switch.")
    table, anomalies = read("charades_sta", tmp_path, "test")
    assert brief(anomalies) == [("span_after_duration", 3, "3MSZA_1", "end")]
    assert table["question_id"].to_pylist() == ["3MSZA_0", "3MSZA_1"]
    assert table["question"].to_pylist() == ["person turn a light on.", "person flipped the switch."]
    assert (table["spans"].to_pylist()[0], table["duration"].to_pylist()) == ([[24.3, 30.4]], [30.96, 30.96])


def test_bad_lines_of_charades_sta(tmp_path: Path) -> None:
    rows = ("3MSZA 30.4 24.3##ends first", "3MSZA 1 2 no query", "AAAAA 1 1##no length", "3MSZA 1 e##", "3MSZA 1 2##")
    table, anomalies = read("charades_sta", charades(tmp_path, *rows), "test")
    assert table["question_id"].to_pylist() == ["AAAAA_0"]  # ids count the refused rows of a video, too
    assert brief(anomalies) == [
        ("reversed_span", 1, "3MSZA_0", "end"),
        ("malformed_line", 2, "", ""),
        ("no_length", 3, "AAAAA_0", "video"),
        ("empty_span", 3, "AAAAA_0", "end"),
        ("wrong_number", 4, "3MSZA_1", "end"),
        ("empty_text", 5, "3MSZA_2", "query"),
    ]


def test_lengths_of_charades_that_are_absent_or_broken(tmp_path: Path) -> None:
    path = charades(tmp_path, "3MSZA 24.3 30.4##person turn a light on.", lengths=None)
    table, anomalies = read("charades_sta", path, "test")
    assert table["duration"].to_pylist() == [None] and [note.code for note in anomalies] == ["no_lengths_file"]
    path = charades(tmp_path, "3MSZA 24.3 30.4##person turn a light on.", lengths="id,length\n3MSZA,long\n")
    _, anomalies = read("charades_sta", path, "test")
    assert [(error.code, Path(error.file).name, error.line) for error in anomalies.errors] == [
        ("wrong_number", "Charades_v1_test.csv", 2)
    ]


def test_activitynet_captions(tmp_path: Path) -> None:
    video = {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": ["A woman sits.", "She runs."],
    }
    (tmp_path / "val.json").write_text(json.dumps({"v_QOlSCBRmfWY": video}))
    table, anomalies = read("activitynet_captions", tmp_path)
    assert anomalies == []
    assert table["question_id"].to_pylist() == ["v_QOlSCBRmfWY_0", "v_QOlSCBRmfWY_1"]
    assert table["spans"].to_pylist() == [[[0.83, 19.86]], [[17.37, 60.81]]]
    assert table["video_id"].to_pylist() == ["v_QOlSCBRmfWY"] * 2


def test_tacos_counts_frames_and_names_files(tmp_path: Path) -> None:
    video = {"timestamps": [[245, 490]], "sentences": ["He took out a cutting board"], "fps": 24.5, "num_frames": 4900}
    (tmp_path / "val.json").write_text(json.dumps({"s13-d21.avi": video}))
    table, anomalies = read("tacos", tmp_path)
    assert anomalies == []
    (row,) = table.to_pylist()
    assert (row["video_id"], row["question_id"]) == ("s13-d21", "s13-d21_0")
    assert (row["spans"], row["duration"], row["fps"], row["frame_count"]) == ([[10.0, 20.0]], 200.0, 24.5, 4900)


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"sentences": []}, "wrong_type", ""),
        ({"timestamps": None}, "wrong_type", ""),
        ({"timestamps": [[1]]}, "wrong_type", "timestamps"),
        ({"timestamps": ["12"]}, "wrong_type", "timestamps"),
        ({"timestamps": [[490, 245]]}, "reversed_span", "timestamps"),
        ({"fps": 0}, "wrong_number", "fps"),
        ({"num_frames": 1.5}, "wrong_number", "num_frames"),
        ({"num_frames": None}, "wrong_number", "num_frames"),
        ({"num_frames": 0}, "wrong_number", "num_frames"),
        ({"sentences": [""]}, "empty_text", "sentences"),
    ],
)
def test_a_bad_video_of_tacos_is_refused_alone(tmp_path: Path, changes: dict[str, Any], code: str, field: str) -> None:
    video = {"timestamps": [[245, 490]], "sentences": ["He took out a board"], "fps": 24.5, "num_frames": 4900}
    (tmp_path / "val.json").write_text(json.dumps({"a.avi": video | changes, "b.avi": video}, indent=1))
    table, anomalies = read("tacos", tmp_path)
    assert table["question_id"].to_pylist() == ["b_0"]
    assert [(error.code, error.line, error.field) for error in anomalies.errors] == [(code, 2, field)]


def test_cg_bench(tmp_path: Path) -> None:
    json_array(tmp_path, [CG_BENCH, CG_BENCH | {"qid": 2, "answer": "A star"}], "cgbench_mini.json")
    table, anomalies = read("cg_bench", tmp_path, "mini")
    assert brief(anomalies) == [("other_answer", 3, "2", "answer")]
    row = table.to_pylist()[0]
    assert (row["question_id"], row["video_id"], row["type"]) == ("6632", "Y4y2e4rUxfo", "Event Perception")
    assert (row["answer"], row["answer_index"], len(row["options"])) == ("Light bulb pattern", 0, 3)
    assert (row["spans"], row["duration"]) == ([[90.0, 100.0], [120.5, 130.0]], 1477.0)


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"right_answer": "D"}, "answer_not_in_options", "right_answer"),
        ({"right_answer": "AB"}, "answer_not_in_options", "right_answer"),
        ({"right_answer": None}, "missing_field", "right_answer"),
        ({"choices": ["one"]}, "wrong_type", "choices"),
        ({"clue_intervals": [[3, 2]]}, "reversed_span", "clue_intervals"),
        ({"clue_intervals": None}, "missing_field", "clue_intervals"),
        ({"duration": -1}, "negative_number", "duration"),
    ],
)
def test_a_bad_row_of_cg_bench_is_refused(tmp_path: Path, changes: dict[str, Any], code: str, field: str) -> None:
    path = json_array(tmp_path, [CG_BENCH | changes], "cgbench.json")
    table, anomalies = read("cg_bench", path, "val")
    assert table.num_rows == 0 and brief(anomalies.errors) == [(code, 2, "6632", field)]


def test_a_test_split_of_cg_bench_may_hide_its_clues_and_answers(tmp_path: Path) -> None:
    hidden = {
        name: value for name, value in CG_BENCH.items() if name not in ("clue_intervals", "right_answer", "answer")
    }
    table, anomalies = read("cg_bench", json_array(tmp_path, [hidden], "cgbench.json"), "test")
    assert (table["spans"].to_pylist(), table["answer"].to_pylist(), anomalies) == ([[]], [None], [])


@pytest.mark.parametrize(
    ("format", "row", "field"),
    [
        ("qvhighlights", {**HIGHLIGHT, "relevant_windows": []}, "relevant_windows"),
        ("rextime", {**REXTIME, "relevant_windows": []}, "relevant_windows"),
        ("cg_bench", {**CG_BENCH, "clue_intervals": []}, "clue_intervals"),
    ],
)
def test_a_query_without_a_span_is_refused_alone(tmp_path: Path, format: str, row: dict[str, Any], field: str) -> None:
    """Otherwise one such row would keep the whole split from being scored."""
    rows = [{**row, "qid": 1}, {**row, "qid": 2, field: [[1, 2]]}]
    write = json_array if format == "cg_bench" else lambda folder, rows, name: jsonl(folder, name, *rows)
    path = write(tmp_path, rows, "rows.json" if format == "cg_bench" else "rows.jsonl")
    table, anomalies = read(format, path, "val")
    assert table["spans"].to_pylist() == [[[1.0, 2.0]]]
    assert [(error.code, error.key, error.field) for error in anomalies.errors] == [("no_spans", "1", field)]
