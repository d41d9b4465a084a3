"""Defines what an executor reports to the run, and how the run receives it.

An executor is a generator of outcomes. Results flow one way, from the executor to the run. Only what ends a run early
flows back, a stop or a fault of the machine: ``consume`` throws it into the generator, which then yields what it has
finished and raises it again, so that the run can commit promptly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from extractors import MachineFaultError
from pipeline.extract.plan import Unit
from pipeline.extract.shards import FinishedShard
from pipeline.extract.units import RunContext, UnitFailure, UnitUnchanged
from pipeline.shared import StopRequestedError


@dataclass(slots=True)
class StageTimes:
    """Seconds spent and items done, for the summary; decode seconds are summed over workers.

    ``sandboxes`` counts the videos by what kept their decoder from doing anything else (``pipeline.media.sandbox``).
    """

    decode_s: float = 0.0
    model_s: float = 0.0
    write_s: float = 0.0
    waiting_s: float = 0.0
    frames: int = 0
    steps: int = 0
    sandboxes: Counter[str] = field(default_factory=Counter)

    def add(self, other: StageTimes) -> None:
        """Add the times and counts of another account."""
        self.decode_s += other.decode_s
        self.model_s += other.model_s
        self.write_s += other.write_s
        self.waiting_s += other.waiting_s
        self.frames += other.frames
        self.steps += other.steps
        self.sandboxes += other.sandboxes


@dataclass(frozen=True, slots=True)
class UnitDone:
    """The news that ``units`` more videos are finished, with rows or with failures.

    Attributes
    ----------
    units
        Number of videos.
    times
        What they took.
    rows
        Feature name to the number of rows that were computed for them.
    """

    units: int
    times: StageTimes = field(default_factory=StageTimes)
    rows: Mapping[str, int] = field(default_factory=dict)


Outcome = FinishedShard | UnitFailure | UnitUnchanged | UnitDone


class Executor(Protocol):
    """Computes units: in this process, or on a Ray cluster."""

    def run(self, context: RunContext, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units and yield what is finished as it is finished.

        If a stop or a fault of the machine reaches the generator (raised in it, or thrown into it), it publishes the
        computed rows, yields their shards, and raises the same error again.

        Raises
        ------
        PreflightError
            If the models do not load, or the machine or the cluster cannot take the work.
        MachineFaultError
            If what is left to compute on is at fault.
        """

    def close(self) -> None:
        """Wait for what must not be left behind; called when everything that is finished is committed."""


Interruption = StopRequestedError | MachineFaultError


def consume(
    outcomes: Generator[Outcome, None, None], accept: Callable[[Outcome], None], on_stop: Callable[[], None]
) -> Interruption | None:
    """Hand every outcome to ``accept`` until the executor ends; return the stop or fault that ended it, if one came.

    A stop is raised wherever this thread is, a fault in the generator or by ``accept``. If that is in the generator,
    the generator ends as ``Executor.run`` specifies. If it is here, the error is thrown into the generator once, after
    ``on_stop`` has saved what is there: an executor may take seconds to end.
    """
    ended_by: Interruption | None = None
    throw = False
    while True:
        try:
            if throw and ended_by is not None:
                throw = False
                outcome = outcomes.throw(ended_by)
            else:
                outcome = next(outcomes)
            accept(outcome)
        except StopIteration:
            return ended_by
        except (StopRequestedError, MachineFaultError) as error:
            if ended_by is not None:
                return ended_by
            on_stop()
            ended_by, throw = error, True
