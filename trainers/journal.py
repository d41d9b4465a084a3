"""What a run logs for programs: JSON lines and TensorBoard events."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from trainers.errors import TrainingError
from trainers.folder import JOURNAL, replace_file, writing


class Journal:
    """``metrics.jsonl`` of one run and, if wanted, its TensorBoard events.

    A run that resumes appends to them, after dropping what an earlier process logged after the checkpoint.

    Parameters
    ----------
    folder
        Folder of the run.
    step
        The optimiser step of the checkpoint that the run resumes from, else 0.
    tensorboard
        Also write TensorBoard events.

    Raises
    ------
    TrainingError
        If ``metrics.jsonl`` is not a journal.
    OSError
        If the disk fails; the error names the file. The methods raise it, too.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        path = folder / JOURNAL
        kept = [line for number, line in enumerate(_whole_lines(path), 1) if _step(path, number, line) <= step]
        replace_file(path, "".join(kept).encode())
        self._path = path
        self._file: IO[str] = path.open("a", buffering=1, encoding="utf-8")
        self._events = _Events(folder / "tensorboard", step) if tensorboard else None

    def write(self, step: int, epoch: int, kind: str, values: Mapping[str, float]) -> None:
        """Log the values of optimiser step ``step``; ``kind`` is ``train`` or a split."""
        with writing(self._path):
            self._file.write(json.dumps({"step": step, "epoch": epoch, "kind": kind, **values}) + "\n")
        if self._events is not None:
            self._events.write(step, {f"{kind}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Close the files; each line is in them already."""
        try:
            with writing(self._path):
                self._file.close()
        finally:
            if self._events is not None:
                self._events.close()


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
    lines = _whole_lines(path)
    for number, line in enumerate(lines, 1):
        _step(path, number, line)
    return [json.loads(line) for line in lines]


class _Events:
    """A TensorBoard event file of scalars, written at once.

    TensorBoard's own writer has a thread, which prints a traceback when the disk is full.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # Slow to import, and not needed by every run.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import scalar

        self._event: Callable[..., Any] = Event
        self._scalar: Callable[..., Any] = scalar
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = self._path.open("ab")
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        # TensorBoard then leaves out what an earlier process logged after the checkpoint.
        self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one event per value."""
        for name, value in values.items():
            self._add(step=step, summary=self._scalar(name, value))

    def _add(self, **fields: Any) -> None:
        with writing(self._path):
            self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with writing(self._path):
            self._file.close()


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: line {number} does not belong to a training journal; move the file away to continue"
        ) from error


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a journal, without a last line that a crash left incomplete."""
    if not path.exists():
        return []
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: not a training journal; move the file away to continue") from error
