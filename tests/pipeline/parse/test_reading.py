"""What is not clean: files that cannot be read, a wrong split, several files, texts that no parser takes."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.shared import PreflightError, SourceError
from stores import Store
from stores.describe import coverage, render_card
from stores.format import load
from tests._helpers.annotation_files import MUSIC_ROW, json_array, next_csv, next_row
from tests._helpers.pages import pages_of
from tests._helpers.parsing import ROWS, parse, stored, texts, write
from tests._helpers.runs import make_dictionary
from tests._helpers.word_parser import WordParser
from tests.conftest import ROOT

NO_GRAPHS = "graph.enabled=false"


def numbered(split: str, count: int) -> list[dict[str, Any]]:
    """Rows of one split, whose ids restart in every split."""
    return [
        {"video_id": f"{split}{n}", "question_id": n, "question": f"{split}{n} chases ball{n}", "answer": "red"}
        for n in range(count)
    ]


@pytest.mark.parametrize("with_ids", [True, False])
def test_ids_that_restart_in_every_split_join_within_their_split(tmp_path: Path, with_ids: bool) -> None:
    """The train dictionary has the same bytes with and without the other splits, and stays fresh if they change."""

    def rows(split: str, count: int) -> list[dict[str, Any]]:
        drop = () if with_ids else ("question_id",)
        return [{name: value for name, value in row.items() if name not in drop} for row in numbered(split, count)]

    files = {}
    for name, splits in (("all", ("test", "train", "val")), ("alone", ("train",))):
        (tmp_path / name).mkdir()
        for split in splits:
            parse(write(tmp_path / name, rows(split, 9), split))
        make_dictionary(tmp_path / name / "store", "linguistic")
        with Store.open(tmp_path / name / "store", lease=False) as store:
            tables = ("linguistic_dictionary", "linguistic_dictionary_members")
            files[name] = [file.sha256 for table in tables for file in store.parts(table)["mine/train"].files]
            nodes = {row["question_id"]: row["nodes"] for row in store.table("graphs", "mine/train").to_pylist()}
            for number in range(9):
                key = str(number) if with_ids else f"row:train/train.jsonl:{number}"
                assert f"train{number}" in nodes[key]
    assert files["all"] == files["alone"]
    changed = rows("val", 9)
    changed[0]["question"] = "somebody chases nobody"
    parse(write(tmp_path / "all", changed, "val"))
    with Store.open(tmp_path / "all" / "store", lease=False) as store:
        assert store.stale("linguistic_dictionary") == ()


def test_invented_ids_name_split_and_file(tmp_path: Path) -> None:
    rows = [{"video_id": "v", "question": f"boy{n} runs"} for n in range(2)]
    parse([write(tmp_path, rows, "train_a"), write(tmp_path, rows, "train_b")], split="train")
    assert [row["question_id"] for row in stored(tmp_path, "questions")] == [
        "row:train/train_a.jsonl:0",
        "row:train/train_a.jsonl:1",
        "row:train/train_b.jsonl:0",
        "row:train/train_b.jsonl:1",
    ]


def test_several_files_are_one_split(tmp_path: Path) -> None:
    files = [write(tmp_path, ROWS[:2], "train_a"), write(tmp_path, ROWS[2:], "train_b")]
    result = parse(files, split="train")
    assert (result.exit_code, result.summary["rows"]) == (0, 5)
    assert [row["question_id"] for row in stored(tmp_path, "questions")] == [row["question_id"] for row in ROWS]
    version = load(tmp_path / "store").version
    again = parse(files, split="train")
    assert (again.summary["parsed"], load(tmp_path / "store").version) == (0, version)


def test_an_id_that_two_files_give_counts_once_and_is_an_error(tmp_path: Path) -> None:
    files = [write(tmp_path, ROWS[:3], "a"), write(tmp_path, [{**ROWS[2], "answer": "x"}, ROWS[3]], "b")]
    result = parse(files, split="train")
    assert result.exit_code == 3
    assert (
        "'q2', in row 1, is already given in" in result.summary["errors"][0]
        and "a.jsonl" in result.summary["errors"][0]
    )
    assert [row["answer"] for row in stored(tmp_path, "questions")] == ["red", "green", "red", "blue hat"]


@pytest.mark.parametrize("text", ["", '{"video_id": 3}\n', "{\n"])
def test_one_file_of_several_without_a_row_changes_nothing(tmp_path: Path, text: str) -> None:
    files = [write(tmp_path, ROWS[:2], "train_a"), write(tmp_path, ROWS[2:], "train_b")]
    parse(files, split="train")
    version = load(tmp_path / "store").version
    files[1].write_text(text)
    with pytest.raises(SourceError, match=r"train_b\.jsonl"):
        parse(files, split="train")
    assert load(tmp_path / "store").version == version


def test_a_file_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.jsonl: given twice"):
        parse([write(tmp_path, ROWS, "a")] * 2, split="train")


def test_the_version_that_is_told_is_the_one_that_is_left(tmp_path: Path) -> None:
    """Marking a dictionary as stale publishes a version, too."""
    parse(write(tmp_path, numbered("train", 9), "train"))
    make_dictionary(tmp_path / "store", "linguistic")
    changed = parse(write(tmp_path, numbered("train", 8), "train"))
    with Store.open(tmp_path / "store", lease=False) as store:
        assert store.stale("linguistic_dictionary") == ("removed 8",)
        assert store.version == changed.summary["version"]


def test_a_store_whose_older_parts_have_other_columns_goes_on(tmp_path: Path) -> None:
    """The golden store of format 2 has a table ``questions`` with one column of its own."""
    with tarfile.open(ROOT / "tests/stores/golden/format2.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "format2").rename(tmp_path / "store")
    parse(write(tmp_path, numbered("train", 9), "train"))
    assert make_dictionary(tmp_path / "store", "linguistic").exit_code == 0
    with Store.open(tmp_path / "store", lease=False) as store:
        assert [split["questions"] for split in coverage(store)["splits"]] == [9]
        assert store.table("questions")["q"].null_count == 9
        assert "mine/train: 9 questions" in render_card(store)
    assert "mine/train 9 questions of" in pages_of(tmp_path / "store")["index"].text


UNREADABLE = {
    "another format": lambda path: path.write_text('[{"video_id": "a"}]'),
    "not found": lambda path: path.write_text("404: Not Found"),
    "empty": lambda path: path.write_text(""),
    "an empty array": lambda path: path.write_text("[]"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "utf-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "gzip": lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "html": lambda path: path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("format", ["music_avqa", "nextgqa", "table", "star"])
def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path, format: str, kind: str) -> None:
    """Unreadable is not empty: exit 2, one line that names the file, and the stored split stays."""
    if format == "music_avqa":
        path = json_array(tmp_path, [MUSIC_ROW | {"question_id": n} for n in range(6)], "avqa-val.json")
    elif format == "nextgqa":
        path = next_csv(tmp_path, [next_row(qid=str(n)) for n in range(6)])
        (tmp_path / "gsub_val.json").unlink()
    elif format == "star":
        path = next_csv(tmp_path, [next_row(qid=f"Interaction_T1_{n}") for n in range(6)])
        (tmp_path / "gsub_val.json").unlink()
    else:
        path = write(tmp_path, ROWS)
    options: dict[str, Any] = {"format": format, "split": "val"}
    parse(path, NO_GRAPHS, **options)
    version, before = load(tmp_path / "store").version, stored(tmp_path, "questions")
    UNREADABLE[kind](path)
    with pytest.raises(SourceError, match=path.name) as error:
        parse(path, NO_GRAPHS, **options)
    assert "\n" not in str(error.value)
    assert load(tmp_path / "store").version == version and stored(tmp_path, "questions") == before
    fresh = tmp_path / "fresh"
    with pytest.raises(SourceError):
        parse(path, NO_GRAPHS, **options, store=str(fresh))
    assert not fresh.exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("video_id,question\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (gzip.compress(b"x", mtime=0), "is compressed by gzip; unpack it"),
        (b"PK\x03\x04 a spreadsheet", "is a zip file"),
    ],
)
def test_files_that_are_no_text_are_named_so(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "val.csv").write_bytes(data)
    for format in ("table", "nextgqa", "music_avqa", "star"):
        with pytest.raises(SourceError, match=rf"val\.csv: {says}"):
            parse(tmp_path / "val.csv", NO_GRAPHS, format=format)


@pytest.mark.parametrize("text", ["", "[]", '{"4882821564": {"duration": 1', "{}"])
def test_a_spans_file_that_cannot_be_read_changes_nothing(tmp_path: Path, text: str) -> None:
    path = next_csv(tmp_path)
    parse(path, NO_GRAPHS, format="nextgqa", split="val")
    version = load(tmp_path / "store").version
    (tmp_path / "gsub_val.json").write_text(text)
    with pytest.raises(SourceError, match=r"gsub_val\.json"):
        parse(path, NO_GRAPHS, format="nextgqa", split="val")
    assert load(tmp_path / "store").version == version


def test_more_than_half_of_a_split_goes_only_if_asked(tmp_path: Path) -> None:
    parse(write(tmp_path, ROWS))
    with pytest.raises(
        SourceError, match=r"would remove 3 of the 5 stored questions of mine/val and leave 2; .* --replace"
    ):
        parse(write(tmp_path, ROWS[:2]))
    assert len(stored(tmp_path, "questions")) == 5
    assert parse(write(tmp_path, ROWS[:3])).summary["questions"]["removed"] == 2
    assert parse(write(tmp_path, ROWS[:1]), replace=True).summary["questions"]["removed"] == 2


def test_questions_with_other_ids_are_not_lost(tmp_path: Path) -> None:
    parse(write(tmp_path, ROWS))
    assert parse(write(tmp_path, [{**row, "question_id": f"new {n}"} for n, row in enumerate(ROWS)])).exit_code == 0


def test_deleting_a_row_changes_no_other_question(tmp_path: Path) -> None:
    parse(write(tmp_path, ROWS))
    counts = parse(write(tmp_path, ROWS[1:])).summary["questions"]
    assert counts == {"new": 0, "changed": 0, "removed": 1, "unchanged": 4}


def test_what_speaks_against_the_split_is_named_and_refused_if_strict(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    val = write(tmp_path / "in", ROWS, "val")
    store = str(tmp_path / "store")
    assert parse(val, store=store).summary["doubts"] == []
    found = parse(val, store=store, split="train", plan_only=True).summary["doubts"]
    assert found == ["val.jsonl is named after val", "5 of its 5 questions are stored under val already"]
    with pytest.raises(SourceError, match=r"--split train: val\.jsonl is named after val; name the right split"):
        parse(val, store=store, split="train", strict=True)
    assert load(tmp_path / "store").tables["questions"].parts.keys() == {"mine/val"}
    for split in ("val", "validation", "fold1"):
        assert parse(val, store=str(tmp_path / "other"), split=split, strict=True, plan_only=True).exit_code == 0
    assert parse(write(tmp_path / "in", ROWS[:2], "latest"), store=str(tmp_path / "o"), split="train").exit_code == 0


def test_official_splits_are_known_by_their_ids(shared: Path, tmp_path: Path) -> None:
    for format, name in (("nextgqa", "NExT-GQA"), ("music_avqa", "MUSIC-AVQA")):
        source = next(path for path in (shared / "data/annotations" / format).iterdir() if "val." in path.name)
        copy = tmp_path / f"questions{source.suffix}"
        copy.write_bytes(source.read_bytes())
        request: dict[str, Any] = {"format": format, "plan_only": True, "store": str(tmp_path / "store")}
        (doubt,) = parse(copy, NO_GRAPHS, split="train", **request).summary["doubts"]
        assert doubt.endswith(f"question ids are those of {name}'s val split")
        assert parse(copy, NO_GRAPHS, split="val", **request).summary["doubts"] == []


def test_a_csv_of_nextgqa_is_no_table_unless_asked(tmp_path: Path) -> None:
    path = next_csv(tmp_path)
    with pytest.raises(
        SourceError, match=r"looks like the format nextgqa; .* lose the columns frame_count, width, height, qid"
    ):
        parse(path, NO_GRAPHS, split="val")
    assert parse(path, NO_GRAPHS, split="val", drop_columns=True).summary["rows"] > 0


def test_one_bad_text_is_one_row(tmp_path: Path) -> None:
    WordParser.refuses = {ROWS[1]["question"]: "text_too_long", "blue hat": "parser_failed"}
    result = parse(write(tmp_path, ROWS))
    assert (result.exit_code, result.summary["without_graph"], result.summary["rows"]) == (0, 2, 5)
    graphs = {row["question_id"]: row for row in stored(tmp_path, "graphs")}
    assert [key for key, row in graphs.items() if row["nodes"] is None] == ["q1", "q3"]
    assert graphs["q1"]["triples"] == [] and len(graphs["q0"]["nodes"]) == 8
    report = [(row["kind"], row["code"], row["key"], row["field"]) for row in stored(tmp_path, "annotation_report")]
    assert report == [("note", "text_too_long", "q1", "question"), ("note", "parser_failed", "q3", "answer")]
    WordParser.parsed.clear()
    version = load(tmp_path / "store").version
    assert parse(write(tmp_path, ROWS)).summary["parsed"] == 0 and load(tmp_path / "store").version == version
    WordParser.refuses = {}
    more = parse(write(tmp_path, [*ROWS, {**ROWS[0], "question_id": "q5"}]))
    assert texts() == ["blue hat"]  # only a failure of the parser may have been the machine's
    assert more.summary["without_graph"] == 1
    assert sorted(row["text"] for row in stored(tmp_path, "parses") if row["error"]) == [ROWS[1]["question"]]


def test_a_text_without_a_given_parse_leaves_no_store(tmp_path: Path) -> None:
    (tmp_path / "p.conllu").write_text("# text = red\n1\tred\tred\tADJ\t_\t_\t0\troot\t_\t_\n\n")
    with pytest.raises(PreflightError, match=r"p\.conllu: holds no parse of"):
        parse(write(tmp_path, ROWS), f"conllu={tmp_path / 'p.conllu'}")
    assert not (tmp_path / "store").exists()


def test_a_dictionary_says_which_questions_have_no_graph(tmp_path: Path) -> None:
    WordParser.refuses = {"train3 chases ball3": "text_too_long"}
    parse(write(tmp_path, numbered("train", 9), "train"))
    result = make_dictionary(tmp_path / "store", "linguistic")
    assert result.exit_code == 3
    assert result.summary["missing"] == [{"key": "3", "reason": "its text cannot be parsed"}]
    assert json.dumps(result.summary)
