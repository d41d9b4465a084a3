"""The members of a dictionary follow from the questions of one dataset's split, and every absence has a reason."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.shared.errors import SourceError
from pipeline.shared.members import (
    choose_dataset,
    current_members,
    graph_nodes,
    linguistic_members,
    visual_members,
)
from stores import Store
from stores.commit import Changes, Failure, commit, create_store
from tests._helpers.building import commit_rows, row
from tests._helpers.dictionaries import SPEC, fill, question, questions, write_questions


def test_graphs_are_members_by_question_and_digested_by_their_nodes(tmp_path: Path) -> None:
    records = questions({"train": 3, "val": 2})
    records[1] = {**records[1], "nodes": records[0]["nodes"]}
    records[2] = {**records[2], "nodes": None}
    with Store.open(fill(tmp_path / "store", records), lease=False) as store:
        members = linguistic_members(store, "nextgqa", "train")
        keys = members.table.column("key")
        assert graph_nodes(store, "nextgqa", "train", keys).to_pylist() == [records[0]["nodes"]] * 2
    first, second, third = (record["question_id"] for record in records[:3])
    digest = hashlib.sha256(json.dumps(records[0]["nodes"], ensure_ascii=False).encode()).hexdigest()
    same = {"digest": digest, "vectors": 1}
    assert members.table.to_pylist() == [{"key": first, **same}, {"key": second, **same}]
    assert members.missing.to_pylist() == [{"key": third, "reason": "no graph"}]


def test_rows_are_members_by_video_and_what_is_absent_has_a_reason(tmp_path: Path) -> None:
    records = questions({"train": 10, "val": 2})
    records[-1] = {**records[-1], "video_id": "train00"}  # val asks about a video of train
    root = fill(tmp_path / "store", records)
    commit(root, Changes(removed=[("clip", f"train{number:02d}") for number in (1, 2)]))
    padding = replace(row("train03", content=1), valid=np.zeros(3, np.bool_))
    commit_rows(root, [padding], feature="clip", spec=SPEC)
    with Store.open(root, lease=False) as store:
        spec_digest = store.features["clip"].spec_digest
    commit(root, Changes(failures=[Failure("train01", "clip", spec_digest, "corrupt", True, "bad data", "/v", "c", 1)]))
    with Store.open(root, lease=False) as store:
        members = visual_members(store, "clip", "nextgqa", "train")
        assert members.table.to_pylist() == [
            {"key": key, "digest": store.digest("clip", key), "vectors": int(store.valid("clip", key).sum())}
            for key in ("train00", "train04")
        ]
        spec = {"kind": "visual", "feature": "clip", "dataset": "nextgqa", "split": "train"}
        assert current_members(store, spec) == members
    assert members.missing.to_pylist() == [
        {"key": "train01", "reason": "corrupt: bad data"},
        {"key": "train02", "reason": "no row"},
        {"key": "train03", "reason": "every step is padding"},
    ]
    assert members.shared == ("train00",)


def test_a_feature_that_is_not_stored_has_no_rows(tmp_path: Path) -> None:
    with Store.open(fill(tmp_path / "store", [question("train", 0)]), lease=False) as store:
        members = visual_members(store, "swin", "nextgqa", "train")
    assert (len(members), members.vectors) == (0, 0)
    assert members.missing.to_pylist() == [{"key": "train00", "reason": "no row"}]


def test_the_dataset_is_the_named_or_the_only_one(tmp_path: Path) -> None:
    root = fill(tmp_path / "store")
    with Store.open(root, lease=False) as store:
        assert choose_dataset(store, "train", None) == choose_dataset(store, "train", "nextgqa") == "nextgqa"
        with pytest.raises(
            SourceError, match=r"dataset 'star' has no questions of split 'train' \(available: nextgqa\)"
        ):
            choose_dataset(store, "train", "star")
    write_questions(root, [{**record, "dataset": "star"} for record in questions()])
    with Store.open(root, lease=False) as store:
        assert choose_dataset(store, "train", "star") == "star"
        with pytest.raises(SourceError, match="belong to nextgqa, star; name one with --dataset"):
            choose_dataset(store, "train", None)
    with (
        Store.open(create_store(tmp_path / "empty"), lease=False) as empty,
        pytest.raises(SourceError, match=r"no questions of split 'train'; run jobs/parse\.py first"),
    ):
        choose_dataset(empty, "train", None)
