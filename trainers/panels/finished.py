"""A finished run, and one of its questions with what was predicted for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from settings.files import TEXT_BYTES, read_text
from settings.messages import printable
from stores.loading import Questions
from trainers.errors import TrainingError
from trainers.metrics.grounding import Span
from trainers.panels.figure import Clip, seconds


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A folder that ``jobs/train.py`` filled.

    Attributes
    ----------
    folder
        The folder.
    method
        Name of the method.
    store
        The store directory that it read.
    version
        The version of the store that it read.
    dataset
        The dataset of the store's ``questions`` table.
    feature
        The feature whose rows give the start time of a clip in its file; None if the model reads no feature.
    splits
        The splits that were scored.
    read
        Prediction files that were read already, by path: those of a split hold all its questions.
    """

    folder: Path
    method: str
    store: str
    version: int
    dataset: str
    feature: str | None
    splits: tuple[str, ...]
    read: dict[Path, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ShownQuestion:
    """One question of a finished run.

    Attributes
    ----------
    run
        The run.
    questions
        The questions of its split.
    row
        Index of the question in ``questions``.
    video
        The file of its video; None leaves frames and sound out.
    start_s
        When the clip begins in that file, in seconds.
    """

    run: FinishedRun
    questions: Questions
    row: int
    video: Path | None
    start_s: float

    @property
    def question_id(self) -> str:
        return self.questions.ids[self.row]

    @property
    def video_id(self) -> str:
        return self.questions.video_ids[self.row]

    @property
    def name(self) -> str:
        """What a panel calls it: the video's key and the question's id."""
        return printable(f"video {self.video_id} · question {self.question_id}")

    def duration(self, times: list[float]) -> float:
        """Return the duration in seconds: as annotated, else until half a second after the last of ``times``."""
        annotated = float(self.questions.duration[self.row])
        return annotated if annotated > 0 else float(times[-1]) + 0.5

    def clips(self, spans: Mapping[str, Sequence[Span]]) -> list[Clip]:
        """Return what a page plays of the video: each span by what it is, or the whole clip; nothing without a file.

        Parameters
        ----------
        spans
            What they are to their seconds after the beginning of the clip.
        """
        if self.video is None:
            return []
        named = [(name, span) for name, several in spans.items() for span in several]
        if not named:
            annotated = float(self.questions.duration[self.row])
            end_s = self.start_s + annotated if annotated > 0 else None
            return [Clip.of("the video", self.video, self.start_s, end_s)]
        return [
            Clip.of(f"{name} {seconds(span)}", self.video, self.start_s + span[0], self.start_s + span[1])
            for name, span in named
        ]

    def predictions(self, stem: str) -> dict[str, Any]:
        """Read a prediction file of the question's split.

        Raises
        ------
        TrainingError
            If it cannot be read.
        """
        path, read = self._path(stem), self.run.read
        if path not in read:
            try:
                read[path] = json.loads(read_text(path, TEXT_BYTES))
            except (OSError, ValueError, RecursionError) as error:
                raise TrainingError(f"{path}: not readable ({error}); train again") from error
        return read[path]

    def prediction(self, stem: str, *keys: str) -> Any:
        """Return the entry of the first of ``keys`` that a prediction file has.

        Raises
        ------
        TrainingError
            If the file cannot be read or has no such entry.
        """
        values = self.predictions(stem)
        for key in keys:
            if key in values:
                return values[key]
        raise TrainingError(
            f"{self._path(stem)}: nothing is predicted for question {self.question_id!r} (no {' or '.join(keys)})"
        )

    def _path(self, stem: str) -> Path:
        return self.run.folder / f"{stem}_{self.questions.split}.json"
