"""Rows of every format with any changes: reading raises nothing, and no row is lost without a word."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.annotations import QUESTIONS, Anomalies, read_annotations
from tests.parsers.annotations.test_moments import CG_BENCH, HIGHLIGHT, REXTIME
from tests.parsers.annotations.test_music_family import FORTIS
from tests.parsers.annotations.test_videoqa import (
    ACTION_HEADER,
    ACTION_ROW,
    COUNT_HEADER,
    COUNT_ROWS,
    FRAME_HEADER,
    FRAME_ROW,
    INTENT_HEADER,
    INTENT_ROW,
    MSVD_ROWS,
    answered,
    asked,
)

OBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "msvd_qa": ("val_qa.json", MSVD_ROWS[0]),
    "msrvtt_qa": ("val_qa.json", MSVD_ROWS[0]),
    "music_avqa": ("avqa-val.json", FORTIS[0]),
    "activitynet_qa": ("val_q.json", asked()),
    "cg_bench": ("cgbench.json", CG_BENCH),
    "qvhighlights": ("val.jsonl", HIGHLIGHT),
    "rextime": ("val.jsonl", REXTIME),
}
CELLS: dict[str, tuple[str, str, str]] = {
    "tgif_action": (ACTION_HEADER, ACTION_ROW, "\t"),
    "tgif_count": (COUNT_HEADER, COUNT_ROWS[0], "\t"),
    "tgif_frameqa": (FRAME_HEADER, FRAME_ROW, "\t"),
    "intentqa": (INTENT_HEADER, INTENT_ROW, ","),
    "charades_sta": ("", "3MSZA 24.3 30.4##person turn a light on.", " "),
}
_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(-2, 9), max_size=3)
)


def survives(format: str, folder: Path, name: str, rows: int) -> None:
    """Each row is a question or at least one error."""
    anomalies = Anomalies()
    table = read_annotations(format, folder / name, "val", anomalies)
    assert table.schema == QUESTIONS
    table.validate(full=True)
    assert all(str(anomaly).isprintable() for anomaly in anomalies)
    assert table.num_rows + len(anomalies.errors) >= rows


@pytest.mark.parametrize("format", OBJECTS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_objects(format: str, data: st.DataObject) -> None:
    name, row = OBJECTS[format]
    changed = st.dictionaries(st.sampled_from(sorted(row)), _values, max_size=3).map(lambda changes: row | changes)
    rows = data.draw(st.lists(changed, min_size=1, max_size=3))
    text = "\n".join(map(json.dumps, rows)) if name.endswith("jsonl") else json.dumps(rows)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(text)
        (Path(folder) / "val_a.json").write_text(json.dumps([answered()]))
        survives(format, Path(folder), name, len(rows))


@pytest.mark.parametrize("format", ["activitynet_captions", "tacos"])
@settings(max_examples=40)
@given(changes=st.dictionaries(st.sampled_from(["timestamps", "sentences", "fps", "num_frames", "duration"]), _values))
def test_any_captions(format: str, changes: dict[str, Any]) -> None:
    video = {"timestamps": [[1, 2]], "sentences": ["He runs."], "fps": 25, "num_frames": 100, "duration": 4, **changes}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "val.json").write_text(json.dumps({"a.avi": video}))
        empty = changes.get("sentences") == changes.get("timestamps") == []
        survives(format, Path(folder), "val.json", 0 if empty else 1)


@settings(max_examples=40)
@given(changes=st.dictionaries(st.sampled_from(["answer", "type", "question_id"]), _values))
def test_any_answers_of_activitynet(changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "val_q.json").write_text(json.dumps([asked()]))
        (Path(folder) / "val_a.json").write_text(json.dumps([answered() | changes]))
        survives("activitynet_qa", Path(folder), "val_q.json", 1)


@pytest.mark.parametrize("format", CELLS)
@settings(max_examples=40)
@given(at=st.integers(0, 15), cell=st.text(max_size=8))
def test_any_cells(format: str, at: int, cell: str) -> None:
    header, row, separator = CELLS[format]
    cells = row.split(separator)
    cells[at % len(cells)] = cell
    lines = [*([header] if header else []), separator.join(cells)]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    blank = not separator.join(cells).strip()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "val.csv").write_bytes(data + b"\n")
        survives(format, Path(folder), "val.csv", 0 if blank else 1)
