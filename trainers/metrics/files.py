"""Prediction files: JSON objects by question id."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from settings.files import TEXT_BYTES, read_text
from trainers.errors import EvaluationError


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object in which every key occurs once; a byte order mark before it is skipped.

    Raises
    ------
    EvaluationError
        If the file cannot be read or has another form.
    """
    try:
        text = read_text(path, TEXT_BYTES, "utf-8-sig")
        value = json.loads(text, object_pairs_hook=_unique)
    except OSError as error:
        raise EvaluationError(f"{path}: not readable ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or a key given twice
        raise EvaluationError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise EvaluationError(f"{path}: must be a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {repeated!r} is given twice")
    return value
