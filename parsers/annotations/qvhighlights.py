"""Reads QVHighlights and ReXTime: one object per line with a query and the windows of the video that it describes.

Source: ``data/highlight_<split>_release.jsonl`` and ``data/highlight_test_with_gt.jsonl`` of jayleicn/moment_detr, and
``data/rextime_val.jsonl`` of ReXTime/ReXTime; ``docs/facts/videoqa.md`` section 8. QVHighlights' videos are clips of
150 s, ``<YouTube id>_<start>_<end>.mp4``, and its windows count from the start of the clip; its saliency scores are
dropped. ReXTime's rows on GitHub have the letter of the right option and lack the options, so that they have no
answer; those of its data set on Hugging Face have ``question``, ``options`` and ``span``, and are read too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import Broken, Record, json_records, jsonl_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, find_letter, is_empty, option_list, some_spans
from parsers.annotations.schema import Question
from settings.messages import plural


@dataclass(frozen=True, slots=True)
class Windows:
    """One of the two sets.

    Attributes
    ----------
    names
        Names of a split's file, with ``{split}`` in place of the split.
    """

    names: tuple[str, ...]

    def official_names(self, split: str) -> list[str]:
        """Return the names of the split's file, the most likely first."""
        return [name.format(split=split) for name in self.names]

    def read(self, path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
        """Return the queries of one split."""
        text = read_text(path)
        records: Iterable[Record | Broken] = json_records(text) if path.suffix == ".json" else jsonl_records(text)
        builder = _Builder(str(path), dataset, split, anomalies)
        questions = builder.build_all(records)
        if builder.letters:
            message = f"{plural(builder.letters, 'row')} without options: the letters of their answers are dropped"
            anomalies.append(Anomaly("note", "no_options", str(path), 0, "", "ans", message))
        return questions


QVHIGHLIGHTS = Windows(("highlight_{split}_release.jsonl", "highlight_{split}_with_gt.jsonl"))
REXTIME = Windows(("rextime_{split}.jsonl", "rextime_{split}.json"))


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    """Counts the rows that name an option and lack the options."""

    known: ClassVar[frozenset[str] | None] = frozenset(
        (
            *("qid", "query", "vid", "duration", "relevant_windows", "relevant_clip_ids", "saliency_scores"),
            *("ans", "question", "options", "answer", "span", "source", "category"),
        )
    )

    letters: int = 0

    def build(self, row: Row) -> Question:
        row.key = row.key_text("qid")
        self.check_unique(row, "qid")
        duration = row.duration("duration")
        options = () if row.get("options") is None else option_list(row, "options")
        index = None
        if not is_empty(row.get("ans")):
            index = find_letter(row, "ans", options) if options else None
            self.letters += not options
        return replace(
            self.question(row, row.key_text("vid"), row.text("question" if "question" in row.fields else "query")),
            options=options,
            answer=None if index is None else options[index],
            answer_index=index,
            type="" if is_empty(row.get("category")) else row.text("category"),
            spans=self._spans(row, duration),
            duration=duration,
        )

    def _spans(self, row: Row, duration: float | None) -> tuple[tuple[float, float], ...]:
        """Return the windows, which a test split may hide."""
        if row.get("relevant_windows") is None and row.get("span") is not None:
            return some_spans(row, "span", [row.get("span")], duration)
        windows: Any = row.get("relevant_windows")
        if windows is None and self.split.startswith("test"):
            return ()
        return some_spans(row, "relevant_windows", row.required("relevant_windows"), duration)
