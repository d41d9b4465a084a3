"""What a run logs for programs: JSON lines, and what its loggers get of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from settings.files import TEXT_BYTES, read_text
from trainers.errors import TrainingError
from trainers.folder import JOURNAL, replace_file, writing
from trainers.loggers import Loggers


class Journal:
    """``metrics.jsonl`` of one run; its loggers get the same, and what differs between two equal runs.

    A run that resumes appends to it, after dropping what an earlier process logged after the checkpoint.

    Parameters
    ----------
    folder
        Folder of the run.
    step
        The optimiser step of the checkpoint that the run resumes from, else 0.
    loggers
        The loggers, started; by default none.

    Raises
    ------
    TrainingError
        If ``metrics.jsonl`` is not a journal.
    OSError
        If the disk fails; the error names the file. The methods raise it, too.
    """

    def __init__(self, folder: Path, step: int, loggers: Loggers | None = None) -> None:
        path = folder / JOURNAL
        kept = [line for number, line in enumerate(_whole_lines(path), 1) if _step(path, number, line) <= step]
        replace_file(path, "".join(kept).encode())
        self._path = path
        self._file: IO[str] = path.open("a", buffering=1, encoding="utf-8")
        self._loggers = Loggers(folder) if loggers is None else loggers

    def write(self, step: int, epoch: int, kind: str, values: Mapping[str, float]) -> None:
        """Log the values of optimiser step ``step``; ``kind`` is ``train`` or a split."""
        with writing(self._path):
            self._file.write(json.dumps({"step": step, "epoch": epoch, "kind": kind, **values}) + "\n")
        self._loggers.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})

    def machine(self, step: int, values: Mapping[str, float]) -> None:
        """Give the loggers what depends on the machine, such as speed and memory: equal runs have equal journals."""
        self._loggers.scalars(step, {f"machine/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Close the file; each line is in it already."""
        with writing(self._path):
            self._file.close()


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return what a run logged, one entry per line: ``step``, ``epoch``, ``kind``, and values by name.

    Raises
    ------
    TrainingError
        If ``metrics.jsonl`` is missing or is not a journal.
    """
    path = folder / JOURNAL
    if not path.exists():
        raise TrainingError(f"{path}: no such file; name the --out of a run of jobs/train.py")
    entries = []
    for number, line in enumerate(_whole_lines(path), 1):
        _step(path, number, line)
        entry = json.loads(line)
        if not isinstance(entry.get("kind"), str) or not isinstance(entry.get("epoch"), int):
            raise _not_a_journal(path, number)
        entries.append(entry)
    return entries


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_a_journal(path, number) from error


def _not_a_journal(path: Path, number: int) -> TrainingError:
    return TrainingError(f"{path}: line {number} does not belong to a training journal; move the file away to continue")


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a journal, without a last line that a crash left incomplete."""
    if not path.exists():
        return []
    try:
        return [line for line in read_text(path, TEXT_BYTES).splitlines(keepends=True) if line.endswith("\n")]
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: not a training journal; move the file away to continue") from error
