"""Reads Charades-STA, ``charades_sta_<split>.txt``: one line per query, ``3MSZA 24.3 30.4##person turn a light on.``.

Source: ``data/Charades-STA`` and ``lib/datasets/charades.py`` of 2D-TAN (microsoft/VideoX);
``docs/facts/videoqa.md`` section 8. The video's duration is the ``length`` of ``Charades_v1_<split>.csv``, which is
looked for beside the queries. The source gives no ids: the n-th query of a video is called ``<video>_<n>``, from 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import Broken, FileProblem, Record, csv_records, read_text
from parsers.annotations.rows import QuestionBuilder, Row, RowError, check_key, check_spans
from parsers.annotations.schema import Question

_LINE = re.compile(r"(?P<video>\S+) (?P<start>[-+.\deE]+) (?P<end>[-+.\deE]+)##(?P<query>.*)")


def official_names(split: str) -> list[str]:
    """Return the name of the split's file."""
    return [f"charades_sta_{split}.txt"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the queries of one split."""
    durations = _durations(path.with_name(f"Charades_v1_{split}.csv"), anomalies)
    return _Builder(str(path), dataset, split, anomalies, durations).build_all(_records(read_text(path)))


def _records(text: str) -> Iterator[Record | Broken]:
    """Yield the rows of a file; blank lines are skipped."""
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        match = _LINE.fullmatch(content.removesuffix("\r"))
        if match:
            yield Record(line, match.groupdict())
        else:
            yield Broken(line, "malformed_line", "must be <video> <start> <end>##<query>")


def _durations(file: Path, anomalies: Anomalies) -> dict[str, float] | None:
    """Return the seconds of each video that the csv of Charades lists; None, which is noted, if there is none."""
    if not file.is_file():
        message = "not found beside the queries, which have no duration"
        anomalies.append(Anomaly("note", "no_lengths_file", str(file), 0, "", "", message))
        return None
    durations: dict[str, float] = {}
    try:
        for index, record in enumerate(csv_records(read_text(file), ("id", "length"))):
            try:
                if isinstance(record, Broken):
                    raise RowError(record.code, "", record.message)
                row = Row(str(file), record.line, index, record.fields)
                duration = row.duration("length")
                if duration is not None:
                    durations[row.key_text("id")] = duration
            except RowError as error:
                anomalies.append(Anomaly("error", error.code, str(file), record.line, "", error.field, error.message))
    except FileProblem as problem:
        anomalies.append(problem.anomaly(str(file)))
    return durations


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    durations: Mapping[str, float] | None
    _queries: Counter[str] = field(default_factory=Counter)

    def build(self, row: Row) -> Question:
        video = row.key_text("video")
        row.key = check_key("video", f"{video}_{self._queries[video]}")
        self._queries[video] += 1
        duration = self.durations.get(video) if self.durations is not None else None
        if self.durations is not None and duration is None:
            row.note("no_length", "video", f"Charades_v1_{self.split}.csv does not list {video!r}")
        start, end = row.second("start"), row.second("end")
        return replace(
            self.question(row, video, row.text("query")),
            spans=check_spans(row, "end", [[start, end]], duration),
            duration=duration,
        )
