"""Counts what a run does for the cluster's own metrics page (Prometheus)."""

from __future__ import annotations

from ray.util.metrics import Counter

from pipeline.extract.outcomes import Outcome, UnitDone
from pipeline.extract.shards import FinishedShard
from pipeline.extract.units import UnitFailure


class Metrics:
    """The counters of one run."""

    def __init__(self) -> None:
        self._videos = Counter("reelstore_videos", "Videos that are finished, with rows or with failures.")
        self._frames = Counter("reelstore_frames_decoded", "Frames decoded and prepared.")
        self._steps = Counter("reelstore_steps_computed", "Steps that a model has computed.")
        self._rows = Counter("reelstore_rows_written", "Rows in published shards.", tag_keys=("feature",))
        self._failures = Counter("reelstore_failures", "Rows that could not be computed.", tag_keys=("kind",))

    def count(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if isinstance(outcome, UnitDone):
            for counter, value in (
                (self._videos, outcome.units),
                (self._frames, outcome.times.frames),
                (self._steps, outcome.times.steps),
            ):
                if value:
                    counter.inc(value)
        elif isinstance(outcome, FinishedShard):
            self._rows.inc(outcome.receipt.rows, tags={"feature": outcome.receipt.feature})
        elif isinstance(outcome, UnitFailure):
            self._failures.inc(len(outcome.features), tags={"kind": outcome.failure_class})
