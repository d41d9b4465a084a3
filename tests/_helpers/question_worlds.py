"""Small stores with features and questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stores.commit import Changes, commit, create_store, write_table
from stores.format.rows import Row
from tests._helpers.building import commit_rows, row

MAPS = {"name": "maps", "steps": 6, "step_shape": [2, 2, 3], "dtype": "float16"}
SOUND = {"name": "sound", "steps": 6, "step_shape": [4], "dtype": "float32"}
RAGGED = {"name": "ragged", "steps": None, "step_shape": [4], "dtype": "float16"}
LENGTHS = {"a": 2, "b": 0, "c": 5, "d": 3}


def maps(key: str) -> Row:
    return row(key, steps=6, step_shape=(2, 2, 3))


def sound(key: str) -> Row:
    return row(key, steps=6, step_shape=(4,), dtype=np.float32)


def ragged(key: str) -> Row:
    return row(key, steps=LENGTHS[key])


def question(video: str, number: int, **columns: Any) -> dict[str, Any]:
    """Return one row of the questions table."""
    return {
        "question_id": f"{video}_{number}",
        "video_id": video,
        "question": f"what happens in {video} ({number})?",
        "options": ["yes", "no"],
        "answer": "no",
        "answer_index": 1,
        "type": "CW",
        "modality": None,
        "spans": [[1.0, 2.5]],
        "duration": 6.0,
        **columns,
    }


QUESTIONS = pa.schema(
    [
        ("question_id", pa.string()),
        ("video_id", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("row", pa.int32()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("answer_index", pa.int32()),
        ("type", pa.string()),
        ("modality", pa.string()),
        ("spans", pa.list_(pa.list_(pa.float64()))),
        ("duration", pa.float64()),
        ("subset", pa.string()),
    ]
)


def put_questions(root: Path, dataset: str, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
    numbered = [{**record, "dataset": dataset, "split": split, "row": number} for number, record in enumerate(rows)]
    put_table(root, "questions", pa.Table.from_pylist(numbered, schema=QUESTIONS), f"{dataset}/{split}")


def put_table(root: Path, name: str, table: pa.Table, part: str = "", spec: Mapping[str, Any] | None = None) -> None:
    commit(root, Changes(tables={name: {part: write_table(root, name, spec or {"kind": name}, table, part=part)}}))


def world(root: Path, videos: Sequence[str] = ("a", "b", "c", "d")) -> Path:
    """Make features ``maps``, ``sound`` and ``ragged`` in several shards; two questions per video in nextgqa/train."""
    create_store(root)
    half = len(videos) // 2
    for keys in (videos[:half], videos[half:]):
        commit_rows(root, map(maps, keys), feature="maps", spec=MAPS)
        commit_rows(root, map(sound, keys), feature="sound", spec=SOUND)
    commit_rows(root, map(ragged, LENGTHS), feature="ragged", spec=RAGGED)
    put_questions(root, "nextgqa", "train", [question(video, number) for number in range(2) for video in videos])
    return root
