"""What a run logs for programs: JSON lines and TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from trainers.errors import TrainingError
from trainers.folder import JOURNAL


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
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        path = folder / JOURNAL
        kept = [line for number, line in enumerate(_whole_lines(path), 1) if _step(path, number, line) <= step]
        path.write_text("".join(kept))
        self._file: IO[str] = path.open("a", buffering=1)
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and not needed by every run

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, epoch: int, kind: str, values: Mapping[str, float]) -> None:
        """Log the values of optimiser step ``step``; ``kind`` is ``train`` or a split."""
        self._file.write(json.dumps({"step": step, "epoch": epoch, "kind": kind, **values}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


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
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
