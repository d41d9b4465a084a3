"""What a run answered to each question of a split: the rows of ``predictions_<split>.parquet``.

``docs/evaluation.md`` lists the columns. Training writes the file at its end, with the rows that its scores were
computed from, and ``jobs/report.py`` reads it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from settings.files import open_regular
from settings.messages import available, one_line
from trainers.errors import TrainingError
from trainers.folder import replace_file
from trainers.metrics.grounding import Span

if TYPE_CHECKING:
    from stores.loading import Questions

_SPAN = pa.list_(pa.float64(), 2)
SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("modality", pa.string()),
        pa.field("subset", pa.string()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("options", pa.list_(pa.string()), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("prediction_index", pa.int32()),
        pa.field("answer", pa.string()),
        pa.field("answer_index", pa.int32()),
        pa.field("right", pa.bool_()),
        pa.field("confidence", pa.float64()),
        pa.field("duration", pa.float64()),
        pa.field("span", _SPAN),
        pa.field("true_spans", pa.list_(_SPAN), nullable=False),
        pa.field("iou", pa.float64()),
        pa.field("iop", pa.float64()),
    ]
)
"""The columns of the file, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One question with what was answered to it; the columns of ``SCHEMA``.

    Attributes
    ----------
    question_id, video_id
        As in the ``questions`` table.
    type, modality, subset
        How the dataset divides its questions; modality and subset are None if it does not.
    question
        Its text.
    options
        Texts of its options; empty if it is open.
    prediction, prediction_index
        The predicted answer, and its position in ``options``; None if the question is open.
    answer, answer_index
        The right answer, and its position in ``options``; None if it is hidden or, the position, open.
    right
        Whether the prediction is right; None if the answer is hidden.
    confidence
        Softmax of the prediction's score among those of all answers, 0 to 1; None if the model gives no such scores.
    duration
        Duration of the video in seconds; None if it is unknown.
    span
        Predicted start and end in seconds; None if the model says none.
    true_spans
        Annotated spans in seconds.
    iou, iop
        Best IoU and best IoP of the span over the true ones, 0 to 1; None without either.
    """

    question_id: str
    video_id: str
    type: str
    modality: str | None = None
    subset: str | None = None
    question: str
    options: Sequence[str] = ()
    prediction: str
    prediction_index: int | None = None
    answer: str | None
    answer_index: int | None = None
    right: bool | None
    confidence: float | None = None
    duration: float | None = None
    span: Span | None = None
    true_spans: Sequence[Span] = ()
    iou: float | None = None
    iop: float | None = None

    @classmethod
    def of(
        cls,
        questions: Questions,
        row: int,
        prediction: str,
        prediction_index: int | None = None,
        right: bool | None = None,
        confidence: float | None = None,
    ) -> Prediction:
        """Return a row of the ``questions`` table with what was answered to it.

        Parameters
        ----------
        questions
            The questions of a split.
        row
            The question's place among them.
        prediction, prediction_index, confidence
            As the attributes of this name.
        right
            Whether the prediction is right; by default, whether it is the text of the answer.
        """
        answer, index, duration = questions.answers[row], int(questions.answer_index[row]), questions.duration[row]
        if right is None and answer is not None:
            right = prediction == answer
        return cls(
            question_id=questions.ids[row],
            video_id=questions.video_ids[row],
            type=questions.types[row],
            modality=questions.modalities[row],
            subset=questions.subsets[row],
            question=questions.texts[row],
            options=questions.options[row],
            prediction=prediction,
            prediction_index=prediction_index,
            answer=answer,
            answer_index=index if index >= 0 else None,
            right=right,
            confidence=confidence,
            duration=float(duration) if math.isfinite(duration) else None,
            true_spans=questions.spans[row],
        )


@dataclass(frozen=True, slots=True)
class SplitPredictions:
    """The predictions of a split.

    Attributes
    ----------
    dataset
        The dataset of the store's ``questions`` table.
    split
        The split.
    rows
        One per answered question, in the order of the table.
    """

    dataset: str
    split: str
    rows: tuple[Prediction, ...]


def predictions_file(folder: Path, split: str) -> Path:
    """Return the file of a split in the folder of a run."""
    return folder / f"predictions_{split}.parquet"


def confidence(scores: Sequence[float]) -> float | None:
    """Return the softmax of the greatest of some scores; None if one of them is not a number."""
    if not scores or not all(map(math.isfinite, scores)):
        return None
    greatest = max(scores)
    return 1 / sum(math.exp(score - greatest) for score in scores)


def write_predictions(folder: Path, predictions: SplitPredictions) -> Path:
    """Write the file of a split in one step, and return it; equal predictions give equal bytes.

    Raises
    ------
    OSError
        If the disk fails; it names the file, and what was there is as it was.
    """
    named = {b"dataset": predictions.dataset.encode(), b"split": predictions.split.encode()}
    table = pa.Table.from_pylist([asdict(row) for row in predictions.rows], schema=SCHEMA.with_metadata(named))
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    path = predictions_file(folder, predictions.split)
    replace_file(path, data.getbuffer())
    return path


def read_predictions(folder: Path, split: str) -> SplitPredictions:
    """Read the file of a split.

    Raises
    ------
    TrainingError
        If there is none, or it cannot be read.
    """
    path = predictions_file(folder, split)
    if not path.exists():
        raise TrainingError(
            f"{path}: no such file; the run was finished before predictions were kept, or its method keeps none: run "
            "its command of jobs/train.py again, which trains nothing more and writes them"
        )
    try:
        with open_regular(path) as file:
            table: Any = pq.read_table(file)
        columns = SCHEMA.names
        if missing := [name for name in columns if name not in table.column_names]:
            raise TrainingError(f"{path}: has no column {missing[0]!r} ({available(table.column_names)})")
        named = table.schema.metadata or {}
        rows = table.select(columns).cast(SCHEMA).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:  # ValueError: a text that is not UTF-8
        reason = error.strerror if isinstance(error, OSError) else None
        raise TrainingError(f"{path}: not readable ({reason or one_line(error)})") from error
    required = [field.name for field in SCHEMA if not field.nullable]
    for row in rows:
        spans = [*(row["true_spans"] or ()), *([] if row["span"] is None else [row["span"]])]
        if any(row[name] is None for name in required) or None in row["options"] or not all(map(_is_span, spans)):
            raise TrainingError(f"{path}: question {row['question_id']!r}: a value is missing that every row has")
        for name in ("confidence", "iou", "iop"):
            if row[name] is not None and not 0 <= row[name] <= 1:
                raise TrainingError(f"{path}: question {row['question_id']!r}: {name} {row[name]} is not from 0 to 1")
    return SplitPredictions(named.get(b"dataset", b"").decode(), split, tuple(map(_prediction, rows)))


def _is_span(span: Sequence[float | None] | None) -> bool:
    return span is not None and None not in span


def _prediction(row: dict[str, Any]) -> Prediction:
    span = row["span"]
    true_spans = tuple((start, end) for start, end in row["true_spans"])
    options = tuple(row["options"])
    return Prediction(
        **{**row, "span": None if span is None else (span[0], span[1]), "true_spans": true_spans, "options": options}
    )
