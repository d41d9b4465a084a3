"""A lane takes groups of decoded units through the towers of one device.

On the CPU the towers run in this process. Each GPU has a process of its own: its towers do not share an interpreter
with the decode threads, several GPUs work at the same time, and a card that faults takes down that process alone.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from extractors import ExtractorError, MachineFaultError
from pipeline.extract.compute import Models, compute_rows, decode_pictures
from pipeline.extract.features import Feature
from pipeline.extract.local import packets
from pipeline.extract.units import ComputedRow, Decoded, RunContext, UnitFailure
from pipeline.shared.children import start_child


@dataclass(frozen=True, slots=True)
class Setup:
    """What the towers of a lane need to know.

    Attributes
    ----------
    context
        The context of the run.
    features
        The features whose towers are loaded.
    device
        Where they run.
    threads
        CPU threads of a tower.
    """

    context: RunContext
    features: Sequence[Feature]
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Results:
    """What became of a group.

    Attributes
    ----------
    items
        A row or a failure for every feature of every unit.
    seconds
        Seconds that the towers were busy.
    decode_s
        Seconds that the device spent on decoding, summed over the units.
    """

    items: Sequence[ComputedRow | UnitFailure]
    seconds: float
    decode_s: float = 0.0


def extra_seconds(before: Sequence[Decoded], after: Sequence[Decoded]) -> float:
    """Return how much longer units took since ``before``."""
    return sum(unit.seconds for unit in after) - sum(unit.seconds for unit in before)


class LaneDiedError(Exception):
    """Raised when the process of a lane ends without a word; its text says how."""


class EndedError(BaseException):
    """Raised inside the towers when the run ends and nobody waits for their rows."""


class Lane(Protocol):
    """Towers on one device. Results come in the order of submission."""

    device: str
    depth: int
    """Number of groups that may be submitted before the first result is taken."""

    def open(self) -> None:
        """Load the towers. Raises ``ExtractorError`` if they do not load or the device cannot be used."""

    def submit(self, group: Sequence[Decoded]) -> None:
        """Hand a group over."""

    def result(self) -> Results:
        """Wait for the oldest group.

        Raises
        ------
        MachineFaultError
            If the device is at fault.
        LaneDiedError
            If the process ended; all groups that were submitted are lost.
        """

    def close(self) -> None:
        """End the lane."""


class InProcess:
    """Towers in this process, in the thread that asks for results."""

    depth = 1

    def __init__(self, setup: Setup, ended: threading.Event) -> None:
        self._setup = setup
        self._ended = ended
        self._models = Models()
        self._group: Sequence[Decoded] = ()
        self.device = setup.device

    def open(self) -> None:
        """Load the towers."""
        self._models = Models.load(self._setup.features, self.device, self._setup.threads)
        for batcher in self._models.batchers.values():
            batcher.before_forward = self._check

    def _check(self) -> None:
        if self._ended.is_set():
            raise EndedError

    def submit(self, group: Sequence[Decoded]) -> None:
        """Keep a group until its result is asked for."""
        self._group = group

    def result(self) -> Results:
        """Compute the group."""
        units = decode_pictures(self._setup.context, self._models, self._group)
        started = time.perf_counter()
        items = list(compute_rows(self._setup.context, self._models, units))
        return Results(items, time.perf_counter() - started, extra_seconds(self._group, units))

    def close(self) -> None:
        """Drop the towers."""
        self._models = Models()


class ModelProcess:
    """Towers in a process of their own (``pipeline.extract.local.model_child``); one more group is on its way."""

    depth = 2

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.device = setup.device
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def open(self) -> None:
        """Start the process, and wait until its towers are loaded."""
        self._process, self._connection = start_child("pipeline.extract.local.model_child")
        try:
            packets.send(self._connection, self._setup)
            problem = packets.receive(self._connection)
        except OSError as error:
            raise ExtractorError(f"{self.device}: {self._end()} while it loaded the towers") from error
        if problem is not None:
            self.close()
            raise ExtractorError(str(problem))

    def submit(self, group: Sequence[Decoded]) -> None:
        """Send a group."""
        assert self._connection is not None
        with contextlib.suppress(OSError):  # the process has ended: ``result`` says so
            packets.send(self._connection, group)

    def result(self) -> Results:
        """Receive what became of the oldest group."""
        assert self._connection is not None
        try:
            answer = packets.receive(self._connection)
        except OSError as error:
            raise LaneDiedError(f"{self.device}: {self._end()}") from error
        if isinstance(answer, MachineFaultError):
            self.close()
            raise answer
        assert isinstance(answer, Results)
        return answer

    def _end(self) -> str:
        """Collect the process, and return how it ended."""
        process = self._process
        self.close()
        code = 0 if process is None else process.returncode
        return (
            f"the process of the models was ended by signal {-code}"
            if code < 0
            else (f"the process of the models ended with status {code}")
        )

    def close(self) -> None:
        """End the process at once: it holds nothing that is not computed again."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
            self._process.kill()
            self._process.wait()
