"""Seconds of the steps of imported rows: ``frame2time`` files, named or found beside the features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ExchangeError
from ..format import durable
from ..format.rows import Array
from .files import FileRows, read_json

PREFIX = "frame2time_"
"""The published name of a file of times is ``frame2time_<split>.json``."""


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Seconds by key.

    Attributes
    ----------
    seconds
        Key to the seconds of its steps, ``[T] float64``, for the keys whose times are known.
    files
        The files that they come from.
    digests
        The sha256 of each file, in hex, sorted.
    unfit
        Number of keys whose times were found beside the files, but are not as many as the row has steps.
    """

    seconds: Mapping[str, Array]
    files: Sequence[Path]
    digests: Sequence[str]
    unfit: int = 0


def read_times(rows: FileRows, paths: Sequence[Path] | None) -> FrameTimes:
    """Read the times of rows, and keep those of their keys.

    Parameters
    ----------
    rows
        The rows.
    paths
        JSON files ``{key: [T seconds]}``. None looks for ``frame2time_<split>.json`` beside each file whose name ends
        with the split, and takes the times that have a number for each step.

    Raises
    ------
    ExchangeError
        If a file is not like this, or times descend. If files are named: also if they have other videos only, or not
        as many times as a row has steps.
    """
    files = _found_beside(rows) if paths is None else list(paths)
    seconds: dict[str, Array] = {}
    for path in files:
        for key, array in _read(path).items():
            if key in seconds and not np.array_equal(seconds[key], array):
                raise ExchangeError(f"{path}: key {key!r}: its times differ from those in an earlier file")
            seconds[key] = array
    keys = rows.keys()
    timed = {key: seconds[key] for key in keys if key in seconds}
    fitting = {key: array for key, array in timed.items() if len(array) == rows.shape(key).steps}
    if paths and not timed:
        raise ExchangeError(f"{paths[0]}: has times of other videos only, none for {keys[0]!r} or any other key")
    if paths is not None and len(fitting) < len(timed):
        key = next(key for key in timed if key not in fitting)
        raise ExchangeError(f"{rows.where(key)}: {rows.shape(key).steps} steps, but {len(timed[key])} times")
    digests = sorted(durable.file_digest(path) for path in files) if fitting else []
    return FrameTimes(fitting, files if fitting else [], digests, len(timed) - len(fitting))


def _found_beside(rows: FileRows) -> list[Path]:
    """Return the files of times in the folders of the feature files that are named after the same splits."""
    found: dict[Path, None] = {}
    for folder, stem in rows.places():
        for path in sorted(folder.glob(f"{PREFIX}*.json")):
            split = path.stem.removeprefix(PREFIX)
            if not stem or stem == split or stem.endswith(f"_{split}"):
                found[path] = None
    return list(found)


def _read(path: Path) -> dict[str, Array]:
    value = read_json(path)
    if not isinstance(value, Mapping) or not value:
        raise ExchangeError(f"{path}: must be an object of the form {{key: [seconds, …]}}")
    times = {}
    for key, entry in value.items():
        numbers = entry if isinstance(entry, list) else [None]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
            raise ExchangeError(f"{path}: key {key!r}: must be a list of finite seconds")
        times[key] = np.array(numbers, np.float64)
        if (np.diff(times[key]) < 0).any():
            raise ExchangeError(f"{path}: key {key!r}: its seconds descend; list them in the order of the steps")
    return times
