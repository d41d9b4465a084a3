"""A small store to cluster: questions of three splits, their graphs, and rows of a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from stores.commit import Changes, commit, create_store, write_table
from tests._helpers.building import commit_rows, row

ANIMALS = ("cat", "dog", "bird", "horse", "cow", "fish")
VERBS = ("chase", "watch", "follow", "carry")
SPEC = {"name": "clip", "steps": 3, "step_shape": [4], "dtype": "float16"}
SPLITS = {"train": 24, "val": 6, "test": 6}


def question(split: str, index: int) -> dict[str, Any]:
    animal, verb = ANIMALS[index % len(ANIMALS)], VERBS[index % len(VERBS)]
    video = f"{split}{index // 2:02d}"
    return {
        "question_id": f"{video}_{index}",
        "video_id": video,
        "dataset": "nextgqa",
        "split": split,
        "question": f"why does the {animal} {verb} the {split} ball",
        "answer": f"to play with {animal}s",
        "options": [f"to play with {animal}s", "sleep"],
        "nodes": nodes(animal, verb, split),
    }


def nodes(animal: str, verb: str, split: str) -> list[str]:
    whole = f"why does the {animal} {verb} the {split} ball"
    return [whole, "why", animal, verb, "ball", f"to play with {animal}s", "play", f"{animal}s"]


def questions(splits: Mapping[str, int] = SPLITS) -> list[dict[str, Any]]:
    return [question(split, index) for split, count in splits.items() for index in range(count)]


def write_questions(root: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Replace the tables ``questions`` and ``graphs``, with one part per dataset and split."""
    changes = Changes()
    for part in sorted({f"{record['dataset']}/{record['split']}" for record in records}):
        here = [record for record in records if f"{record['dataset']}/{record['split']}" == part]
        for name, columns in (
            ("questions", ("question_id", "video_id", "dataset", "split", "question", "options", "answer")),
            ("graphs", ("question_id", "video_id", "dataset", "split", "nodes")),
        ):
            rows = [{column: record[column] for column in columns} for record in here if record.get(columns[-1])]
            if rows:
                table = write_table(root, name, {"name": name}, pa.Table.from_pylist(rows), part)
                changes.tables.setdefault(name, {})[part] = table
    commit(root, changes)


def write_features(root: Path, videos: Sequence[str], content: int = 0) -> None:
    commit_rows(root, [row(video, content) for video in sorted(videos)], feature="clip", spec=SPEC)


def fill(root: Path, records: Sequence[Mapping[str, Any]] | None = None) -> Path:
    """Fill a store with questions, graphs and features of every video of every split."""
    create_store(root)
    records = questions() if records is None else records
    write_questions(root, records)
    write_features(root, list(dict.fromkeys(record["video_id"] for record in records)))
    return root
