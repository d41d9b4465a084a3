"""``jobs/evaluate.py avqa`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.evaluate import app


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["avqa", *map(str, arguments)])


@pytest.fixture
def annotations(shared: Path) -> Path:
    return shared / "data/annotations/music_avqa/avqa-val.json"


def test_the_contract(annotations: Path, tmp_path: Path) -> None:
    rows = json.loads(annotations.read_text())
    answers = {str(row["question_id"]): row["anser"] for row in rows}
    wrong, absent = str(rows[0]["question_id"]), str(rows[1]["question_id"])
    answers[wrong] = "nothing"
    del answers[absent]
    path = tmp_path / "preds.json"
    path.write_text(json.dumps(answers))
    done = evaluate("--annotations", annotations, "--answers", path, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["overall"] == {"accuracy": pytest.approx(100 * 4566 / 4568), "n": 4568}
    assert {name: rate["n"] for name, rate in report["groups"].items()} == {
        "Audio": 806,
        "Visual": 1213,
        "Audio-Visual": 2549,
    }
    assert len(report["types"]) == 9
    assert report["types"]["Audio-Visual Temporal"] == {"accuracy": 100.0, "n": 411}
    assert (report["missing"], report["unknown"]) == ([absent], [])


def test_a_table_for_people(annotations: Path, tmp_path: Path) -> None:
    path = tmp_path / "preds.json"
    path.write_text('{"nobody": "yes"}')
    done = evaluate("--annotations", annotations, "--answers", path)
    assert done.exit_code == 0, done.stderr
    assert "Audio-Visual Existential" in done.stdout
    assert "missing: 4568" in done.stdout and "unknown: 1: nobody" in done.stdout


def test_bad_files_end_in_one_line(annotations: Path, tmp_path: Path) -> None:
    done = evaluate("--annotations", annotations, "--answers", tmp_path / "none.json", "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'none.json'}: not readable") and done.stderr.count("\n") == 1
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    done = evaluate("--annotations", bad, "--answers", bad)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1


def test_a_table_is_scored_as_the_trainer_scores_it_and_any_key_can_be_printed(tmp_path: Path) -> None:
    kinds = (("Audio Counting", "Audio", "two"), ("Visual Location", "Visual", "left"))
    rows = [
        {"question_id": f"q{number}", "video_id": "v", "question": "what", "type": type_, "modality": modality}
        | {"answer": answer, "split": split}
        for number, (type_, modality, answer) in enumerate(kinds)
        for split in ("test", "train")
    ]
    table, predictions = tmp_path / "test.jsonl", tmp_path / "preds.json"
    rows = [{**row, "question_id": f"{row['split']}-{row['question_id']}"} for row in rows]
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    predictions.write_text(json.dumps({"test-q0": "two", "test-q1": "right", "\ud800": "no"}))
    done = evaluate("--annotations", table, "--answers", predictions, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["overall"] == {"accuracy": 50.0, "n": 2}
    assert report["groups"]["Audio"]["accuracy"] == 100 and report["unknown"] == ["\ud800"]
    shown = evaluate("--annotations", table, "--answers", predictions)
    assert shown.exit_code == 0 and r"unknown: 1: \ud800" in shown.stdout, shown.stderr


def test_answers_that_no_question_can_have_are_counted_and_not_scored(annotations: Path, tmp_path: Path) -> None:
    """``Yes`` and ``yes `` for ``yes`` are wrong, as in the published evaluator, and are told of."""
    rows = json.loads(annotations.read_text())
    changes = [str.upper, lambda answer: f" {answer} ", lambda answer: "a cat", lambda answer: answer]
    answers = {str(row["question_id"]): changes[at % 4](row["anser"]) for at, row in enumerate(rows)}
    path = tmp_path / "preds.json"
    path.write_text("\ufeff" + json.dumps(answers))
    done = evaluate("--annotations", annotations, "--answers", path, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["overall"] == {"accuracy": 25.0, "n": 4568}
    assert report["outside"] == [str(row["question_id"]) for at, row in enumerate(rows) if at % 4 != 3]
    assert report["right_but_for_spelling"] == [str(row["question_id"]) for at, row in enumerate(rows) if at % 4 < 2]
    shown = evaluate("--annotations", annotations, "--answers", path).stdout
    assert "no possible answer: 3426: " in shown
    assert "2284 answers of these would be right without regard to case and blanks" in shown


def test_the_split_of_a_table_may_be_named(tmp_path: Path) -> None:
    table, predictions = tmp_path / "all questions.csv", tmp_path / "preds.json"
    head = "question_id,video_id,question,type,answer,split\n"
    table.write_text(f"{head}1,v,what,T,yes,test\n2,v,what,T,no,train\n")
    predictions.write_text('{"1": "yes", "2": "yes"}')
    given = ("--annotations", table, "--answers", predictions)
    done = evaluate(*given, "--split", "test", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["overall"], report["unknown"]) == ({"accuracy": 100.0, "n": 1}, ["2"])
    nobody = evaluate(*given, "--split", "val")
    assert nobody.exit_code == 2
    assert nobody.stderr == f"error: {table}: field 'split': no row has split 'val' (available: test, train)\n"
    unnamed = evaluate(*given)
    assert unnamed.exit_code == 2 and unnamed.stderr.startswith("error: split 'all questions': must be")
    assert unnamed.stderr.endswith("; --split names the split of a table\n")
    hidden = table.with_name("test.csv")
    hidden.write_text(f"{head}1,v,what,T,,test\n")
    refused = evaluate("--annotations", hidden, "--answers", predictions)
    assert refused.exit_code == 2 and refused.stderr.startswith(f"error: {hidden}: question '1': its answer is hidden")


def test_a_split_is_not_chosen_within_a_file_of_one(annotations: Path, tmp_path: Path) -> None:
    (tmp_path / "preds.json").write_text("{}")
    done = evaluate("--annotations", annotations, "--answers", tmp_path / "preds.json", "--split", "val")
    assert done.exit_code == 2 and "--split goes with a table" in done.stderr
