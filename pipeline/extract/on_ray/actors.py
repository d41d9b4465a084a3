"""The actors of a run: each holds what is dear to start (a decoding child, loaded towers) and does one thing.

Every method returns a small report, which the driver reads, and large objects, which stay in the object store of the
node until another actor reads them there: arrays are mapped, not copied. What an actor can explain it reports as a
``Fault``; only a process that dies says nothing.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from extractors import ExtractorError, MachineFaultError
from pipeline.extract.compute import Models, compute_rows, decode_pictures
from pipeline.extract.config import RunConfig
from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.features import Feature
from pipeline.extract.outcomes import Outcome, StageTimes, UnitDone
from pipeline.extract.plan import Unit
from pipeline.extract.shards import ShardSet
from pipeline.extract.units import ComputedRow, Decoded, RunContext, UnitFailure


@dataclass(frozen=True, slots=True)
class Fault:
    """The machine of an actor is at fault, or the actor cannot start there.

    Attributes
    ----------
    message
        Names the machine and the error, in one line.
    starting
        Whether the actor could not start: models that do not load.
    errno, filename
        Of a disk that fails.
    """

    message: str
    starting: bool = False
    errno: int | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """What became of some units.

    Attributes
    ----------
    outcomes
        What is finished already: failures, files that have not changed.
    sizes
        Bytes of each unit's model input; None for a unit that has none.
    """

    outcomes: Sequence[Outcome]
    sizes: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What became of a group of decoded units.

    Attributes
    ----------
    failures
        Rows that could not be computed.
    rows, sizes
        Feature name to the number of rows, and to their bytes.
    times
        What they took.
    """

    failures: Sequence[UnitFailure]
    rows: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    times: StageTimes = field(default_factory=StageTimes)


class DecodeActor:
    """One decoding child; a decoder that crashes takes down the child, never the actor."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._media = context.media_process()

    def ready(self) -> Fault | None:
        """Return at once: the actor is there."""
        return None

    def decode(self, units: Sequence[Unit]) -> list[Any]:
        """Return a report, then for each unit its ``Decoded`` or None."""
        outcomes: list[Outcome] = []
        decoded: list[Decoded | None] = []
        try:
            for unit in units:
                result = decode_unit(self._context, unit, self._media)
                decoded.append(result if isinstance(result, Decoded) else None)
                if not isinstance(result, Decoded):
                    outcomes.append(result)
        except MachineFaultError as error:
            return [Fault(str(error)), *(None for _ in units)]
        sizes = [None if item is None else item.nbytes for item in decoded]
        return [DecodeReport(outcomes, sizes), *decoded]


class ModelActor:
    """All towers on one device. Calls overlap: one computes, another receives, decodes or sends."""

    def __init__(self, context: RunContext, features: Sequence[Feature], device: str, threads: int) -> None:
        self._context = context
        self._features = features
        self._lock = threading.Lock()
        card = ",".join(str(number) for number in ray.get_gpu_ids())
        self._place = f"{socket.gethostname()}, GPU {card}" if device == "cuda" else socket.gethostname()
        self._fault: Fault | None = None
        try:
            self._models = Models.load(features, device, threads)
        except ExtractorError as error:
            self._fault = Fault(str(error), starting=True)

    def ready(self) -> Fault | None:
        """Return why the towers do not load, or None."""
        return self._fault

    def compute(self, *units: Decoded) -> list[Any]:
        """Return a report, then for each feature its rows, in the order of the features."""
        if self._fault is not None:
            return [self._fault, *(None for _ in self._features)]
        try:
            decoded = decode_pictures(self._context, self._models, units)
            with self._lock:
                if self._fault is not None:
                    return [self._fault, *(None for _ in self._features)]
                started = time.perf_counter()
                items = list(compute_rows(self._context, self._models, decoded))
                seconds = time.perf_counter() - started
        except MachineFaultError as error:
            self._fault = Fault(f"{self._place}: {error}")
            return [self._fault, *(None for _ in self._features)]
        rows: dict[str, list[ComputedRow]] = {feature.name: [] for feature in self._features}
        for item in items:
            if isinstance(item, ComputedRow):
                rows[item.feature].append(item)
        times = StageTimes(
            decode_s=sum(unit.seconds for unit in decoded),
            model_s=seconds,
            frames=sum(unit.frames for unit in units),
            steps=sum(len(item.row.values) for item in items if isinstance(item, ComputedRow)),
            sandboxes=Counter(unit.sandbox for unit in units if unit.sandbox is not None),
        )
        report = ModelReport(
            failures=[item for item in items if isinstance(item, UnitFailure)],
            rows=Counter({name: len(of_feature) for name, of_feature in rows.items() if of_feature}),
            sizes=Counter({name: sum(row.row.values.nbytes for row in of) for name, of in rows.items() if of}),
            times=times,
        )
        return [report, *rows.values()]


class WriteActor:
    """Writes the rows of each call as whole shards and keeps nothing for the next call."""

    def __init__(self, context: RunContext, run: RunConfig) -> None:
        self._context = context
        self._run = run

    def ready(self) -> Fault | None:
        """Return at once: the actor is there."""
        return None

    def write(self, *groups: Sequence[ComputedRow]) -> Fault | list[Outcome]:
        """Write rows of one feature: one shard for each numerics among them."""
        shards = ShardSet(self._context, self._run.shard_mb, self._run.shard_rows, self._run.commit_seconds)
        started = time.perf_counter()
        try:
            for rows in groups:
                for row in rows:
                    shards.add(row)
            return [*shards.finish_all(), UnitDone(0, StageTimes(write_s=time.perf_counter() - started))]
        except OSError as error:
            return Fault(f"{socket.gethostname()}: {error}", errno=error.errno, filename=error.filename)
        finally:
            shards.discard()
