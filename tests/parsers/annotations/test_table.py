"""Plain tables: the same questions from csv, jsonl and Parquet, and what refuses a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parsers.annotations import AnnotationError, read_annotations
from tests._helpers.annotation_files import brief, read

ROWS: list[dict[str, Any]] = [
    {
        "video_id": "a",
        "question": "who ran",
        "question_id": "q1",
        "answer": "he",
        "options": ["she", "he"],
        "type": "T",
    },
    {"video_id": "b", "question": "who sat", "question_id": "q2", "answer": "all", "start": 1.5, "end": 3},
    {"video_id": "b", "question": "who fell", "spans": [[0, 1], [2, 2.5]], "duration": 4.0},
]


OPTIONS = ("a0", "a1", "a2", "a3", "a4")
GAP: dict[str, Any] = {"video_id": "a", "question": "who", "question_id": "q", "answer": "x"}
GAP |= dict(zip(OPTIONS, "xyvwz", strict=True))


def jsonl(folder: Path, rows: list[Any]) -> Path:
    path = folder / "val.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_jsonl_and_parquet_say_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS, _schema()), tmp_path / "val.parquet")
    table, anomalies = read("table", jsonl(tmp_path, ROWS), dataset="mine")
    again, _ = read("table", tmp_path / "val.parquet", dataset="mine")
    assert table.drop_columns("question_id").equals(again.drop_columns("question_id"))
    assert table["question_id"].to_pylist() == ["q1", "q2", "row:val/val.jsonl:2"]
    assert table["answer_index"].to_pylist() == [1, None, None]
    assert table["answer"].to_pylist() == ["he", "all", None]
    assert table["spans"].to_pylist() == [[], [[1.5, 3.0]], [[0.0, 1.0], [2.0, 2.5]]]
    assert table["flags"].to_pylist() == [[], [], ["missing_question_id"]]
    assert [note.code for note in anomalies] == ["missing_question_id"]


def _schema() -> pa.Schema:
    texts = [pa.field(name, pa.string()) for name in ("video_id", "question", "question_id", "answer", "type")]
    numbers = [pa.field(name, pa.float64()) for name in ("start", "end", "duration")]
    lists = [pa.field("options", pa.list_(pa.string())), pa.field("spans", pa.list_(pa.list_(pa.float64())))]
    return pa.schema([*texts, *numbers, *lists])


def test_csv_with_options_in_columns_and_other_splits(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text(
        "video_id,question,answer,a0,a1,a2,split,spans\n"
        'v1,"who, then",None,None,NA,,val,"[[1, 2]]"\n'
        "v2,who,x,x,y,z,train,\n"
    )
    table, _ = read("table", path)
    (question,) = table.to_pylist()
    assert (question["options"], question["answer_index"]) == (["None", "NA"], 0)
    assert question["spans"] == [[1.0, 2.0]]
    table, anomalies = read("table", path, "test")
    assert table.num_rows == 0
    assert [(anomaly.code, anomaly.field) for anomaly in anomalies] == [("no_such_split", "split")]


def test_fewer_options_than_columns_are_no_gap(tmp_path: Path) -> None:
    rows = [GAP, GAP | {"question_id": "r", "a3": "", "a4": " "}, GAP | {"question_id": "s"} | dict.fromkeys(OPTIONS)]
    table, anomalies = read("table", jsonl(tmp_path, rows))
    assert anomalies == []
    assert table["options"].to_pylist() == [["x", "y", "v", "w", "z"], ["x", "y", "v"], []]


def test_a_gap_in_a_csv_names_the_option_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "val.csv"
    path.write_text("video_id,question,question_id,answer,a0,a1,a2,a3,a4\nv,who,q,x,x,y,,w,z\n")
    table, anomalies = read("table", path)
    assert table.num_rows == 0
    assert brief(anomalies.errors) == [("missing_field", 2, "q", "a2")]
    assert "option 'a4' is given" in anomalies.errors[0].message


def test_times_before_the_start_are_noted_in_every_form(tmp_path: Path) -> None:
    rows = [ROWS[1] | {"start": -0.2}, ROWS[2] | {"question_id": "q3", "spans": [[-0.1, 1]]}]
    table, anomalies = read("table", jsonl(tmp_path, rows))
    assert table["spans"].to_pylist() == [[[-0.2, 3.0]], [[-0.1, 1.0]]]
    assert brief(anomalies) == [("span_before_start", 1, "q2", "end"), ("span_before_start", 2, "q3", "spans")]


def test_a_table_without_answers_is_read_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("video_id,question,question_id,a0,a1\nv,who,q,x,y\n")
    pq.write_table(pa.table({"video_id": ["v"], "question": ["who"], "question_id": ["q"]}), tmp_path / "test.parquet")
    for name, options in (("test.csv", ["x", "y"]), ("test.parquet", [])):
        table, anomalies = read("table", tmp_path / name, "test")
        assert anomalies == []
        assert table.select(["options", "answer", "answer_index"]).to_pylist() == [
            {"options": options, "answer": None, "answer_index": None}
        ]


def test_an_integer_is_an_index(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"answer": 0}, ROWS[0] | {"answer": 2, "question_id": "q3"}]
    table, anomalies = read("table", jsonl(tmp_path, rows))
    assert table["answer"].to_pylist() == ["she"]
    assert brief(anomalies.errors) == [("answer_not_in_options", 2, "q3", "answer")]


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ("{", "malformed_json", ""),
        ("{} {}", "malformed_json", ""),
        ("[]", "wrong_type", ""),
        ('{"video_id": "a", "video_id": "b"}', "repeated_key", ""),
        ("[" * 100_000, "malformed_json", ""),
        ('{"video_id": ' + "9" * 5000 + "}", "malformed_json", ""),
        ({"question": "who"}, "missing_field", "video_id"),
        ({"video_id": "v"}, "missing_field", "question"),
        (ROWS[0] | {"options": "she"}, "malformed_json", "options"),
        (ROWS[0] | {"options": {"a": 1}}, "wrong_type", "options"),
        (ROWS[0] | {"options": [1, 2]}, "wrong_type", "options"),
        (ROWS[1] | {"start": 9}, "reversed_span", "end"),
        (ROWS[2] | {"duration": -1}, "negative_number", "duration"),
        (GAP | {"a2": ""}, "missing_field", "a2"),
        (GAP | {"a2": None}, "missing_field", "a2"),
        (GAP | {"a2": " \u200b"}, "missing_field", "a2"),
        (GAP | {"a0": ""}, "missing_field", "a0"),
        ({name: value for name, value in GAP.items() if name != "a3"}, "missing_field", "a3"),
        (ROWS[1] | {"start": None}, "missing_field", "start"),
        (ROWS[1] | {"start": "soon"}, "wrong_number", "start"),
        (ROWS[2] | {"spans": [1, 2]}, "wrong_type", "spans"),
        (ROWS[2] | {"duration": float("nan")}, "wrong_number", "duration"),
        (ROWS[0] | {"split": 7, "question": []}, "wrong_type", "question"),
    ],
)
def test_a_bad_line_refuses_itself_alone(tmp_path: Path, row: Any, code: str, field: str) -> None:
    split = "7" if isinstance(row, dict) and "split" in row else "val"
    table, anomalies = read(
        "table", jsonl(tmp_path, [row, {"video_id": "z", "question": "who", "question_id": "good"}]), split
    )
    assert table["question_id"].to_pylist() == ["good"]
    assert [(anomaly.code, anomaly.line, anomaly.field) for anomaly in anomalies.errors] == [(code, 1, field)]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("x")
    with pytest.raises(AnnotationError, match=r"a table of questions must be a \.csv, \.jsonl or \.parquet file"):
        read_annotations("table", tmp_path / "val.txt", split="val")
    (tmp_path / "val.parquet").write_bytes(b"PAR1 no")
    _, anomalies = read("table", tmp_path / "val.parquet")
    assert [anomaly.code for anomaly in anomalies.errors] == ["malformed_parquet"]
