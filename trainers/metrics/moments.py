"""Scores of moment retrieval, which finds the span of a video that a query describes.

mIoU and R1@t, the share of queries whose one predicted span reaches IoU t, as 2D-TAN and Moment-DETR report them
(``docs/facts/videoqa.md`` section 8). Where a query has several true spans, the best of them counts, as in Moment-DETR
and ReXTime. A query without a prediction has IoU 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from trainers.errors import EvaluationError
from trainers.metrics.grounding import BASELINES, GroundedQuestion, Rates, Span, best_overlap

THRESHOLDS = (0.3, 0.5, 0.7)


@dataclass(frozen=True, slots=True)
class MomentScores:
    """Scores of one split, in percent and unrounded.

    Attributes
    ----------
    overall
        ``miou``, ``r1_30``, ``r1_50``, ``r1_70``, and ``n``, the number of queries; None without predictions.
    baselines
        The same of spans that need no model: the full video, its midpoint, its middle half.
    missing
        Keys of queries without a predicted span, if there are predictions.
    """

    overall: Rates | None
    baselines: dict[str, Rates]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return asdict(self)


def queries_of(table: pa.Table, source: str) -> list[GroundedQuestion]:
    """Return the queries of a table with the columns of a store's ``questions`` table, in its order.

    Parameters
    ----------
    table
        The table.
    source
        The file that it is from, for messages.

    Raises
    ------
    EvaluationError
        If a query has no span, or its video no duration, or there are none.
    """
    columns = ("question_id", "video_id", "type", "answer_index", "options", "duration", "spans")
    queries = []
    for row in table.select(columns).to_pylist():
        name, duration = row["question_id"], row["duration"]
        if not row["spans"]:
            raise EvaluationError(f"{source}: query {name!r}: has no span; a split whose spans are hidden has no score")
        if not duration:
            raise EvaluationError(f"{source}: query {name!r}: the duration of its video is not known")
        spans = tuple((start, end) for start, end in row["spans"])
        queries.append(
            GroundedQuestion(
                name, row["video_id"], row["type"], row["answer_index"], len(row["options"]), duration, spans
            )
        )
    if not queries:
        raise EvaluationError(f"{source}: has no query")
    return queries


def score(queries: Sequence[GroundedQuestion], spans: Mapping[str, Span] | None = None) -> MomentScores:
    """Score predicted spans beside those that need no model.

    Parameters
    ----------
    queries
        What the annotations say; at least one.
    spans
        Predicted spans by key, in seconds of the video; None scores the baselines alone.
    """
    return MomentScores(
        overall=None if spans is None else _rates(queries, lambda query: spans.get(query.key)),
        baselines={name: _rates(queries, span_of) for name, span_of in BASELINES.items()},
        missing=() if spans is None else tuple(query.key for query in queries if query.key not in spans),
    )


def _rates(queries: Sequence[GroundedQuestion], span_of: Callable[[GroundedQuestion], Span | None]) -> Rates:
    overlaps = [
        best_overlap(query.spans, span)[0] if (span := span_of(query)) is not None else 0.0 for query in queries
    ]
    n = len(overlaps)
    reached = {f"r1_{round(100 * t)}": 100.0 * sum(iou >= t for iou in overlaps) / n for t in THRESHOLDS}
    return {"miou": 100.0 * sum(overlaps) / n, **reached, "n": n}
