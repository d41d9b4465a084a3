"""NExT-GQA: rows quoted from the published files, what is noted, and what refuses a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parsers.annotations import AnnotationError, read_annotations
from tests._helpers.annotation_files import GSUB, NEXT_HEADER, NEXT_ROWS, brief, next_csv, next_row, read


def test_quoted_rows(tmp_path: Path) -> None:
    table, anomalies = read("nextgqa", next_csv(tmp_path))
    assert anomalies == []
    first, second = table.to_pylist()
    assert (first["question_id"], first["answer"], first["answer_index"]) == ("4882821564_1", "unwrap it", 2)
    assert (first["duration"], first["fps"], first["frame_count"]) == (90.0, 29.97, 2697)
    assert second["spans"] == [[1.0, 5.6], [8.4, 11.0]]
    assert second["options"][-1] == "give him the watch strap"


def test_a_folder_is_read_by_its_official_names(tmp_path: Path) -> None:
    next_csv(tmp_path)
    assert read("nextgqa", tmp_path)[0].num_rows == 2
    with pytest.raises(AnnotationError, match=r"holds no test\.csv; name the file"):
        read_annotations("nextgqa", tmp_path, split="test")


def test_answers_that_look_missing_stay_text(tmp_path: Path) -> None:
    row = next_row(answer="None", a0="None", a1="NA", a2="nan", a3="")
    table, anomalies = read("nextgqa", next_csv(tmp_path, [row.replace(",,", ",null,"), NEXT_ROWS[1]]))
    assert anomalies == []
    assert table["options"][0].as_py()[:4] == ["None", "NA", "nan", "null"]
    assert table["answer"][0].as_py() == "None"


def test_next_qa_s_own_csv_has_indices_and_another_first_column(tmp_path: Path) -> None:
    rows = [next_row(0, answer="2"), next_row(1, answer="4", a0="2")]
    path = next_csv(tmp_path, rows, gsub=None, split="train")
    path.write_text(path.read_text().replace("video_id", "video", 1))
    table, anomalies = read("nextgqa", path, "train")
    assert anomalies == []  # training questions have no spans to miss
    assert table["answer"].to_pylist() == ["unwrap it", "give him the watch strap"]
    assert table["answer_index"].to_pylist() == [2, 4]
    assert table["spans"].to_pylist() == [[], []]


def test_a_counted_answer_is_text_where_answers_are_texts(tmp_path: Path) -> None:
    rows = [next_row(0, answer="2", a0="1", a1="2"), next_row(1)]
    table, _ = read("nextgqa", next_csv(tmp_path, rows))
    assert table["answer_index"].to_pylist() == [1, 2]


def test_a_leading_index_column_is_ignored(tmp_path: Path) -> None:
    path = next_csv(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f",{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))]))
    assert read("nextgqa", path)[0].num_rows == 2


def test_ambiguous_answer_takes_the_first_option(tmp_path: Path) -> None:
    table, anomalies = read("nextgqa", next_csv(tmp_path, [next_row(answer="happy", a3="happy", a4="happy")]))
    assert table["answer_index"].to_pylist() == [3]  # as the published trainer does; NExT-QA's own index is 4
    assert table["flags"].to_pylist() == [["duplicate_option", "ambiguous_answer"]]
    assert brief(anomalies.notes)[1] == ("ambiguous_answer", 2, "4882821564_1", "answer")


def test_notes_keep_their_rows(tmp_path: Path) -> None:
    gsub = json.loads(json.dumps(GSUB))
    gsub["4882821564"]["location"]["1"] = [[13.8, 90.3]]
    gsub["4882821564"]["location"]["9"] = [[1, 2]]
    gsub["3333"] = {"duration": 5, "location": {}, "fps": 30}
    table, anomalies = read("nextgqa", next_csv(tmp_path, [next_row(question="Why is it ？ "), NEXT_ROWS[1]], gsub))
    assert anomalies.errors == []
    assert table["question"][0].as_py() == "Why is it ?"
    assert table["flags"][0].as_py() == ["span_after_duration", "trailing_blank", "full_width_mark", "upper_case"]
    assert brief(anomalies.notes)[-2:] == [
        ("unused_span", 1, "4882821564", "location"),
        ("empty_location", 1, "3333", "location"),
    ]


def test_videos_missing_from_the_optional_files_are_noted(tmp_path: Path) -> None:
    path = next_csv(tmp_path)
    (tmp_path / "frame2time_val.json").write_text(json.dumps({"4882821564": [0.2] * 32}))
    (tmp_path.parent / "map_vid_vidorID.json").write_text(json.dumps({"2435100235": "0101/2435100235"}))
    table, anomalies = read("nextgqa", path)
    (tmp_path.parent / "map_vid_vidorID.json").unlink()
    assert table.num_rows == 2
    assert [(note.code, note.key) for note in anomalies] == [
        ("not_in_frame2time", "2435100235"),
        ("not_in_video_map", "4882821564"),
    ]


def test_a_split_without_its_spans_file_is_noted(tmp_path: Path) -> None:
    table, anomalies = read("nextgqa", next_csv(tmp_path, gsub=None))
    assert [note.code for note in anomalies] == ["no_spans_file"]
    assert table["duration"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"answer": "run away"}, "answer_not_in_options", "answer"),
        ({"answer": ""}, "empty_text", "answer"),
        ({"question": " "}, "empty_text", "question"),
        ({"question": "q" * 20_000}, "too_long", "question"),
        ({"question": "why\0"}, "nul_byte", "question"),
        ({"a1": ""}, "empty_text", "a1"),
        ({"type": ""}, "empty_text", "type"),
        ({"video_id": "9" * 513}, "key_too_long", "video_id"),
        ({"video_id": ""}, "empty_text", "video_id"),
        ({"video_id": "é" * 255 + "xx", "qid": "11"}, "key_too_long", "qid"),
        ({"frame_count": "many"}, "wrong_number", "frame_count"),
        ({"frame_count": "-3"}, "negative_number", "frame_count"),
        ({"width": "6.5"}, "wrong_number", "width"),
        ({"height": "1e12"}, "wrong_number", "height"),
        ({"height": "inf"}, "wrong_number", "height"),
        ({"video_id": "777"}, "no_spans", "location"),
        ({"qid": "14"}, "no_spans", "location"),
    ],
)
def test_a_bad_cell_refuses_its_row_alone(tmp_path: Path, changes: dict[str, str], code: str, field: str) -> None:
    table, anomalies = read("nextgqa", next_csv(tmp_path, [next_row(0, **changes), NEXT_ROWS[1]]))
    assert table["question_id"].to_pylist() == ["2435100235_7"]
    assert table["row"].to_pylist() == [1]
    assert [(anomaly.code, anomaly.field) for anomaly in anomalies.errors] == [(code, field)]
    assert anomalies.errors[0].line in (1, 2)  # 1: the line in the spans' file
    assert len(str(anomalies.errors[0])) < 1500


@pytest.mark.parametrize(
    ("entry", "code", "field"),
    [
        ({"duration": 90, "location": {"1": [[29.8, 13.8]]}, "fps": 30}, "reversed_span", "location.1"),
        ({"duration": -90, "location": {"1": [[1, 2]]}, "fps": 30}, "negative_number", "duration"),
        ({"duration": 90, "location": {"1": [[float("-inf"), 2]]}, "fps": 30}, "wrong_number", "location.1"),
        ({"duration": 90, "location": {"1": [["1", 13.8]]}, "fps": 30}, "wrong_number", "location.1"),
        ({"duration": 90, "location": {"1": [[True, 13.8]]}, "fps": 30}, "wrong_number", "location.1"),
        ({"duration": 90, "location": {"1": [[1, 2, 3]]}, "fps": 30}, "wrong_type", "location.1"),
        ({"duration": 90, "location": {"1": "1-2"}, "fps": 30}, "wrong_type", "location.1"),
        ({"duration": 90, "location": {"1": []}, "fps": 30}, "no_spans", "location.1"),
        ({"duration": float("nan"), "location": {"1": [[1, 2]]}, "fps": 30}, "wrong_number", "duration"),
        ({"duration": 10**400, "location": {"1": [[1, 2]]}, "fps": 30}, "wrong_number", "duration"),
        ({"duration": 90, "location": {"1": [[1, 2]]}, "fps": float("inf")}, "wrong_number", "fps"),
        ({"duration": 90, "location": {"1": [[1, 2]]}, "fps": 0}, "wrong_number", "fps"),
        ({"duration": 90, "location": {"1": [[1, 2]]}}, "missing_field", "fps"),
        ({"duration": 90, "location": [], "fps": 30}, "wrong_type", "location"),
        ([], "wrong_type", "location"),
    ],
)
def test_a_bad_span_refuses_its_row_and_names_the_spans_file(
    tmp_path: Path, entry: object, code: str, field: str
) -> None:
    gsub = "{\n" + ",\n".join(
        f'"{video}": {json.dumps(value)}' for video, value in (GSUB | {"4882821564": entry}).items()
    )
    table, anomalies = read("nextgqa", next_csv(tmp_path, gsub=gsub + "}"))
    assert table["question_id"].to_pylist() == ["2435100235_7"]
    assert brief(anomalies.errors) == [(code, 2, "4882821564_1", field)]
    assert anomalies.errors[0].file.endswith("gsub_val.json")


@pytest.mark.parametrize("span", [[-0.2, 11], [-3, -1], [-1e6, 0]])
def test_a_span_before_the_start_keeps_its_row_and_its_numbers(tmp_path: Path, span: list[float]) -> None:
    gsub = GSUB | {"4882821564": {"duration": 90, "location": {"1": [span, [13.8, 29.8]]}, "fps": 30}}
    table, anomalies = read("nextgqa", next_csv(tmp_path, gsub=gsub))
    assert table["spans"][0].as_py() == [span, [13.8, 29.8]]
    assert brief(anomalies) == [("span_before_start", 2, "4882821564_1", "location.1")]
    assert table["flags"].to_pylist() == [["span_before_start"], []]


def test_test_questions_may_hide_their_answers_as_cells_or_as_the_column(tmp_path: Path) -> None:
    empty = next_csv(tmp_path, [next_row(0, answer=""), next_row(1, answer=" ")], split="test")
    table, anomalies = read("nextgqa", empty, "test")
    assert anomalies == []
    lines = [line.split(",") for line in empty.read_text().splitlines()]
    answer = lines[0].index("answer")
    empty.write_text("\n".join(",".join(cells[:answer] + cells[answer + 1 :]) for cells in lines))
    without, anomalies = read("nextgqa", empty, "test")
    assert anomalies == []
    assert without.equals(table)
    assert table["answer"].to_pylist() == table["answer_index"].to_pylist() == [None, None]
    assert table["options"][0].as_py()[2] == "unwrap it"
    _, anomalies = read("nextgqa", empty.rename(tmp_path / "val.csv"), "val")
    assert [(anomaly.code, anomaly.field) for anomaly in anomalies.errors] == [("wrong_header", "answer")]


def test_some_hidden_answers_leave_the_others_indices(tmp_path: Path) -> None:
    rows = [next_row(0, answer=""), next_row(1, answer="2 ")]
    table, anomalies = read("nextgqa", next_csv(tmp_path, rows, split="test"), "test")
    assert anomalies.errors == []
    assert table["answer"].to_pylist() == [None, "show him the watch"]
    assert table["answer_index"].to_pylist() == [None, 2]


def test_blanks_and_unseen_characters_around_texts_and_ids_are_stripped(tmp_path: Path) -> None:
    nbsp, feff, zwsp = "\u00a0", "\ufeff", "\u200b"
    row = next_row(
        0,
        video_id=f"{feff}4882821564 ",
        qid=f" 1{zwsp}",
        question=f"{nbsp} why did he go{nbsp}",
        answer="unwrap it",
        a2=f"{zwsp}unwrap it",
        type=" CW",
    )
    table, anomalies = read("nextgqa", next_csv(tmp_path, [row, NEXT_ROWS[1]]))
    assert anomalies.errors == []
    first = table.to_pylist()[0]
    assert (first["question_id"], first["video_id"]) == ("4882821564_1", "4882821564")
    assert (first["question"], first["answer_index"], first["type"]) == ("why did he go", 2, "CW")
    assert first["flags"] == ["leading_blank", "trailing_blank"]
    assert {(note.code, note.field) for note in anomalies} == {
        ("leading_blank", "video_id"),
        ("trailing_blank", "video_id"),
        ("leading_blank", "qid"),
        ("trailing_blank", "qid"),
        ("leading_blank", "question"),
        ("trailing_blank", "question"),
        ("leading_blank", "a2"),
        ("leading_blank", "type"),
    }


def test_ids_in_the_spans_file_have_no_blanks_around_them_either(tmp_path: Path) -> None:
    gsub = {"4882821564 ": {"duration": 90, "location": {" 1": [[1, 2]]}, "fps": 30}, "2435100235": GSUB["2435100235"]}
    table, anomalies = read("nextgqa", next_csv(tmp_path, gsub=gsub))
    assert anomalies == []
    assert table["spans"][0].as_py() == [[1.0, 2.0]]


def test_a_format_character_inside_a_text_is_kept_and_noted(tmp_path: Path) -> None:
    rows = [next_row(0, question="why foot\u00adball"), next_row(1, question="why \U0001f468\u200d\U0001f469")]
    table, anomalies = read("nextgqa", next_csv(tmp_path, rows))
    assert table["question"][0].as_py() == "why foot\u00adball"
    assert brief(anomalies) == [("format_character", 2, "4882821564_1", "question")]
    assert "U+00AD" in anomalies[0].message


def test_a_column_of_options_that_is_missing_refuses_the_rows(tmp_path: Path) -> None:
    path = next_csv(tmp_path)
    path.write_text(path.read_text().replace(",a3,", ",other,", 1))
    table, anomalies = read("nextgqa", path)
    assert table.num_rows == 0
    assert brief(anomalies.errors)[0] == ("missing_field", 2, "4882821564_1", "a3")


def test_an_end_at_the_start_is_noted(tmp_path: Path) -> None:
    gsub = GSUB | {"4882821564": {"duration": 90, "location": {"1": [[3.0, 3.0]]}, "fps": 30}}
    table, _ = read("nextgqa", next_csv(tmp_path, gsub=gsub))
    assert table["flags"].to_pylist() == [["empty_span"], []]


def test_repeated_ids_and_broken_lines(tmp_path: Path) -> None:
    rows = [
        NEXT_ROWS[0],
        "1,2,3",
        NEXT_ROWS[0],
        '"unfinished,' + NEXT_ROWS[1],
        'x"y"z,"a"b,',
        '"two\nlines"' + NEXT_ROWS[1][10:],
        "",
        NEXT_ROWS[1],
    ]
    table, anomalies = read("nextgqa", next_csv(tmp_path, rows))
    assert table["question_id"].to_pylist() == ["4882821564_1", "2435100235_7"]
    assert brief(anomalies.errors) == [
        ("wrong_columns", 3, "", ""),
        ("duplicate_question_id", 4, "4882821564_1", "qid"),
        ("malformed_csv", 5, "", ""),
        ("malformed_csv", 6, "", ""),
        ("no_spans", 7, "two\\nlines_7", "location"),
    ]
    assert "line 2" in anomalies.errors[1].message


def test_bytes_that_are_not_utf8_refuse_their_row_alone(tmp_path: Path) -> None:
    path = next_csv(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"share with", b"sh\xffre with"))
    table, anomalies = read("nextgqa", path)
    assert table.num_rows == 1
    assert brief(anomalies.errors) == [("not_utf8", 2, "4882821564_1", "a0")]


def test_a_ten_megabyte_question(tmp_path: Path) -> None:
    table, anomalies = read("nextgqa", next_csv(tmp_path, [next_row(0, question="why " * 2_500_000), NEXT_ROWS[1]]))
    assert table["question_id"].to_pylist() == ["2435100235_7"]
    assert [(anomaly.code, anomaly.line, anomaly.field) for anomaly in anomalies.errors] == [
        ("too_long", 2, "question")
    ]


@pytest.mark.parametrize("cut", ["head", "tail"])
def test_spans_file_that_is_cut_off(tmp_path: Path, cut: str) -> None:
    whole = json.dumps(GSUB)
    table, anomalies = read("nextgqa", next_csv(tmp_path, gsub=whole[:-9] if cut == "tail" else whole[1:]))
    kept = ["4882821564_1"] if cut == "tail" else []
    assert table["question_id"].to_pylist() == kept
    assert anomalies.errors[0].file.endswith("gsub_val.json")
    assert [anomaly.code for anomaly in anomalies.errors[1:]] == ["no_spans"] * (2 - len(kept))


@pytest.mark.parametrize(
    ("header", "code", "field"),
    [
        ("", "empty_file", ""),
        (",".join(NEXT_HEADER).replace("question", "text"), "wrong_header", "question"),
        (",".join(NEXT_HEADER).replace("a1", "a0"), "wrong_header", "a0"),
        ('"', "malformed_csv", ""),
    ],
)
def test_a_header_that_cannot_be_used_is_an_error(tmp_path: Path, header: str, code: str, field: str) -> None:
    path = next_csv(tmp_path)
    path.write_text(header)
    table, anomalies = read("nextgqa", path)
    assert table.num_rows == 0
    assert [(anomaly.code, anomaly.field) for anomaly in anomalies.errors] == [(code, field)]


def test_without_a_list_of_anomalies_a_wrong_row_refuses_the_file(tmp_path: Path) -> None:
    path = next_csv(tmp_path, [next_row(0, answer="run"), next_row(1, answer="run")])
    with pytest.raises(AnnotationError, match=r"line 2: '4882821564_1': field 'answer': .*and 1 more"):
        read_annotations("nextgqa", path, split="val")


@pytest.mark.parametrize(
    ("format", "split", "dataset", "message"),
    [
        ("nextgq", "val", None, "did you mean 'nextgqa'"),
        ("nextgqa", "../val", None, "split"),
        ("nextgqa", "val", "a/b", "dataset"),
    ],
)
def test_a_name_that_is_not_valid_is_refused(
    tmp_path: Path, format: str, split: str, dataset: str | None, message: str
) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_annotations(format, next_csv(tmp_path), split=split, dataset=dataset)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no such file or folder") as caught:
        read_annotations("star", tmp_path / "none.json", split="val")
    assert "\n" not in str(caught.value)
