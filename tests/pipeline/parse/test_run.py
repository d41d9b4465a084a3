"""The parse run: what is stored, what a second run does, and what a run that ends early leaves."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from parsers.annotations import QUESTIONS
from parsers.parse import ParserError
from pipeline.parse import run as parsing
from pipeline.parse.config import load_parse_config
from pipeline.shared.errors import PreflightError, UsageError
from pipeline.shared.signals import StopRequestedError
from settings import SettingsError
from stores import Store
from stores.commit import Changes, commit
from stores.upkeep.verification import verify
from tests._helpers.parsing import ROWS, parse, stored, texts, write
from tests._helpers.word_parser import WordParser


def test_tables_of_a_first_run(tmp_path: Path) -> None:
    result = parse(write(tmp_path, ROWS))
    assert result.exit_code == 0
    assert result.summary["unique_texts"] == 5 + 3
    assert result.summary["with"] == {"subject": 5, "predicate": 5, "object": 5}
    store = Store.open(tmp_path / "store")
    assert set(store.parts("questions")) == set(store.parts("graphs")) == {"mine/val"}
    assert set(store.parts("parses")) == {WordParser.digest[:16]}
    assert store.table("questions").cast(QUESTIONS)["answer"].to_pylist() == [row["answer"] for row in ROWS]
    assert [row["text"] for row in stored(tmp_path, "parses")] == sorted(texts())
    graph = stored(tmp_path, "graphs")[3]
    assert (graph["question_id"], graph["video_id"], graph["dataset"], graph["split"]) == ("q3", "v0", "mine", "val")
    assert graph["nodes"] == ["boy3 throws ball3", "", "boy3", "throws", "ball3", "blue hat", "hat", ""]
    triple = graph["triples"][0]
    assert (triple["source"], triple["subject"], triple["object"]) == ("question", "boy3", "ball3")
    assert (triple["subject_tokens"], triple["object_tokens"], triple["negated"]) == ([0], [2], False)
    assert stored(tmp_path, "annotation_report") == []
    assert verify(tmp_path / "store", deep=True).ok


def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    first = parse(path)
    WordParser.parsed.clear()
    second = parse(path)
    assert (second.exit_code, second.summary["parsed"], texts()) == (0, 0, [])
    assert second.summary["version"] == first.summary["version"] == Store.open(tmp_path / "store").version
    assert second.summary["questions"] == {"new": 0, "changed": 0, "removed": 0, "unchanged": 5}


def test_only_new_texts_are_parsed_and_the_part_mirrors_the_file(tmp_path: Path) -> None:
    parse(write(tmp_path, ROWS))
    WordParser.parsed.clear()
    changed = ROWS[1] | {"question": "girl hits drum", "answer": "red", "options": ["red", "x"]}
    rest = write(tmp_path, [ROWS[0], changed, {"video_id": "v", "question_id": "q9", "question": "red"}])
    result = parse(rest, replace=True)
    assert texts() == ["girl hits drum"]
    assert result.summary["questions"] == {"new": 1, "changed": 1, "removed": 3, "unchanged": 1}
    assert [row["question_id"] for row in stored(tmp_path, "questions")] == ["q0", "q1", "q9"]
    assert [row["question_id"] for row in stored(tmp_path, "graphs")] == ["q0", "q1", "q9"]
    assert len(stored(tmp_path, "parses")) == 9  # texts that are gone stay known


def test_splits_are_parts_and_share_their_parses(tmp_path: Path) -> None:
    parse(write(tmp_path, ROWS[:3], "train"))
    WordParser.parsed.clear()
    parse(write(tmp_path, ROWS[2:], "val"))
    assert sorted(texts()) == ["blue hat", "boy3 throws ball3", "boy4 throws ball4"]
    assert [row["question_id"] for row in stored(tmp_path, "questions", "mine/train")] == ["q0", "q1", "q2"]
    assert [row["split"] for row in stored(tmp_path, "graphs")] == ["train"] * 3 + ["val"] * 3


def test_other_models_parse_everything_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ROWS)
    parse(path)
    WordParser.parsed.clear()
    monkeypatch.setattr(WordParser, "digest", "f" * 64)
    result = parse(path)
    assert result.summary["parsed"] == len(texts()) == 8
    assert result.summary["questions"]["unchanged"] == 5
    assert set(Store.open(tmp_path / "store").parts("parses")) == {"0123456789abcdef", "f" * 16}
    again = parse(path, "graph.released=true")
    assert (again.summary["parsed"], again.summary["version"]) == (0, result.summary["version"] + 1)


@pytest.mark.parametrize("batches", [0, 1, 3, 4])
def test_a_run_that_is_killed_loses_only_its_open_batch(tmp_path: Path, batches: int) -> None:
    path = write(tmp_path, ROWS)
    WordParser.fail_at, WordParser.error = batches, SystemError("killed")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemError):
        if batches == 4:  # all are parsed, nothing else is committed
            patch.setattr(parsing, "graphs_table", _killed)
        parse(path, "stanza.batch=2")
    kept = texts()
    assert len(kept) == 2 * batches
    assert "questions" not in Store.open(tmp_path / "store").tables
    WordParser.fail_at = None
    WordParser.parsed.clear()
    result = parse(path, "stanza.batch=2")
    assert result.summary["to_parse"] == 8 - len(kept)
    assert sorted(texts() + kept) == sorted(row["text"] for row in stored(tmp_path, "parses"))
    parse(path, store=str(tmp_path / "undisturbed" / "store"))
    for table in ("questions", "graphs", "parses"):
        assert digests(tmp_path, table) == digests(tmp_path / "undisturbed", table)


def digests(folder: Path, table: str) -> dict[str, list[str]]:
    return {
        part: [file.sha256 for file in entry.files] for part, entry in Store.open(folder / "store").parts(table).items()
    }


def _killed(*_: Any) -> None:
    raise SystemError("killed")


def test_a_stop_keeps_what_is_parsed(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    WordParser.fail_at, WordParser.error = 2, StopRequestedError(signal.SIGTERM)
    assert parse(path, "stanza.batch=2").exit_code == 143
    assert len(stored(tmp_path, "parses")) == 4


def test_batches_become_one_file(tmp_path: Path) -> None:
    parse(write(tmp_path, ROWS), "stanza.batch=1")
    assert len(WordParser.parsed) == 8
    (part,) = Store.open(tmp_path / "store").parts("parses").values()
    assert len(part.files) == 1


def test_parses_of_another_job_are_kept(tmp_path: Path) -> None:
    """A second job commits parses of the same parser while the first one parses."""
    parse(write(tmp_path, ROWS[:2], "train"))
    path = write(tmp_path, ROWS)
    other = {"video_id": "v", "question_id": "o", "question": "meanwhile elsewhere"}

    class Meddling(WordParser):
        def parse(self, texts: Any) -> Any:
            if "meanwhile elsewhere" not in texts and len(WordParser.parsed) == 4:
                parse(write(tmp_path, [other], "test"))
            return super().parse(texts)

    parsing.StanzaParser = Meddling  # type: ignore[assignment]  # a stand-in
    parse(path, "stanza.batch=1")
    assert "meanwhile elsewhere" in [row["text"] for row in stored(tmp_path, "parses")]
    assert len(stored(tmp_path, "questions")) == 2 + 1 + 5


def test_refused_rows_are_listed_and_stored(tmp_path: Path) -> None:
    path = write(tmp_path, [ROWS[0], "{", ROWS[1] | {"answer": "purple"}, ROWS[2] | {"question": "who ran "}])
    result = parse(path)
    assert result.exit_code == 3
    assert len(result.summary["errors"]) == 2
    assert result.summary["notes"] == {"trailing_blank": 1}
    assert [row["question_id"] for row in stored(tmp_path, "questions")] == ["q0", "q2"]
    report = stored(tmp_path, "annotation_report")
    assert [(row["kind"], row["code"], row["file"], row["line"]) for row in report] == [
        ("error", "malformed_json", "val.jsonl", 2),
        ("error", "answer_not_in_options", "val.jsonl", 3),
        ("note", "trailing_blank", "val.jsonl", 4),
    ]
    assert parse(path).exit_code == 3
    assert parse(path, allow_failures=True).exit_code == 0


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    summary = parse(path, plan_only=True).summary
    assert (summary["to_parse"], summary["questions"]["new"], texts()) == (8, 5, [])
    assert not (tmp_path / "store").exists()
    parse(path)
    assert parse(path, plan_only=True).summary["to_parse"] == 0


def test_questions_alone_need_no_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ROWS)
    parse(path)
    monkeypatch.delattr(WordParser, "digest")
    unchanged = parse(path, "graph.enabled=false")
    assert len(stored(tmp_path, "graphs")) == 5
    changed = parse(write(tmp_path, ROWS[1:]), "graph.enabled=false")
    assert changed.summary["version"] == unchanged.summary["version"] + 1
    assert "graphs" not in Store.open(tmp_path / "store").tables  # graphs of other questions would mislead


def test_graphs_that_are_dropped_come_back(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    parse(path)
    commit(tmp_path / "store", Changes(tables={"graphs": {"mine/val": None}}))
    WordParser.parsed.clear()
    parse(path)
    assert (len(stored(tmp_path, "graphs")), texts()) == (5, [])


def test_mistakes_are_usage_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ROWS)
    with pytest.raises(UsageError, match="no such file or folder"):
        parse(tmp_path / "none.jsonl")
    WordParser.fail_at, WordParser.error = 0, ParserError("the models do not load")
    with pytest.raises(PreflightError, match="the models do not load"):
        parse(path)
    with pytest.raises(PreflightError, match="not in an object store"):
        parse(path, store="s3://bucket/store")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(PreflightError, match=r"^ANNOTATIONS val\.jsonl: the path is relative"):
        parse(Path("val.jsonl"), store="/store")
    with pytest.raises(PreflightError, match=r"^--stanza-dir models: the path is relative"):
        parse(path, "stanza.dir=models")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stanza.devise=cpu", "did you mean 'device'"),
        ("stanza.batch=0", "stanza.batch"),
        ("stanza=3", "stanza: input should be"),
        ("stanzas.dir=x", "did you mean 'stanza'"),
    ],
)
def test_settings_are_checked(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_parse_config(None, [override], Path("/models"))


def test_settings_from_a_file_an_override_and_the_option(tmp_path: Path) -> None:
    (tmp_path / "parse.yaml").write_text("stanza: {dir: /a, batch: 7}\n")
    config = load_parse_config(tmp_path / "parse.yaml", ["stanza.lang=de"], Path("/1e5"))
    assert (config.stanza.dir, config.stanza.batch, config.stanza.lang) == (Path("/1e5"), 7, "de")
