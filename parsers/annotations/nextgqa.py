"""Reads NExT-GQA: a csv of multiple-choice questions, and the spans that answer them in ``gsub_<split>.json``.

NExT-QA's own csv (column ``video``, the answer as an index) and the csv that CRA derives from STAR (a leading index
column, the whole question id as ``qid``) have the same form.

Source: the files in ``datasets/nextgqa`` of NExT-GQA, described in ``docs/facts/cra.md`` sections 1.1 to 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parsers.annotations.anomalies import Anomalies, Anomaly
from parsers.annotations.files import Broken, FileProblem, Record, csv_records, json_members, read_text
from parsers.annotations.rows import (
    QuestionBuilder,
    Row,
    RowError,
    check_key,
    find_answer,
    find_index,
    is_empty,
    note_repeated,
    number_of,
    option_names,
    shown,
    some_spans,
)
from parsers.annotations.schema import Question
from parsers.characters import trimmed

_REQUIRED = (("video_id", "video"), "question", "qid", "type", "a0", "a1")
_VIDEO_MAP = "map_vid_vidorID.json"


def official_names(split: str) -> list[str]:
    """Return the name of the split's file."""
    return [f"{split}.csv"]


def read(path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
    """Return the questions of one csv, with the spans of the ``gsub_<split>.json`` beside it."""
    questions = read_csv(path, dataset, split, anomalies)
    _check_neighbours(path, split, questions, anomalies)
    return questions


def read_csv(path: Path, dataset: str, split: str, anomalies: Anomalies, whole_ids: bool = False) -> list[Question]:
    """Return what ``read`` returns, without looking at the files that list videos.

    With ``whole_ids``, ``qid`` alone is the question's id; otherwise it follows the video's id.
    """
    spans = _SpansFile.beside(path, split, anomalies)
    rows = csv_rows(path, split, anomalies)
    builder = Builder(str(path), dataset, split, anomalies, spans, whole_ids, answers_are_indices(rows))
    questions = builder.build_all(rows)
    if spans is not None:
        spans.note_unused(anomalies)
    return questions


def csv_rows(path: Path, split: str, anomalies: Anomalies) -> list[Record | Broken]:
    """Return the rows of a csv; where it stops being readable is an error, and the rows before it are kept."""
    required = _REQUIRED if split.startswith("test") else (*_REQUIRED, "answer")
    rows: list[Record | Broken] = []
    try:
        rows.extend(csv_records(read_text(path), required))
    except FileProblem as problem:
        anomalies.append(problem.anomaly(str(path)))
    return rows


def answers_are_indices(rows: Sequence[Record | Broken]) -> bool:
    """Return whether the answers are indices of options, not texts.

    They are if more answers can be indices than are texts of options. An answer that is both counts as an index in
    NExT-QA's own csv, which has a column ``video``, and as a text elsewhere. One that is neither says nothing: it
    costs its own row alone.
    """
    indices = texts = 0
    own = False
    for record in rows:
        if isinstance(record, Broken) or is_empty(record.fields.get("answer")):
            continue
        own = "video" in record.fields
        names = option_names(record.fields)
        answer = trimmed(record.fields["answer"])
        is_text = answer in (record.fields.get(name) for name in names)
        if answer in map(str, range(len(names))) and (own or not is_text):
            indices += 1
        else:
            texts += is_text
    return indices > texts or (own and indices == texts > 0)


@dataclass(slots=True)
class Builder(QuestionBuilder):
    """Builds the questions of one csv.

    Attributes
    ----------
    spans
        The file of spans; None gives the questions no spans.
    whole_ids
        Whether ``qid`` alone is a question's id; otherwise it follows the video's id.
    answers_are_indices
        Whether the answers are indices of options, not texts.
    """

    spans: _SpansFile | None
    whole_ids: bool
    answers_are_indices: bool

    def build(self, row: Row) -> Question:
        video = row.key_text("video_id" if "video_id" in row.fields else "video")
        row.key = video
        qid = row.key_text("qid")
        row.key = check_key("qid", qid if self.whole_ids else f"{video}_{qid}")
        spans = self.spans.look_up(row, video, qid) if self.spans is not None else _NO_SPANS
        self.check_unique(row, "qid")
        question = row.text("question")
        if question != question.lower():
            row.note("upper_case", "question", f"{question!r} has upper-case letters")
        options = tuple(row.text(name) for name in option_names(row.fields))
        note_repeated(row, options, "a0")
        answer, index = self._answer(row, options)
        return replace(
            self.question(row, video, question),
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
        if self.hides_answer(row):
            return None, None
        if self.answers_are_indices:
            index = find_index(row, "answer", options)
            return options[index], index
        answer = row.text("answer")
        return answer, find_answer(row, answer, options)


def _family(question_id: str) -> str:
    """Return the question type in an id of STAR: ``Interaction_T1`` for ``Interaction_T1_13``."""
    return question_id.rpartition("_")[0] or question_id


@dataclass(frozen=True, slots=True)
class _VideoSpans:
    spans: tuple[tuple[float, float], ...] = ()
    duration: float | None = None
    fps: float | None = None


_NO_SPANS = _VideoSpans()


@dataclass(slots=True)
class _SpansFile:
    """The content of ``gsub_<split>.json``.

    Its form is {video: {"duration": seconds, "location": {qid: [[start, end], …]}, "fps": rate}}.

    Attributes
    ----------
    file
        The file, as messages name it.
    videos
        The line and the entry of each video.
    used
        The pairs (video, qid) that were looked up.
    """

    file: str
    videos: dict[str, tuple[int, Any]]
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def beside(cls, path: Path, split: str, anomalies: Anomalies) -> _SpansFile | None:
        """Read the file beside a csv; return None if there is none, and note it unless the split is ``train``."""
        file = path.with_name(f"gsub_{split}.json")
        if not file.is_file():
            if split != "train":
                message = f"not found beside {path.name}; questions have no spans and no duration"
                anomalies.append(Anomaly("note", "no_spans_file", str(file), 0, "", "", message))
            return None
        members = _members(file, anomalies, needed=True)
        videos = {trimmed(video): (line, entry) for line, video, entry in members}
        return cls(str(file), videos)

    def look_up(self, row: Row, video: str, qid: str) -> _VideoSpans:
        """Return the checked spans, duration and rate of one question.

        Raises
        ------
        RowError
            With this file's name and line.
        """
        self.used.add((video, qid))
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
            message = entry.message if isinstance(entry, Broken) else f"must be an object (got {shown(location)})"
            raise RowError("wrong_type", "location", message)
        location = {trimmed(key): spans for key, spans in location.items()}
        if qid not in location:
            raise RowError("no_spans", "location", f"has no entry for question {qid!r}")
        for name in ("duration", "fps"):
            if name not in entry:
                raise RowError("missing_field", name, "is missing")
        duration, fps = number_of("duration", entry["duration"]), number_of("fps", entry["fps"])
        if not duration or not fps:
            raise RowError("wrong_number", "fps" if duration else "duration", "must be more than 0")
        return _VideoSpans(some_spans(row, f"location.{qid}", location[qid], duration), duration, fps)

    def note_unused(self, anomalies: Anomalies) -> None:
        """Note the videos without a question, and the spans that no row of the csv uses."""
        for video, (line, entry) in self.videos.items():
            location = entry.get("location") if isinstance(entry, dict) else None
            if not isinstance(location, dict):
                continue
            unused = [qid for qid in location if (video, trimmed(qid)) not in self.used]
            if not location:
                code, message = "empty_location", "the video has no span and no question"
            elif unused:
                code, message = "unused_span", f"no row has question {', '.join(unused)}"
            else:
                continue
            anomalies.append(Anomaly("note", code, self.file, line, video, "location", message))


def _members(file: Path, anomalies: Anomalies, needed: bool = False) -> Iterator[tuple[int, str, Any]]:
    """Yield (line, key, value) of a JSON object's members; where it stops being readable is an error.

    ``needed`` says that questions cannot be read without the file.
    """
    try:
        yield from json_members(read_text(file))
    except FileProblem as problem:
        where = (str(file), problem.line, problem.field, "")
        anomalies.append(Anomaly("error", problem.code, *where, problem.message, ends_file=needed))


def _check_neighbours(path: Path, split: str, questions: Sequence[Question], anomalies: Anomalies) -> None:
    """Note the videos that two optional files lack: the times of frames, and the map to the source's folders."""
    folder = path.parent
    homes = (folder, folder.parent, folder.parent / "nextqa", folder.parent / "nextgqa")
    for code, candidates in (
        ("not_in_frame2time", [folder / f"frame2time_{split}.json"]),
        ("not_in_video_map", [home / _VIDEO_MAP for home in homes]),
    ):
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            continue
        listed = {trimmed(video) for _, video, _ in _members(file, anomalies)}
        for video in dict.fromkeys(question.video_id for question in questions):
            if video not in listed:
                anomalies.append(Anomaly("note", code, str(file), 0, video, "", "the video is not listed"))
