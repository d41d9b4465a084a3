"""Reading files: the line of a row, going on after a broken row, and any bytes at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.annotations import FORMATS, QUESTIONS, AnnotationError, Anomalies, read_annotations
from tests._helpers.annotation_files import GSUB, MUSIC_ROW, NEXT_HEADER, NEXT_ROWS, STAR_ROW, brief, json_array, read


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_lines_of_array_elements(tmp_path: Path, indent: int | None) -> None:
    rows = [MUSIC_ROW | {"question_id": i, "anser": "yes" if i != 2 else "eleven"} for i in range(4)]
    text = json.dumps(rows, indent=indent)
    path = tmp_path / "avqa-val.json"
    path.write_text(text)
    _, anomalies = read("music_avqa", path)
    wrong = text.index("eleven")
    opens = text.rindex("{", 0, wrong)
    assert [anomaly.line for anomaly in anomalies.errors] == [text.count("\n", 0, opens) + 1]


def test_reading_goes_on_after_a_malformed_element(tmp_path: Path) -> None:
    rows = [STAR_ROW | {"question_id": f"Interaction_T1_{i}"} for i in range(4)]
    lines = json.dumps(rows, indent=2).splitlines()
    broken = next(i for i, line in enumerate(lines) if "Interaction_T1_1" in line)
    lines[broken] = lines[broken].replace(",", ";")
    (tmp_path / "STAR_val.json").write_text("\n".join(lines))
    table, anomalies = read("star", tmp_path)
    assert table["question_id"].to_pylist() == [f"Interaction_T1_{i}" for i in (0, 2, 3)]
    assert table["row"].to_pylist() == [0, 2, 3]
    assert [(anomaly.code, anomaly.line) for anomaly in anomalies] == [
        ("malformed_json", broken)
    ]  # the brace, one line above
    assert f"line {broken + 2}" in anomalies[0].message or f"line {broken + 1}" in anomalies[0].message


def test_an_array_on_one_line_ends_at_a_malformed_element(tmp_path: Path) -> None:
    text = json.dumps([MUSIC_ROW, MUSIC_ROW | {"question_id": 8}, MUSIC_ROW | {"question_id": 9}])
    path = tmp_path / "avqa-val.json"
    path.write_text(text.replace('"question_id": 8', '"question_id" 8'))
    table, anomalies = read("music_avqa", path)
    assert table["question_id"].to_pylist() == ["7"]
    assert [anomaly.code for anomaly in anomalies] == ["malformed_json"] * 2


@pytest.mark.parametrize(
    ("text", "code", "rows"),
    [
        ("", "empty_file", 0),
        ("{}", "wrong_type", 0),
        ("[]", None, 0),
        ("[1]", "wrong_type", 0),
        (json.dumps([MUSIC_ROW])[:-1], "malformed_json", 1),
        (json.dumps([MUSIC_ROW])[:-1] + ",]", "malformed_json", 1),
        (json.dumps([MUSIC_ROW])[:-1] + " x]", "malformed_json", 1),
        (json.dumps([MUSIC_ROW]) + "\n[]", "malformed_json", 1),
        (json.dumps([MUSIC_ROW]) + " \n", None, 1),
        ("\ufeff" + json.dumps([MUSIC_ROW]), None, 1),
    ],
)
def test_whole_files(tmp_path: Path, text: str, code: str | None, rows: int) -> None:
    path = tmp_path / "avqa-val.json"
    path.write_text(text)
    table, anomalies = read("music_avqa", path)
    assert table.num_rows == rows
    assert [anomaly.code for anomaly in anomalies] == ([code] if code else [])


def test_every_error_names_file_line_and_field_in_one_line(tmp_path: Path) -> None:
    rows = [MUSIC_ROW | {"anser": "x\ny\x1b[31m\ud800"}, MUSIC_ROW | {"video_id": ""}]
    path = json_array(tmp_path, rows, "avqa-val.json")
    _, anomalies = read("music_avqa", path)
    assert brief(anomalies) == [("not_utf8", 2, "7", "anser"), ("empty_text", 3, "7", "video_id")]
    for anomaly in anomalies:
        assert str(anomaly).startswith(f"{path}: line {anomaly.line}: '7': field ")
        assert str(anomaly).isprintable()
        str(anomaly).encode()


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def _changed(row: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    changes = st.dictionaries(st.sampled_from(sorted(row)), _values, max_size=3)
    return st.tuples(changes, st.sets(st.sampled_from(sorted(row)), max_size=1)).map(
        lambda pair: {key: value for key, value in (row | pair[0]).items() if key not in pair[1]}
    )


def _survives(format: str, files: dict[str, bytes], name: str) -> None:
    """Whatever the bytes, reading gives a table of the schema and printable anomalies, or one AnnotationError."""
    with tempfile.TemporaryDirectory() as folder:
        for file_name, data in files.items():
            (Path(folder) / file_name).write_bytes(data)
        anomalies = Anomalies()
        try:
            table = read_annotations(format, Path(folder) / name, split="val", anomalies=anomalies)
        except AnnotationError as error:
            assert "\n" not in str(error)
            return
        assert table.schema == QUESTIONS
        table.validate(full=True)
        assert all(anomaly.kind in ("note", "error") and str(anomaly).isprintable() for anomaly in anomalies)


_quick = settings(max_examples=60)


@_quick
@given(
    format=st.sampled_from(list(FORMATS)),
    data=st.binary(max_size=200),
    suffix=st.sampled_from((".csv", ".json", ".jsonl", ".parquet")),
)
def test_any_bytes(format: str, data: bytes, suffix: str) -> None:
    _survives(format, {f"val{suffix}": data}, f"val{suffix}")


@_quick
@given(rows=st.lists(_changed(MUSIC_ROW), max_size=4))
def test_any_music_rows(rows: list[dict[str, Any]]) -> None:
    _survives("music_avqa", {"avqa-val.json": json.dumps(rows).encode()}, "avqa-val.json")


@_quick
@given(rows=st.lists(_changed(STAR_ROW), max_size=4))
def test_any_star_rows(rows: list[dict[str, Any]]) -> None:
    _survives("star", {"STAR_val.json": json.dumps(rows).encode()}, "STAR_val.json")


@_quick
@given(
    rows=st.lists(
        _changed({"video_id": "a", "question": "b", "options": ["c"], "answer": "c", "spans": [[1, 2]], "a0": "c"})
    )
)
def test_any_table_rows(rows: list[dict[str, Any]]) -> None:
    _survives("table", {"val.jsonl": "\n".join(map(json.dumps, rows)).encode()}, "val.jsonl")


@_quick
@given(
    entry=_changed(GSUB["4882821564"]),
    location=_values,
    cells=st.lists(st.text(max_size=6), min_size=13, max_size=13),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
)
def test_any_csv_and_spans(entry: dict[str, Any], location: Any, cells: list[str], at: int, byte: int) -> None:
    gsub = GSUB | {"4882821564": entry, "2435100235": {"duration": 3, "fps": 1, "location": {"7": location}}}
    text = "\n".join([",".join(NEXT_HEADER), *NEXT_ROWS, ",".join(cells)]).encode("utf-8", "surrogatepass")
    flipped = bytearray(text)
    flipped[at] = byte
    _survives("nextgqa", {"val.csv": bytes(flipped), "gsub_val.json": json.dumps(gsub).encode()}, "val.csv")
