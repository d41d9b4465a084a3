"""Video question answering: rows quoted from the published files, and what refuses a row or is noted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from parsers.annotations import AnnotationError
from parsers.annotations.tgif_qa import is_held_out
from tests._helpers.annotation_files import brief, json_array, next_csv, next_row, read

MSVD_ROWS: list[dict[str, Any]] = [
    {
        "answer": "someone",
        "id": 30933,
        "question": "who pours liquid from a plastic container into a ziploc bag containing meat pieces?",
        "video_id": 1201,
    },
    {
        "answer": "someone",
        "id": 37348,
        "question": "who opened the box that held an automatic weapon in a gun?",
        "video_id": 1451,
    },
]
COUNT_HEADER = "gif_name\tquestion\tanswer\tvid_id\tkey"
COUNT_ROWS = [
    "tumblr_nezfs4uELd1u1a7cmo1_250\tHow many times does the man adjust waistband ?\t3\tCOUNT12\t52",
    "tumblr_nqfhegeUAz1uz0hico1_250\tHow many times does the man rub his hand ?\t3\tCOUNT18\t70",
    "tumblr_njabihiB4w1tuh8exo1_400\tHow many times does the woman swing her arm ?\t2\tCOUNT20\t77",
]
ACTION_HEADER = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey"
ACTION_ROW = (
    "tumblr_nezfs4uELd1u1a7cmo1_250\tWhat does the man do 3 times ?\tstep like a goose\treact to hands\t"
    "making face face\tadjust waistband\tsway microphone left and right\t3\tACTION12\t52"
)
FRAME_HEADER = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription"
FRAME_ROW = (
    "tumblr_no73q2fm0I1uuf348o1_250\twhat is being placed in the white ice cream cone ?\tcookie\t0\tFRAMEQA1159\t"
    "27138\ta chocolate cookie is placed in the cone"
)
INTENT_HEADER = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4,action,lemma,lemma_id"
INTENT_ROW = (
    "13884124143,853,640,360,"
    "how did the guy on the board managed to not fall off from the board at the start of the video,4,1,CH,"
    "jump,nod,push the chair away,playing the piano,move left right to balance,left,leave,130"
)
NEXT_ROW = (
    "4010069381,369,640,480,how do the two man play the instrument,0,6,CH,"
    "roll the handle,tap their feet,strum the string,hit with sticks,pat with hand"
)


def lines(folder: Path, name: str, *rows: str) -> Path:
    path = folder / name
    path.write_text("\n".join(rows) + "\n")
    return path


def activitynet(folder: Path, questions: Sequence[Mapping[str, Any]], answers: Sequence[Any], split: str) -> Path:
    (folder / f"{split}_a.json").write_text(json.dumps(answers))
    (folder / f"{split}_q.json").write_text(json.dumps(questions))
    return folder / f"{split}_q.json"


def asked(number: int = 2, **changes: Any) -> dict[str, Any]:
    name = "TIEzvhv6xaI"
    text = "is the no.3 athlete playing indoor"
    return {"video_name": name, "question": text, "question_id": f"v_{name}_{number}", **changes}


def answered(number: int = 2, **changes: Any) -> dict[str, Any]:
    return {"answer": "yes", "type": 3, "question_id": f"v_TIEzvhv6xaI_{number}", **changes}


def test_msvd_rows_name_the_files_of_their_videos(tmp_path: Path) -> None:
    path = json_array(tmp_path, MSVD_ROWS, "val_qa.json")
    lines(tmp_path, "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1201", "0hyZ__3YhZc_598_603 vid1451")
    table, anomalies = read("msvd_qa", tmp_path)
    assert anomalies == []
    assert table["question_id"].to_pylist() == ["30933", "37348"]
    assert table["video_id"].to_pylist() == ["-4wsuPCjDBc_5_15", "0hyZ__3YhZc_598_603"]
    assert (table["type"].to_pylist(), table["answer"].to_pylist()) == (["who", "who"], ["someone", "someone"])
    assert table["dataset"].to_pylist() == ["msvd_qa"] * 2
    lines(tmp_path, "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1201", "broken")
    table, anomalies = read("msvd_qa", path)
    assert table["question_id"].to_pylist() == ["30933"]
    assert [(error.code, error.line, error.field) for error in anomalies.errors] == [
        ("malformed_line", 2, ""),
        ("no_video", 3, "video_id"),
    ]


@pytest.mark.parametrize(
    ("line", "code"), [("other_1_2 vid1201", "repeated_video"), (f"other_1_2 vid{'1' * 5000}", "malformed_line")]
)
def test_bad_lines_of_the_mapping_are_named(tmp_path: Path, line: str, code: str) -> None:
    mapping = lines(tmp_path, "youtube_mapping.txt", "a\u2028_0_1 vid7", "first_1_2 vid1201", line, "x_1_2 vid01451")
    table, anomalies = read("msvd_qa", json_array(tmp_path, MSVD_ROWS, "val_qa.json"), "val")
    assert table["video_id"].to_pylist() == ["first_1_2", "x_1_2"]
    assert [(error.code, error.file, error.line) for error in anomalies.errors] == [
        ("malformed_line", str(mapping), 1),
        (code, str(mapping), 3),
    ]


def test_msvd_without_the_mapping_is_noted(tmp_path: Path) -> None:
    table, anomalies = read("msvd_qa", json_array(tmp_path, MSVD_ROWS, "val_qa.json"))
    assert table["video_id"].to_pylist() == ["vid1201", "vid1451"]
    assert [(note.kind, note.code) for note in anomalies] == [("note", "no_video_map")]


def test_msrvtt_in_both_forms(tmp_path: Path) -> None:
    """The csv of HQGA has the same rows without question marks; ``coversation`` is misspelt in the source."""
    row = {
        "answer": "couch",
        "category_id": 14,
        "id": 158581,
        "question": "what are three people sitting on?",
        "video_id": 6513,
    }
    padded, _ = read("msrvtt_qa", json_array(tmp_path, [{**row, "video_id": "06513"}], "val_qa.json"))
    original, anomalies = read("msrvtt_qa", json_array(tmp_path, [row], "val_qa.json"))
    assert anomalies == []
    assert padded["video_id"].to_pylist() == original["video_id"].to_pylist() == ["video6513"]
    csv = lines(
        tmp_path,
        "val.csv",
        "video,question,answer,qid,type",
        "6513,what are three people sitting on,couch,158581,14",
        "6513,what is a family having,coversation,158582,14",
    )
    table, anomalies = read("msrvtt_qa", csv)
    assert anomalies == []
    for one in (original, table):
        assert one["question_id"][0].as_py() == "158581" and one["video_id"][0].as_py() == "video6513"
        assert one["type"][0].as_py() == "what"
    assert table["answer"].to_pylist() == ["couch", "coversation"]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"video_id": "v7"}, "wrong_id", "video_id"),
        ({"video_id": -1}, "wrong_id", "video_id"),
        ({"video_id": None}, "missing_field", "video_id"),
        ({"answer": ""}, "empty_text", "answer"),
        ({"answer": 3}, "wrong_type", "answer"),
        ({"id": 37348}, "duplicate_question_id", "id"),
    ],
)
def test_a_bad_row_of_msvd_is_refused_alone(tmp_path: Path, changes: dict[str, Any], code: str, field: str) -> None:
    path = json_array(tmp_path, [MSVD_ROWS[1], MSVD_ROWS[0] | changes], "val_qa.json")
    table, anomalies = read("msrvtt_qa", path)
    assert [(error.code, error.line, error.field) for error in anomalies.errors] == [(code, 3, field)]
    assert table.num_rows == 1


def test_a_key_that_the_files_lack_is_noted_once(tmp_path: Path) -> None:
    rows = [row | {"b_new": 1, "a_new": 2} for row in MSVD_ROWS]
    _, anomalies = read("msrvtt_qa", json_array(tmp_path, rows, "val_qa.json"))
    assert [(note.code, note.line, note.field, note.message[:6]) for note in anomalies] == [
        ("extra_key", 2, "b_new", "2 rows"),  # in the order of the file
        ("extra_key", 2, "a_new", "2 rows"),
    ]


def test_activitynet_joins_questions_and_answers(tmp_path: Path) -> None:
    path = activitynet(tmp_path, [asked(2), asked(3)], [answered(3, answer="2", type=7), answered(2)], "val")
    table, anomalies = read("activitynet_qa", path)
    assert anomalies.errors == []
    assert [(note.code, note.message[:9]) for note in anomalies] == [("other_order", "2 answers")]
    assert table["video_id"].to_pylist() == ["v_TIEzvhv6xaI"] * 2
    assert table["answer"].to_pylist() == ["yes", "2"]
    assert table["type"].to_pylist() == ["Yes/No", "Number"]


def test_activitynet_answers_that_are_wrong_or_lost(tmp_path: Path) -> None:
    answers = [answered(2, type=9), answered(3), answered(3), answered(8), {"answer": "yes", "type": 3}, 7]
    table, anomalies = read("activitynet_qa", activitynet(tmp_path, [asked(2), asked(3), asked(4)], answers, "val"))
    assert table["question_id"].to_pylist() == ["v_TIEzvhv6xaI_3"]
    assert [(error.code, Path(error.file).name, error.field) for error in anomalies.errors] == [
        ("duplicate_question_id", "val_a.json", "question_id"),
        ("missing_field", "val_a.json", "question_id"),
        ("wrong_type", "val_a.json", ""),
        ("unknown_type", "val_a.json", "type"),
        ("no_answer", "val_a.json", "question_id"),
    ]
    assert [note.code for note in anomalies.notes] == ["unused_answer"]


def test_activitynet_needs_its_answers_except_in_a_test_split(tmp_path: Path) -> None:
    for split in ("val", "test"):
        (tmp_path / f"{split}_q.json").write_text(json.dumps([asked()]))
    with pytest.raises(AnnotationError, match=r"val_a\.json: no such file"):
        read("activitynet_qa", tmp_path)
    table, anomalies = read("activitynet_qa", tmp_path, "test")
    assert table["answer"].to_pylist() == [None] and [note.code for note in anomalies] == ["no_answers_file"]
    (tmp_path / "val_a.json").write_text(json.dumps([answered()]))
    with pytest.raises(AnnotationError, match="name the file of questions"):
        read("activitynet_qa", tmp_path / "val_a.json")


def test_tgif_tasks(tmp_path: Path) -> None:
    lines(tmp_path, "Test_count_question.csv", COUNT_HEADER, *COUNT_ROWS)
    lines(tmp_path, "Test_action_question.csv", ACTION_HEADER, ACTION_ROW)
    lines(tmp_path, "Test_transition_question.csv", ACTION_HEADER, ACTION_ROW)
    lines(tmp_path, "Test_frameqa_question.csv", FRAME_HEADER, FRAME_ROW)
    table, anomalies = read("tgif_count", tmp_path, "test")
    assert anomalies == []
    assert (table["question_id"].to_pylist(), table["answer"].to_pylist()) == (
        ["COUNT12", "COUNT18", "COUNT20"],
        ["3", "3", "2"],
    )
    assert table["video_id"][0].as_py() == "tumblr_nezfs4uELd1u1a7cmo1_250"
    (action,) = read("tgif_action", tmp_path, "test")[0].to_pylist()
    assert (action["answer"], action["answer_index"], len(action["options"])) == ("adjust waistband", 3, 5)
    assert (action["type"], action["dataset"], action["question_id"]) == ("action", "tgif_action", "ACTION12")
    assert read("tgif_transition", tmp_path, "test")[0]["type"].to_pylist() == ["transition"]
    (frame,) = read("tgif_frameqa", tmp_path, "test")[0].to_pylist()
    assert (frame["answer"], frame["type"], frame["options"]) == ("cookie", "object", [])
    assert not any("chocolate" in str(value) for value in frame.values())  # the description gives the answer away


def test_tgif_holds_out_a_tenth_of_the_training_gifs(tmp_path: Path) -> None:
    rows = [f"gif{number % 400}\tHow many times ?\t{number % 11}\tCOUNT{number}\t{number}" for number in range(800)]
    lines(tmp_path, "Train_count_question.csv", COUNT_HEADER, *rows)
    parts = {split: read("tgif_count", tmp_path, split) for split in ("train", "val", "trainval")}
    gifs = {split: set(table["video_id"].to_pylist()) for split, (table, _) in parts.items()}
    assert not gifs["train"] & gifs["val"] and gifs["train"] | gifs["val"] == gifs["trainval"]
    assert gifs["val"] == {gif for gif in gifs["trainval"] if is_held_out(gif)}
    assert 20 <= len(gifs["val"]) <= 60
    assert [table.num_rows for table, _ in parts.values()] == [800 - 2 * len(gifs["val"]), 2 * len(gifs["val"]), 800]
    assert [[note.code for note in notes] for _, notes in parts.values()] == [["other_split"], ["other_split"], []]


@pytest.mark.parametrize(
    ("format", "header", "row", "code", "field"),
    [
        ("tgif_count", COUNT_HEADER, COUNT_ROWS[0].replace("\t3\t", "\tthree\t"), "wrong_number", "answer"),
        ("tgif_count", COUNT_HEADER, COUNT_ROWS[0].replace("\t3\t", "\t\t"), "empty_text", "answer"),
        ("tgif_count", COUNT_HEADER, "tumblr\tHow ?\t3", "wrong_columns", ""),
        ("tgif_count", COUNT_HEADER.replace("\t", ","), COUNT_ROWS[0], "wrong_header", "gif_name"),
        ("tgif_action", ACTION_HEADER, ACTION_ROW.replace("\t3\t", "\t5\t"), "answer_not_in_options", "answer"),
        ("tgif_action", COUNT_HEADER, COUNT_ROWS[0], "wrong_header", "a1"),
        ("tgif_frameqa", FRAME_HEADER, FRAME_ROW.replace("\t0\t", "\t4\t"), "unknown_type", "type"),
    ],
)
def test_a_bad_row_of_tgif_is_refused(
    tmp_path: Path, format: str, header: str, row: str, code: str, field: str
) -> None:
    table, anomalies = read(format, lines(tmp_path, "mine.csv", header, row), "train")
    assert table.num_rows == 0
    assert [(error.code, error.field) for error in anomalies.errors] == [(code, field)]


def test_nextqa_and_intentqa_have_indices_and_no_spans(tmp_path: Path) -> None:
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
    table, anomalies = read("nextqa", lines(tmp_path, "val.csv", header, NEXT_ROW))
    assert anomalies == []
    (row,) = table.to_pylist()
    assert (row["question_id"], row["answer"], row["answer_index"]) == ("4010069381_6", "roll the handle", 0)
    table, anomalies = read("intentqa", lines(tmp_path, "test.csv", INTENT_HEADER, INTENT_ROW), "test")
    assert anomalies == []
    (row,) = table.to_pylist()
    assert (row["answer"], row["type"], row["frame_count"]) == ("move left right to balance", "CH", 853)
    assert (row["spans"], row["dataset"]) == ([], "intentqa")


@pytest.mark.parametrize("answer", ["7", "-1", "NaN", "2.0", "two", "strum the string"])
@pytest.mark.parametrize("format", ["nextqa", "nextgqa"])
def test_an_answer_that_is_no_index_costs_its_own_row_alone(tmp_path: Path, format: str, answer: str) -> None:
    """One typing error must not turn the indices of all other rows into texts."""
    given = ["0", "1", answer, "3", "4"]
    rows = [NEXT_ROW.replace(",0,6,", f",{value},{number},") for number, value in enumerate(given)]
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
    table, anomalies = read(format, lines(tmp_path, "train.csv", header, *rows), "train")
    assert table["answer_index"].to_pylist() == [0, 1, 3, 4]
    assert brief(anomalies.errors) == [("answer_not_in_options", 4, "4010069381_2", "answer")]


def test_a_text_that_is_no_option_costs_its_own_row_alone(tmp_path: Path) -> None:
    rows = [next_row(0), next_row(1), next_row(1, qid="8", answer="1")]
    table, anomalies = read("nextgqa", next_csv(tmp_path, rows, gsub=None))
    assert table["answer_index"].to_pylist() == [2, 2]
    assert brief(anomalies.errors) == [("answer_not_in_options", 4, "2435100235_8", "answer")]


def test_spans_beside_nextqa_are_not_lost_silently(tmp_path: Path) -> None:
    table, anomalies = read("nextqa", next_csv(tmp_path))
    assert table["spans"].to_pylist() == [[], []]
    assert brief(anomalies) == [("spans_not_read", 0, "", "")] and "nextgqa reads" in anomalies[0].message
