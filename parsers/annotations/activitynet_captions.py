"""Reads ActivityNet Captions and TACoS: ``{video: {timestamps: [[start, end], …], sentences: […], …}}``.

Source: ``data/ActivityNet/<split>.json`` and ``data/TACoS/<split>.json`` of 2D-TAN (microsoft/VideoX);
``docs/facts/videoqa.md`` section 8. ActivityNet Captions has times in seconds and ``duration``. TACoS counts frames,
has ``fps`` and ``num_frames``, and calls a video by its file, ``s13-d21.avi``; here it is ``s13-d21``, and its times
are in seconds. The source gives no ids: the n-th sentence of a video is called ``<video>_<n>``, from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from parsers.annotations.anomalies import Anomalies
from parsers.annotations.files import Broken, Record, json_members, read_text
from parsers.annotations.rows import QuestionBuilder, Row, RowError, check_key, check_spans, finite_number, number_of
from parsers.annotations.schema import Question

_KEYS = ("duration", "fps", "num_frames")
_SUFFIX = ".avi"


@dataclass(frozen=True, slots=True)
class Captions:
    """One of the two sets.

    Attributes
    ----------
    counts_frames
        Whether times are frames, not seconds.
    """

    counts_frames: bool

    def official_names(self, split: str) -> list[str]:
        """Return the name of the split's file."""
        return [f"{split}.json"]

    def read(self, path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
        """Return the sentences of one split, each a query."""
        builder = _Builder(str(path), dataset, split, anomalies, self.counts_frames)
        return builder.build_all(_records(read_text(path)))


ACTIVITYNET = Captions(counts_frames=False)
TACOS = Captions(counts_frames=True)


def _records(text: str) -> Iterator[Record | Broken]:
    """Yield one row for each sentence of each video; a video whose lists do not fit together is one broken row."""
    for line, video, entry in json_members(text):
        if isinstance(entry, Broken):
            yield entry
            continue
        times, sentences = (
            entry.get(name) if isinstance(entry, dict) else None for name in ("timestamps", "sentences")
        )
        if not isinstance(times, list) or not isinstance(sentences, list) or len(times) != len(sentences):
            message = f"video {video!r} must have lists timestamps and sentences of one length"
            yield Broken(line, "wrong_type", message)
            continue
        rest = {name: value for name, value in entry.items() if name not in ("timestamps", "sentences")}
        for number, (span, sentence) in enumerate(zip(times, sentences, strict=True)):
            yield Record(line, {**rest, "video": video, "number": number, "timestamps": span, "sentences": sentence})


@dataclass(slots=True)
class _Builder(QuestionBuilder):
    known: ClassVar[frozenset[str] | None] = frozenset((*_KEYS, "video", "number", "timestamps", "sentences"))

    counts_frames: bool

    def build(self, row: Row) -> Question:
        video = row.key_text("video")
        if self.counts_frames:
            video = video.removesuffix(_SUFFIX)
        row.key = check_key("video", f"{video}_{row.get('number')}")
        self.check_unique(row, "video")
        span: Any = row.required("timestamps")
        fps, frames = None, None
        duration = row.duration("duration")
        if self.counts_frames:
            fps, frames = number_of("fps", row.required("fps")), row.count("num_frames")
            if not fps or not frames:
                raise RowError("wrong_number", "num_frames" if fps else "fps", "must be given, and more than 0")
            if not isinstance(span, list):
                raise RowError("wrong_type", "timestamps", "must be pairs [start, end] of frames")
            span = [finite_number("timestamps", frame) / fps for frame in span]
            duration = frames / fps
        return replace(
            self.question(row, video, row.text("sentences")),
            spans=check_spans(row, "timestamps", [span], duration),
            duration=duration,
            frame_count=frames,
            fps=fps,
        )
