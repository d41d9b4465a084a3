"""Makes the tables that a parse writes: graphs of questions, anomalies of annotation files, and what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from parsers.annotations import Anomaly
from parsers.components import components, node_texts
from parsers.graphs import Triple, triples
from parsers.parse import PARSES, Parse, Refusal, Refused, first_refused

GRAPHS_EPOCH = 2
"""Part of the graphs' spec; raised when the same parse would give another graph."""

_POSITIONS = pa.list_(pa.int32())
_TRIPLE = pa.struct(
    [
        pa.field("source", pa.string()),
        pa.field("subject", pa.string()),
        pa.field("predicate", pa.string()),
        pa.field("object", pa.string()),
        pa.field("subject_tokens", _POSITIONS),
        pa.field("predicate_tokens", _POSITIONS),
        pa.field("object_tokens", _POSITIONS),
        pa.field("relation", pa.string()),
        pa.field("negated", pa.bool_()),
    ]
)
GRAPHS = pa.schema(
    [
        pa.field("question_id", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("triples", pa.list_(_TRIPLE)),
        pa.field("nodes", pa.list_(pa.string())),
    ]
)
"""Columns of the ``graphs`` table: triples of the question and of its answer, and the texts of the eight nodes."""

ANOMALIES = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("code", pa.string()),
        pa.field("file", pa.string()),
        pa.field("line", pa.int32()),
        pa.field("key", pa.string()),
        pa.field("field", pa.string()),
        pa.field("message", pa.string()),
    ]
)
"""Columns of the ``annotation_report`` table; see ``parsers.annotations.Anomaly``."""


def texts_of(questions: pa.Table) -> list[str]:
    """Return the unique texts of questions and right answers, by length, then by code points."""
    columns = (questions["question"].to_pylist(), questions["answer"].to_pylist())
    unique = {text for column in columns for text in column if text is not None}
    return sorted(unique, key=lambda text: (len(text), text))


def graphs_table(
    questions: pa.Table, parses: Mapping[str, Parse], released: bool, refused: Mapping[str, Refused] | None = None
) -> pa.Table:
    """Return the ``graphs`` table: one row per question, in order.

    A question with a refused text has no triples, and null instead of nodes.

    Parameters
    ----------
    questions
        Rows of the ``questions`` table.
    parses
        Text to parse, for every question and every answer that is not hidden.
    released
        Whether nodes are those of the released code, which finds no passive subjects.
    refused
        Text to what is wrong with it, for the texts that have no parse.
    """
    absent = refused or {}
    empty = Parse("", ())

    @cache
    def records(text: str | None, source: str) -> list[dict[str, Any]]:
        return [] if text is None else [_record(triple, source) for triple in triples(parses[text])]

    @cache
    def nodes(question: str, answer: str | None) -> list[str]:
        return node_texts(components(parses[question], empty if answer is None else parses[answer], released))

    pairs = list(zip(questions["question"].to_pylist(), questions["answer"].to_pylist(), strict=True))
    columns = [questions[name] for name in ("question_id", "video_id", "dataset", "split")]
    triple_lists = [
        [] if first_refused(absent, *pair) else records(pair[0], "question") + records(pair[1], "answer")
        for pair in pairs
    ]
    columns.append(pa.array(triple_lists, GRAPHS.field("triples").type))
    node_lists = [None if first_refused(absent, *pair) else nodes(*pair) for pair in pairs]
    columns.append(pa.array(node_lists, GRAPHS.field("nodes").type))
    return pa.table(columns, schema=GRAPHS)


def _record(triple: Triple, source: str) -> dict[str, Any]:
    return {"source": source} | {name: getattr(triple, name) for name in _TRIPLE.names[1:]}


def count_triple_parts(graphs: pa.Table) -> dict[str, int]:
    """Count, for subject, predicate and object, the questions that have one in some triple of their text."""
    counts = dict.fromkeys(("subject", "predicate", "object"), 0)
    for record in graphs["triples"].to_pylist():
        of_question = [triple for triple in record if triple["source"] == "question"]
        for name in counts:
            if any(triple[name] is not None for triple in of_question):
                counts[name] += 1
    return counts


def refusals_table(questions: pa.Table, refused: Mapping[str, Refused], files: Sequence[str]) -> pa.Table:
    """Return a note of the ``annotation_report`` for each question that has no graph because of a refused text."""
    columns = (questions[name].to_pylist() for name in ("question_id", "question", "answer"))
    rows = []
    for key, question, answer in zip(*columns, strict=True):
        reason = first_refused(refused, question, answer)
        if reason is not None:
            field = "question" if reason.text == question else "answer"
            where = {"file": Path(files[0]).name, "line": 0, "key": key, "field": field}
            rows.append({"kind": "note", "code": reason.code, **where, "message": reason.message})
    return pa.Table.from_pylist(rows, schema=ANOMALIES)


def without_refusals(report: pa.Table) -> pa.Table:
    """Return the rows of an ``annotation_report`` that reading the annotations gave, without those of parsing."""
    return report.filter(pc.invert(pc.is_in(report["code"], pa.array(get_args(Refusal), pa.string()))))


def with_errors(parses: pa.Table) -> pa.Table:
    """Return rows of the ``parses`` table with the column ``error``, which older stores lack."""
    if "error" in parses.column_names:
        return parses
    return parses.append_column(PARSES.field("error"), pa.nulls(parses.num_rows, pa.string()))


def is_worth_another_try(error: str | None) -> bool:
    """Return whether a text may be parsed in another run: the parser failed, maybe by a fault of the machine."""
    return error is not None and error.startswith("parser_failed")


def anomalies_table(anomalies: Iterable[Anomaly], folder: Path) -> pa.Table:
    """Return the ``annotation_report`` table; files are named relative to the annotations' folder."""
    rows = [
        {name: getattr(anomaly, name) for name in ANOMALIES.names} | {"file": os.path.relpath(anomaly.file, folder)}
        for anomaly in anomalies
    ]
    return pa.Table.from_pylist(rows, schema=ANOMALIES)


@dataclass(frozen=True, slots=True)
class Difference:
    """Question ids of one part, compared with what the store holds."""

    new: Sequence[str]
    changed: Sequence[str]
    removed: Sequence[str]
    unchanged: int

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.removed)

    def counts(self) -> dict[str, int]:
        """Return the number of questions by what became of them."""
        return {
            "new": len(self.new),
            "changed": len(self.changed),
            "removed": len(self.removed),
            "unchanged": self.unchanged,
        }


def _by_id(questions: pa.Table) -> dict[str, dict[str, Any]]:
    """Return the questions by their id, without their place in the file: a row above that goes changes no question."""
    rows = questions.drop_columns("row").to_pylist()
    return {row["question_id"]: row for row in rows}


def difference(stored: pa.Table | None, questions: pa.Table) -> Difference:
    """Compare the stored questions of a part with those that were read; keep the order of either side."""
    before = _by_id(stored) if stored is not None else {}
    now = _by_id(questions)
    common = [key for key in now if key in before]
    changed = [key for key in common if now[key] != before[key]]
    return Difference(
        new=[key for key in now if key not in before],
        changed=changed,
        removed=[key for key in before if key not in now],
        unchanged=len(common) - len(changed),
    )
