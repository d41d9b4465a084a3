"""Keeps one JSON line per event of a run under ``events/`` in the store."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stores.format import StorePath, durable, events, layout

_RECENT_RUNS = 20  # logs that are searched for an earlier run of the same features


class EventLog:
    """Appends to ``events/<start>-<id>.jsonl``; the file appears with the first event."""

    def __init__(self, root: Path) -> None:
        start = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.path = StorePath.of(root) / layout.EVENTS / f"{start}-{layout.new_id()[:8]}.jsonl"

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event with its time and fields."""
        record = {"time": round(time.time(), 3), "event": event, **fields}
        durable.append(self.path, json.dumps(record, default=str).encode() + b"\n")


def past_seconds_per_unit(root: Path, features: Sequence[str]) -> float | None:
    """Return the wall seconds per video of the latest run of the same features; None if no run computed any."""
    for record in events.latest_first(StorePath.of(root), _RECENT_RUNS):
        if record.get("event") == "summary" and record.get("features") == list(features):
            videos, seconds = record.get("videos_done"), record.get("compute_s")
            if isinstance(videos, int) and isinstance(seconds, int | float) and videos and seconds:
                return seconds / videos
    return None
