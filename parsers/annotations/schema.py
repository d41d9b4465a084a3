"""Defines the one table that the questions of every dataset become."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

_TEXTS = pa.list_(pa.field("item", pa.string(), nullable=False))
_SPAN = pa.list_(pa.field("item", pa.float64(), nullable=False))

QUESTIONS = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("options", _TEXTS, nullable=False),
        pa.field("answer", pa.string()),
        pa.field("answer_index", pa.int32()),
        pa.field("type", pa.string(), nullable=False),
        pa.field("modality", pa.string()),
        pa.field("spans", pa.list_(pa.field("item", _SPAN, nullable=False)), nullable=False),
        pa.field("duration", pa.float64()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("frame_count", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("template", pa.string()),
        pa.field("template_values", _TEXTS, nullable=False),
        pa.field("flags", _TEXTS, nullable=False),
        pa.field("subset", pa.string()),
    ]
)
"""Columns of the ``questions`` table; ``Question`` says what they hold. Older stores lack ``subset``."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, whatever dataset it comes from. None and () mean unknown or absent.

    Attributes
    ----------
    question_id
        Unique within a split of a dataset; ``row:<split>/<file>:<n>`` if the source gives none.
    video_id, dataset, split
        Where the question belongs.
    row
        0-based row in the file; refused rows count.
    question
        The text with its slots filled, without blanks around it, and with ``？`` written as ``?``.
    options, answer, answer_index
        An open-ended question has no options. The index is that of the first option with the answer's text; for
        MUSIC-AVQA it is the index among its 42 answers. None if the answer is hidden.
    type, modality
        The dataset's own question type, such as ``CW``, ``Interaction_T1`` or ``Audio Counting``. Only MUSIC-AVQA has a
        modality.
    spans
        Pairs [start, end] in seconds of the whole source video that hold the answer, as the dataset gives them: some
        leave the video.
    duration
        Duration of the video in seconds.
    start_s, end_s
        The clip that the question is about, in seconds of the source video.
    frame_count, width, height, fps
        The video's, as the dataset gives them; ``fps`` in frames per second.
    template, template_values
        The text before its slots were filled, and what fills them.
    flags
        Codes of the notes on this row.
    subset
        Part of the split that the dataset names, such as ``head`` and ``tail`` of FortisAVQA.
    """

    question_id: str
    video_id: str
    dataset: str
    split: str
    row: int
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    answer_index: int | None = None
    type: str = ""
    modality: str | None = None
    spans: tuple[tuple[float, float], ...] = ()
    duration: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    frame_count: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    template: str | None = None
    template_values: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    subset: str | None = None


def as_questions(stored: pa.Table) -> pa.Table:
    """Return a stored part of the ``questions`` table with the columns of ``QUESTIONS``; what it lacks is null."""
    for column in QUESTIONS:
        if column.name not in stored.column_names:
            stored = stored.append_column(column.with_nullable(True), pa.nulls(stored.num_rows, column.type))
    return stored.select(QUESTIONS.names).cast(QUESTIONS)


def questions_table(questions: Iterable[Question]) -> pa.Table:
    """Return the rows of the ``questions`` table (schema ``QUESTIONS``), in the order given."""
    rows = list(questions)
    return pa.table(
        [pa.array([getattr(row, field.name) for row in rows], field.type) for field in QUESTIONS], schema=QUESTIONS
    )
