"""The files in the folder of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEST = "best.safetensors"
"""Weights of the epoch with the best validation score; its header describes the run."""
JOURNAL = "metrics.jsonl"
"""Losses and validation scores, one JSON object per line."""
LAST = "last.pt"
"""The state to resume from."""
RESULTS = "results.json"
"""How the run ended, and the scores of its best weights."""
SETTINGS = "settings.json"
"""What the run was started with."""


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json``."""
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
