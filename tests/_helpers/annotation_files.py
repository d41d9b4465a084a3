"""Writes small annotation files in the published forms, made of rows that the datasets' papers and files quote."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from parsers.annotations import Anomalies, Anomaly, read_annotations

_OPTIONS = ["a0", "a1", "a2", "a3", "a4"]
NEXT_HEADER = ["video_id", "frame_count", "width", "height", "question", "answer", "qid", "type", *_OPTIONS]
NEXT_ROWS = [
    "4882821564,2697,640,480,"
    "why did the boy pick up one present from the group of them and move to the sofa,unwrap it,1,CW,"
    "share with the girl,approach lady sitting there,unwrap it,playing with toy train,gesture something",
    "2435100235,1906,640,480,"
    "how does the man cycling try to sell the watch to the man in the trishaw,show him the watch,7,CH,"
    "give him catalogue,show him a video,show him the watch,dismount his bicycle,give him the watch strap",
]
GSUB: dict[str, Any] = {
    "4882821564": {"duration": 90, "location": {"1": [[13.8, 29.8]]}, "fps": 29.97},
    "2435100235": {"duration": 76, "location": {"7": [[1.0, 5.6], [8.4, 11]]}, "fps": 25},
}

MUSIC_ROW: dict[str, Any] = {
    "video_id": "00000028",
    "question_id": 7,
    "type": '["Audio-Visual", "Existential"]',
    "question_content": "Is the <Object> in the video always playing?",
    "templ_values": '["ukulele"]',
    "question_deleted": 0,
    "anser": "yes",
}

STAR_ROW: dict[str, Any] = {
    "question_id": "Interaction_T1_13",
    "question": "Which object was tidied up by the person?",
    "video_id": "6H78U",
    "start": 11.1,
    "end": 19.6,
    "answer": "The clothes.",
    "question_program": [{"function": "Situations", "value_input": []}],
    "choices": [
        {"choice_id": i, "choice": text, "choice_program": []}
        for i, text in enumerate(("The closet/cabinet.", "The blanket.", "The clothes.", "The table."))
    ],
    "situations": {"000198": {"actions": ["a004"], "bbox": [[1.0, 2.0, 3.0, 4.0]], "rel_pairs": [["o000", "o019"]]}},
}
STAR_TEST_ROW: dict[str, Any] = {
    "question_id": "Interaction_T1_1",
    "question": "Which object was taken by the person?",
    "video_id": "YSKX3",
    "start": 11.8,
    "end": 17.3,
    "choices": [
        {"choice_id": i, "choice": text}
        for i, text in enumerate(("The shoe.", "The pillow.", "The cup/glass/bottle.", "The dish."))
    ],
}


def next_csv(folder: Path, rows: Sequence[str] = NEXT_ROWS, gsub: Any = GSUB, split: str = "val") -> Path:
    """Write a csv with its gsub file, which is given as a value or as text; None leaves it out."""
    path = folder / f"{split}.csv"
    path.write_text("\n".join([",".join(NEXT_HEADER), *rows]) + "\n")
    if gsub is not None:
        text = gsub if isinstance(gsub, str) else json.dumps(gsub)
        (folder / f"gsub_{split}.json").write_text(text)
    return path


def next_row(index: int = 0, **changes: str) -> str:
    """Return one of ``NEXT_ROWS`` as a csv line, with some cells changed."""
    cells = dict(zip(NEXT_HEADER, next(csv.reader([NEXT_ROWS[index]])), strict=True)) | changes
    return ",".join(f'"{cell}"' if "," in cell else cell for cell in cells.values())


def json_array(folder: Path, rows: Sequence[Any], name: str) -> Path:
    """Write a JSON array with one element per line; a string is an element's own text."""
    path = folder / name
    path.write_text("[\n" + ",\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n]\n")
    return path


def read(format: str, path: Path, split: str = "val", dataset: str | None = None) -> tuple[pa.Table, Anomalies]:
    """Read annotations as ``read_annotations`` does; return the table and what was odd or wrong."""
    anomalies = Anomalies()
    return read_annotations(format, path, split=split, anomalies=anomalies, dataset=dataset), anomalies


def brief(anomalies: Sequence[Anomaly]) -> list[tuple[str, int, str, str]]:
    """Return (code, line, key, field) of each anomaly."""
    return [(anomaly.code, anomaly.line, anomaly.key, anomaly.field) for anomaly in anomalies]
