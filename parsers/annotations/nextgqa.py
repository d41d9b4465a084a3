"""NExT-GQA: a csv of multiple-choice questions, and the spans that answer them in ``gsub_<split>.json``.

Facts: NExT-GQA datasets/nextgqa/{train,val,test}.csv, gsub_{val,test}.json, frame2time_{val,test}.json,
map_vid_vidorID.json. NExT-QA's own csv (column ``video``, the answer as an index) and the csv that CRA derives from
STAR (a leading index column, the whole question id as ``qid``) have the same form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parsers.annotations.files import Broken, FileProblem, Record, csv_records, json_members, read_text
from parsers.annotations.report import Anomaly, Collector
from parsers.annotations.rows import (
    Row,
    RowError,
    UniqueIds,
    build_questions,
    check_key,
    check_spans,
    find_answer,
    note_repeated,
    number_of,
    shown,
)
from parsers.annotations.schema import Question

_REQUIRED = (("video_id", "video"), "question", "answer", "qid", "type", "a0", "a1")
_VIDEO_MAP = "map_vid_vidorID.json"


def official_names(split: str) -> list[str]:
    return [f"{split}.csv"]


def read(path: Path, dataset: str, split: str, report: Collector) -> list[Question]:
    """Questions of one csv, with the spans of the ``gsub_<split>.json`` beside it."""
    questions = read_csv(path, dataset, split, report)
    _check_neighbours(path, split, questions, report)
    return questions


def read_csv(path: Path, dataset: str, split: str, report: Collector, whole_ids: bool = False) -> list[Question]:
    """As :func:`read`, without the files that list videos. ``whole_ids``: ``qid`` alone is the question's id."""
    spans = _Spans.beside(path, split, report)
    records = csv_records(read_text(path), _REQUIRED)
    try:
        records = iter(list(records))  # whether answers are indices shows in all rows together
    except FileProblem as problem:
        report.append(Anomaly("error", problem.code, str(path), problem.line, "", problem.field, problem.message))
        return []
    rows = list(records)
    builder = _Builder(dataset, split, spans, whole_ids, _answers_are_indices(rows))
    questions = build_questions(str(path), rows, builder.build, report)
    if spans is not None:
        spans.note_unused(report)
    return questions


def _option_names(fields: Mapping[str, Any]) -> list[str]:
    """a0, a1, … as far as they go."""
    names: list[str] = []
    while (name := f"a{len(names)}") in fields:
        names.append(name)
    return names


def _answers_are_indices(rows: Sequence[Record | Broken]) -> bool:
    """NExT-QA's own csv holds indices. So does one in which every answer is one, and none is an option's text."""
    found = False
    for record in rows:
        if isinstance(record, Broken):
            continue
        names = _option_names(record.fields)
        answer = record.fields["answer"]
        if answer not in map(str, range(len(names))):
            return False
        if "video" not in record.fields and answer in (record.fields[name] for name in names):
            return False
        found = True
    return found


@dataclass(slots=True)
class _Builder:
    dataset: str
    split: str
    spans: _Spans | None
    whole_ids: bool
    indices: bool
    ids: UniqueIds = field(default_factory=UniqueIds)

    def build(self, row: Row) -> Question:
        video = row.key_text("video_id" if "video_id" in row.fields else "video")
        row.key = video
        qid = row.key_text("qid")
        row.key = check_key("qid", qid if self.whole_ids else f"{video}_{qid}")
        spans = self.spans.of(row, video, qid) if self.spans is not None else _NO_SPANS
        self.ids.check(row, "qid")
        question = row.text("question")
        if question != question.lower():
            row.note("upper_case", "question", f"{question!r} holds upper case")
        options = tuple(row.text(name) for name in _option_names(row.fields))
        note_repeated(row, options, "a0")
        answer, index = self._answer(row, options)
        return Question(
            question_id=row.key,
            video_id=video,
            dataset=self.dataset,
            split=self.split,
            row=row.index,
            question=question,
            options=options,
            answer=answer,
            answer_index=index,
            type=_family(qid) if self.whole_ids else row.text("type"),
            spans=spans.spans,
            duration=spans.duration,
            frame_count=row.count("frame_count"),
            width=row.count("width"),
            height=row.count("height"),
            fps=spans.fps,
        )

    def _answer(self, row: Row, options: Sequence[str]) -> tuple[str | None, int | None]:
        if row.get("answer") == "" and self.split.startswith("test"):
            return None, None
        if self.indices:
            index = int(row.get("answer"))
            return options[index], index
        answer = row.text("answer")
        return answer, find_answer(row, answer, options)


def _family(question_id: str) -> str:
    """``Interaction_T1`` of ``Interaction_T1_13``."""
    return question_id.rpartition("_")[0] or question_id


@dataclass(frozen=True, slots=True)
class _VideoSpans:
    spans: tuple[tuple[float, float], ...] = ()
    duration: float | None = None
    fps: float | None = None


_NO_SPANS = _VideoSpans()


@dataclass(slots=True)
class _Spans:
    """What ``gsub_<split>.json`` says: {video: {"duration": s, "location": {qid: [[start, end]…]}, "fps": rate}}."""

    file: str
    videos: dict[str, tuple[int, Any]]
    asked: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def beside(cls, path: Path, split: str, report: Collector) -> _Spans | None:
        """The spans of a csv; None, with a note, where a split that has spans lacks the file."""
        file = path.with_name(f"gsub_{split}.json")
        if not file.is_file():
            if split != "train":
                message = f"not found beside {path.name}; questions have no spans and no duration"
                report.append(Anomaly("note", "no_spans_file", str(file), 0, "", "", message))
            return None
        videos = {video: (line, value) for line, video, value in _members(file, report)}
        return cls(str(file), videos)

    def of(self, row: Row, video: str, qid: str) -> _VideoSpans:
        """Spans, duration and rate for one question, checked.

        Raises
        ------
        RowError
            With this file's name and line.
        """
        self.asked.add((video, qid))
        if video not in self.videos:
            raise RowError("no_spans", "location", f"{self.file} has no entry for video {video!r}")
        line, entry = self.videos[video]
        try:
            return self._checked(row, entry, qid)
        except RowError as error:
            raise RowError(error.code, error.field, error.message, self.file, line) from error

    def _checked(self, row: Row, entry: Any, qid: str) -> _VideoSpans:
        location = entry.get("location") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(location, dict):
            what = entry.message if isinstance(entry, Broken) else f"must be an object (got {shown(location)})"
            raise RowError("wrong_type", "location", what)
        if qid not in location:
            raise RowError("no_spans", "location", f"there is no entry for question {qid!r}")
        for name in ("duration", "fps"):
            if name not in entry:
                raise RowError("missing_field", name, "is missing")
        duration, fps = number_of("duration", entry["duration"]), number_of("fps", entry["fps"])
        if not duration or not fps:
            raise RowError("wrong_number", "fps" if duration else "duration", "must be more than 0")
        spans = check_spans(row, f"location.{qid}", location[qid], duration)
        if not spans:
            raise RowError("no_spans", f"location.{qid}", "must hold at least one span")
        return _VideoSpans(spans, duration, fps)

    def note_unused(self, report: Collector) -> None:
        """Notes on videos without a question, and on spans that no row of the csv asks for."""
        for video, (line, entry) in self.videos.items():
            location = entry.get("location") if isinstance(entry, dict) else None
            if not isinstance(location, dict):
                continue
            unused = [qid for qid in location if (video, qid) not in self.asked]
            if not location:
                note = "empty_location", "the video has no span and no question"
            elif unused:
                note = "unused_span", f"no row asks for question {', '.join(unused)}"
            else:
                continue
            report.append(Anomaly("note", note[0], self.file, line, video, "location", note[1]))


def _members(file: Path, report: Collector) -> Iterator[tuple[int, str, Any]]:
    """Members of a JSON object; where it stops being readable is an error in the report."""
    try:
        yield from json_members(read_text(file))
    except FileProblem as problem:
        report.append(Anomaly("error", problem.code, str(file), problem.line, problem.field, "", problem.message))


def _check_neighbours(path: Path, split: str, questions: Sequence[Question], report: Collector) -> None:
    """Note videos that the file of frame times, or the map to the source's folders, leaves out; both are optional."""
    folder = path.parent
    maps = [each / _VIDEO_MAP for each in (folder, folder.parent, folder.parent / "nextqa", folder.parent / "nextgqa")]
    for code, candidates in (("not_in_frame2time", [folder / f"frame2time_{split}.json"]), ("not_in_video_map", maps)):
        file = next((each for each in candidates if each.is_file()), None)
        if file is None:
            continue
        listed = {video for _, video, _ in _members(file, report)}
        for video in dict.fromkeys(question.video_id for question in questions):
            if video not in listed:
                report.append(Anomaly("note", code, str(file), 0, video, "", "the video is not listed"))
