"""Formats beside the first four: parts of older stores, splits that share a file, wordings of one question."""

from __future__ import annotations

from pathlib import Path

import pytest

from stores import Store
from stores.commit import Changes, commit, write_table
from stores.format import load
from tests._helpers.annotation_files import json_array
from tests._helpers.parsing import ROWS, parse, stored, write
from tests.parsers.annotations.test_music_family import FORTIS
from tests.parsers.annotations.test_videoqa import COUNT_HEADER, lines

NO_GRAPHS = "graph.enabled=false"


def test_a_part_of_an_older_store_without_subset_is_current(tmp_path: Path) -> None:
    files = {split: write(tmp_path, ROWS, split) for split in ("train", "val")}
    for file in files.values():
        parse(file, NO_GRAPHS)
    root = tmp_path / "store"
    with Store.open(root, lease=False) as store:
        older = store.table("questions", "mine/train").drop_columns("subset")
    spec = {"kind": "questions", "epoch": 1}
    part = {"mine/train": write_table(root, "questions", spec, older, "mine/train")}
    commit(root, Changes(tables={"questions": part}))
    version = load(root).version
    for file in files.values():  # one is compared with the older part, the other is read beside it
        parse(file, NO_GRAPHS)
        assert load(root).version == version  # nothing to do
    with Store.open(root, lease=False) as store:
        assert store.table("questions")["subset"].to_pylist() == [None] * 2 * len(ROWS)
    changed = [*ROWS[:-1], ROWS[-1] | {"question": "who is left"}]
    parse(write(tmp_path, changed, "train"), NO_GRAPHS)
    assert load(root).version == version + 1


@pytest.mark.parametrize("split", ["train", "val", "trainval"])
def test_the_parts_of_a_training_file_of_tgif_raise_no_doubt(tmp_path: Path, split: str) -> None:
    rows = [f"gif{number}\tHow many times ?\t3\tCOUNT{number}\t{number}" for number in range(60)]
    path = lines(tmp_path, "Train_count_question.csv", COUNT_HEADER, *rows)
    result = parse(path, NO_GRAPHS, format="tgif_count", split=split, dataset=None, strict=True)
    assert result.exit_code == 0


def test_rows_of_fortisavqa_are_stored_with_their_subset(tmp_path: Path) -> None:
    """They were refused for want of ``templ_values``."""
    path = json_array(tmp_path, FORTIS, "test.json")
    result = parse(path, NO_GRAPHS, format="music_avqa", split="test", dataset="fortisavqa")
    assert result.exit_code == 0
    rows = stored(tmp_path, "questions")
    assert [(row["question_id"], row["subset"]) for row in rows] == [("2945", "tail"), ("2945#2", "tail")]
