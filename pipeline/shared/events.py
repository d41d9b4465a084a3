"""Keeps one JSON line per event of a run under ``events/`` in the store."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stores.format import durable, layout

_RECENT_RUNS = 20  # logs that are searched for an earlier run of the same features


class EventLog:
    """Appends to ``events/<start>-<id>.jsonl``; the file appears with the first event."""

    def __init__(self, root: Path) -> None:
        start = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.path = root / layout.EVENTS / f"{start}-{layout.new_id()[:8]}.jsonl"

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event with its time and fields."""
        record = {"time": round(time.time(), 3), "event": event, **fields}
        durable.append(self.path, json.dumps(record, default=str).encode() + b"\n")


def past_seconds_per_unit(root: Path, features: Sequence[str]) -> float | None:
    """Return the wall seconds per video of the latest run of the same features; None if no run computed any."""
    logs = sorted((root / layout.EVENTS).glob("*.jsonl"), reverse=True)[:_RECENT_RUNS]
    for log in logs:
        for line in reversed(log.read_bytes().splitlines()):
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            if record.get("event") == "summary" and record.get("features") == list(features):
                videos, seconds = record.get("videos_done", 0), record.get("compute_s", 0.0)
                if videos and seconds:
                    return float(seconds) / int(videos)
    return None
