"""The questions of some videos with their graphs, read without holding the whole tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..joins import SPLIT_COLUMNS
from ..store import Store
from .drawing import Triple

_COLUMNS = (
    "question_id", "video_id", *SPLIT_COLUMNS, "question", "options", "answer", "answer_index", "type", "spans",
    "duration",
)  # fmt: skip
SHOWN = 1000
"""The page of questions lists at most this many."""


def of_videos(store: Store, keys: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the questions of each of some videos, in the order of the tables; each with its ``triples``."""
    records = _matching(store, "questions", keys, _COLUMNS)
    graphs = {
        _identity(record): [_triple(triple) for triple in record.get("triples") or ()]
        for record in _matching(store, "graphs", keys, ("question_id", "video_id", *SPLIT_COLUMNS, "triples"))
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        question = {name: record.get(name) for name in _COLUMNS} | {"triples": graphs.get(_identity(record), [])}
        found.setdefault(record["video_id"], []).append(question)
    return found


def listed(store: Store) -> tuple[list[dict[str, Any]], int]:
    """Return at most ``SHOWN`` questions, evenly spaced over the tables, and how many there are."""
    if "questions" not in store.tables:
        return [], 0
    total = store.manifest.tables["questions"].rows
    wanted = np.unique(np.linspace(0, total - 1, min(total, SHOWN), dtype=np.int64)) if total else np.empty(0, np.int64)
    found, first = [], 0
    for part in store.parts("questions"):  # one at a time: a store may have millions
        table = store.table("questions", part, columns=_COLUMNS)
        inside = wanted[(wanted >= first) & (wanted < first + table.num_rows)] - first
        first += table.num_rows
        found += table.take(pa.array(inside)).to_pylist()
    return [{name: record.get(name) for name in _COLUMNS} for record in found], total


def _matching(store: Store, name: str, keys: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a table about some videos, part by part."""
    if name not in store.tables:
        return []
    records: list[dict[str, Any]] = []
    for part in store.parts(name):
        table = store.table(name, part, columns=columns)
        if "video_id" in table.column_names:
            wanted = pc.is_in(table.column("video_id"), value_set=pa.array(keys, table.schema.field("video_id").type))
            records += table.filter(wanted).to_pylist()
    return records


def _identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in (*SPLIT_COLUMNS, "question_id"))


def _triple(record: Mapping[str, Any]) -> Triple:
    predicate = f"not {record['predicate']}" if record.get("negated") else record["predicate"]
    return Triple(record["subject"], predicate, record["object"], record.get("source") or "question")
