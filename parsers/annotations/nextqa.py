"""Reads the multiple-choice questions of NExT-QA and IntentQA, ``<split>.csv``, without spans.

Source: ``dataset/nextqa`` of doc-doc/NExT-QA and ``datasets/IntentQA`` of JoseponLee/IntentQA;
``docs/facts/videoqa.md`` sections 5 and 6. The form is that of ``nextgqa``, whose files hold a part of these questions
and their spans. IntentQA has three columns more, on the action that a question is about; they are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from parsers.annotations import nextgqa
from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.schema import Question


def official_names(split: str) -> list[str]:
    """Return the name of the split's file."""
    return [f"{split}.csv"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one csv."""
    spans = path.with_name(f"gsub_{split}.json")
    if spans.is_file():
        message = "is not read by this format; nextgqa reads the spans in it"
        anomalies.append(Anomaly("note", "spans_not_read", str(spans), 0, "", "", message))
    rows = nextgqa.csv_rows(path, split, anomalies)
    indices = nextgqa.answers_are_indices(rows)
    return _Builder(str(path), dataset, split, anomalies, None, False, indices).build_all(rows)


@dataclass(slots=True)
class _Builder(nextgqa.Builder):
    known: ClassVar[frozenset[str] | None] = frozenset(
        (
            *("video", "video_id", "frame_count", "width", "height", "question", "answer", "qid", "type"),
            *(f"a{number}" for number in range(5)),
            *("action", "lemma", "lemma_id"),
        )
    )
