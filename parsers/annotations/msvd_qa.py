"""Reads MSVD-QA and MSRVTT-QA: one JSON array per split, ``<split>_qa.json``.

Source: ``msvd-qa/data/msvd_qa`` of fanchenyou/HME-VideoQA, and the csv of ``dataset/msvd`` and ``dataset/msrvtt`` of
doc-doc/HQGA, which hold the same rows without question marks; ``docs/facts/videoqa.md`` sections 1 and 2. A question's
type is its first word, by which published tables are divided.

Videos have numbers. MSRVTT's files are named after them, ``video7010.mp4``. Those of MSVD are named after their clip on
YouTube, by ``youtube_mapping.txt`` beside the questions; without that file, a video is called ``vid1451``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import Broken, Record, csv_records, json_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, RowError, check_key, shown
from parsers.annotations.schema import Question

_MAPPING = "youtube_mapping.txt"
_LINE = re.compile(r"(\S+)\s+vid0*([0-9]{1,18})\s*")
_CSV = (("video", "video_id"), "question", "answer", "qid")


@dataclass(frozen=True, slots=True)
class NumberedVideos:
    """One of the two sets.

    Attributes
    ----------
    prefix
        What stands before the number in a video's name.
    mapped
        Whether the files are named by ``youtube_mapping.txt``.
    """

    prefix: str
    mapped: bool

    def official_names(self, split: str) -> list[str]:
        """Return the names of the split's file, the most likely first."""
        return [f"{split}_qa.json", f"{split}.csv"]

    def read(self, path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
        """Return the questions of one split."""
        text = read_text(path)
        is_csv = path.suffix.lower() == ".csv"
        records: Iterable[Record | Broken] = csv_records(text, _CSV) if is_csv else json_records(text)
        names = _read_mapping(path.with_name(_MAPPING), anomalies) if self.mapped else None
        return _Builder(str(path), dataset, split, anomalies, self.prefix, names, is_csv).build_all(records)


MSVD = NumberedVideos("vid", mapped=True)
MSRVTT = NumberedVideos("video", mapped=False)


def _read_mapping(file: Path, anomalies: Anomalies) -> dict[str, str] | None:
    """Return the name of each video's file by its number; None, which is noted, if there is no such list."""
    if not file.is_file():
        message = "not found beside the questions; a video is called vid<number>, as no file of the published videos is"
        anomalies.append(Anomaly("note", "no_video_map", str(file), 0, "", "", message))
        return None
    names: dict[str, str] = {}
    for line, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        match = _LINE.fullmatch(text)
        code, message = "malformed_line", f"must be <name of the file> vid<number> (got {shown(text)})"
        if match and names.setdefault(match[2], match[1]) != match[1]:
            code, message = "repeated_video", f"video {match[2]} is already called {names[match[2]]!r}, which is taken"
        elif match:
            continue
        anomalies.append(Anomaly("error", code, str(file), line, "", "", message))
    return names


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    known: ClassVar[frozenset[str] | None] = frozenset(
        (
            *("answer", "id", "question", "video_id", "category_id"),
            *("video", "qid", "type", "width", "height"),  # of the csv
        )
    )

    prefix: str
    names: Mapping[str, str] | None
    is_csv: bool

    def build(self, row: Row) -> Question:
        row.key = row.key_text("qid" if self.is_csv else "id")
        self.check_unique(row, "qid" if self.is_csv else "id")
        text = row.text("question")
        return replace(
            self.question(row, self._video(row), text),
            answer=None if self.hides_answer(row) else row.text("answer"),
            type=text.split()[0].lower(),
            width=row.count("width"),
            height=row.count("height"),
        )

    def _video(self, row: Row) -> str:
        name = "video" if "video" in row.fields else "video_id"
        given = row.key_text(name)
        if not (given.isascii() and given.isdecimal()):
            raise RowError("wrong_id", name, f"must be the number of a video (got {shown(given)})")
        number = given.lstrip("0") or "0"
        if self.names is None:
            return f"{self.prefix}{number}"
        if number not in self.names:
            raise RowError("no_video", name, f"video {number} is not in {_MAPPING}")
        return check_key(name, self.names[number])
