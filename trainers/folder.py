"""The files in the folder of a run, and how they are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BEST = "best.safetensors"
"""Weights of the epoch with the best validation score; its header describes the run."""
JOURNAL = "metrics.jsonl"
"""Losses and validation scores, one JSON object per line."""
LAST = "last.pt"
"""The state to resume from."""
OWNER = "owner.json"
"""The process that trains here; there as long as it does."""
PROGRESS = "progress.log"
"""What rank 0 told people from a worker of Ray; the launching process reads it there."""
RESULTS = "results.json"
"""How the run ended, and the scores of its best weights."""
SETTINGS = "settings.json"
"""What the run was started with."""
STOP = "stop"
"""The signal that the launching process got; there until its workers on Ray have stopped."""

_STAGED = re.compile(rf"\.({re.escape(BEST)}|{re.escape(JOURNAL)}|{re.escape(LAST)}|[^/]+\.(?:json|parquet))\.\d+")


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json``."""
    replace_file(folder / RESULTS, (json.dumps(results, indent=1) + "\n").encode())


def replace_file(target: Path, data: bytes | memoryview) -> None:
    """Write a file beside ``target`` and rename it over ``target`` once it is on the disk.

    Raises
    ------
    OSError
        If the disk fails; it names the file, and ``target`` is as it was.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with writing(target):
            with staged.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_staged(folder: Path) -> None:
    """Remove what ``replace_file`` left in a run's folder when its process was killed. Only the owner may do this."""
    for path in sorted(folder.iterdir()):
        if _STAGED.fullmatch(path.name):
            path.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an ``OSError`` of the ``with`` block name ``path``: the system names no file when a write fails."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
