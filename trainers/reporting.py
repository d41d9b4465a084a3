"""Progress for people (a bar on a terminal, lines elsewhere) and for programs (JSON lines, TensorBoard)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainers.errors import TrainingError

METRICS = "metrics.jsonl"


class Journal:
    """``metrics.jsonl`` and, where wanted, TensorBoard events of one run, continued after ``step``.

    What an earlier process logged after the checkpoint that is resumed from is taken back.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        path = folder / METRICS
        kept = [line for number, line in enumerate(_whole_lines(path), 1) if _step(path, number, line) <= step]
        path.write_text("".join(kept))
        self._file: IO[str] = path.open("a", buffering=1)
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not needed by every run

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, epoch: int, kind: str, values: Mapping[str, float]) -> None:
        """Log values of optimiser step ``step``; ``kind`` is ``train`` or a split."""
        self._file.write(json.dumps({"step": step, "epoch": epoch, "kind": kind, **values}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def _step(path: Path, number: int, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: line {number} is not of this journal; move the file away to go on") from error


def _whole_lines(path: Path) -> list[str]:
    """The lines of a journal; one that a crash cut off is none."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Reporter:
    """One live bar an epoch on a terminal; plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None

    def __enter__(self) -> Reporter:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def step(self, description: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._progress is None:
            return
        if not self._progress.tasks:
            self._progress.add_task(description, total=total)
        self._progress.update(self._progress.task_ids[0], description=description, completed=done, total=total)

    def line(self, text: str) -> None:
        """One line of news."""
        self._console.print(text, markup=False)
