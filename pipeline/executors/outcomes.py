"""What an executor tells the run, whichever executor it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.work import UnitFailure, UnitUnchanged
from pipeline.writing import FinishedShard


@dataclass(slots=True)
class StageTimes:
    """Seconds spent and items done, for the summary. Decode seconds are summed over workers."""

    decode_s: float = 0.0
    model_s: float = 0.0
    write_s: float = 0.0
    waiting_s: float = 0.0
    frames: int = 0
    steps: int = 0

    def add(self, other: StageTimes) -> None:
        self.decode_s += other.decode_s
        self.model_s += other.model_s
        self.write_s += other.write_s
        self.waiting_s += other.waiting_s
        self.frames += other.frames
        self.steps += other.steps


@dataclass(frozen=True, slots=True)
class UnitDone:
    """``units`` more videos are through, one way or the other."""

    units: int
    times: StageTimes = field(default_factory=StageTimes)


Outcome = FinishedShard | UnitFailure | UnitUnchanged | UnitDone
