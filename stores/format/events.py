"""Read the logs of runs: one JSON object a line, in files whose names begin with the time of their start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from . import layout
from .inside import StorePath


def latest_first(root: StorePath, logs: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of the newest logs, the latest first; lines that are not events are left out.

    The last line of a run that was killed may be cut off.
    """
    for log in islice(reversed((root / layout.EVENTS).files(".jsonl")), logs):
        for line in reversed(log.read_bytes().splitlines()):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                yield event
