"""Prediction files: JSON objects by question id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainers.errors import EvaluationError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object without a key given twice.

    Raises
    ------
    EvaluationError
        If the file cannot be read or is not of that form.
    """
    try:
        with path.open(encoding="utf-8") as file:
            value = json.load(file, object_pairs_hook=_unique)
    except OSError as error:
        raise EvaluationError(f"{path}: not readable ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a key given twice
        raise EvaluationError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise EvaluationError(f"{path}: must be a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} is given twice")
    return value
