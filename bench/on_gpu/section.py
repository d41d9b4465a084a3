"""What a section is given: the machine that it may use, its share of the time, and where its findings go."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.on_gpu.findings import Findings
from settings.messages import one_line


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured on.

    Attributes
    ----------
    device
        ``cuda`` or ``cpu``.
    quick
        Tiny towers, short clips and few repeats: everything runs, and no figure means anything.
    folder
        Where clips, stores and checkpoints may be written.
    workers
        Decode workers.
    """

    device: torch.device
    quick: bool
    folder: Path
    workers: int

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"


class Section:
    """One section while it runs.

    Parameters
    ----------
    name
        Its name.
    seconds
        Its share of the time.
    findings
        Where its findings go.
    say
        Prints one line.

    Attributes
    ----------
    failures
        What failed, to its traceback.
    """

    def __init__(self, name: str, seconds: float, findings: Findings, say: Callable[[str], None]) -> None:
        self.name, self._findings, self._say = name, findings, say
        self.seconds = seconds
        self._started = time.monotonic()
        self._left_out: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds until its share is used up; not below 0."""
        return max(0.0, self.seconds - self.spent)

    def has_time(self, what: str, seconds: float) -> bool:
        """Return whether ``seconds`` are left; if not, note that ``what`` was left out for lack of time."""
        if self.left >= seconds:
            return True
        self.leave_out(what, f"about {seconds:.0f} s needed, {self.left:.0f} s left of {self.seconds:.0f} s")
        return False

    def leave_out(self, what: str, why: str) -> None:
        """Note, and print, that something was not measured."""
        self._left_out[what] = why
        self.put("left_out", self._left_out)
        self._say(f"{self.name}: {what} left out: {why}")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Keep a failure of ``what`` from ending what comes after it: print why, and note the traceback."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - on a machine that nobody has seen, everything else still counts
            self.failures[what] = traceback.format_exc()
            self.put("failed", self.failures)
            self.line(f"{what} failed: {type(error).__name__}: {one_line(error)}")

    def put(self, name: str, value: Any) -> None:
        """Add a finding, or replace it."""
        self._findings.put(self.name, name, value)

    def line(self, text: str) -> None:
        """Print one line."""
        self._say(f"{self.name}: {text}")
