"""The local executor, the reference: shared decode workers, one lane per device, one writer.

Every part has threads of its own, so that none waits for another while there is work: decode threads supervise decoding
children, a lane thread takes groups of decoded units through the towers of its device, the writer thread writes rows,
digests and shards. The calling thread only hands out what is finished.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence

from extractors import ExtractorError, MachineFaultError
from pipeline.extract.compute import crash
from pipeline.extract.config import RunConfig
from pipeline.extract.local.decode_threads import POLL_S, DecodeThreads
from pipeline.extract.local.lanes import EndedError, InProcess, Lane, LaneDiedError, ModelProcess, Results, Setup
from pipeline.extract.local.writing import WriterThread
from pipeline.extract.outcomes import Outcome, StageTimes, UnitDone
from pipeline.extract.plan import Unit
from pipeline.extract.retries import MOST_RESTARTS, Retries
from pipeline.extract.units import ComputedRow, Decoded, RunContext, UnitFailure
from pipeline.shared import PreflightError, StopRequestedError, choose

logger = logging.getLogger("reelstore.extract.local")

GROUP = 8
"""Decoded units that may share micro-batches."""
GROUP_BYTES = 256 << 20
"""Bytes of model input beyond which a group takes no more: 28 videos of 60 frames, 4 of 60 clips of 8 frames."""


class LocalExecutor:
    """Decodes in children of this process; each GPU has a model process, the CPU's towers run in a thread.

    Parameters
    ----------
    run
        How the work is spread and cut into shards.
    say
        Prints one line for a person.
    """

    def __init__(self, run: RunConfig, say: Callable[[str], None]) -> None:
        self._run = run
        self._say = say
        self._flow: _Flow | None = None

    def run(self, context: RunContext, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units, as ``Executor.run`` specifies."""
        sizing = choose(self._run, self._run.decode_workers)
        self._say(f"local: {sizing.describe()}")
        features = context.wanted_features(units)
        setups = [Setup(context, features, device, sizing.model_threads) for device in sizing.devices]
        self._flow = _Flow(context, units, self._run, self._say)
        yield from self._flow.run(setups, sizing.decode_workers)

    def close(self) -> None:
        """Wait for the threads that compute; call it when what is finished is committed."""
        if self._flow is not None:
            self._flow.join()


class _LaneOver:
    """The news that a lane computes no more, and why."""

    def __init__(self, device: str, why: Exception | None) -> None:
        self.device = device
        self.why = why


class _Flow:
    """One run: what its threads share."""

    def __init__(self, context: RunContext, units: Sequence[Unit], run: RunConfig, say: Callable[[str], None]) -> None:
        self._context = context
        self._units = units
        self._run = run
        self._say = say
        self._ended = threading.Event()
        self._outcomes: queue.SimpleQueue[Outcome | _LaneOver | BaseException] = queue.SimpleQueue()
        self._shelf = _Shelf()
        self._threads: list[threading.Thread] = []

    def run(self, setups: Sequence[Setup], decode_workers: int) -> Generator[Outcome, None, None]:
        """Compute all units, as ``Executor.run`` specifies."""
        lanes = [InProcess(s, self._ended) if s.device == "cpu" else ModelProcess(s) for s in setups]
        writer = WriterThread(self._context, self._run, self._outcomes.put, 2 * len(lanes))
        self._decoding = DecodeThreads(self._context, self._units, decode_workers)
        self._writer = writer
        self._threads = [threading.Thread(target=self._drive, args=(lane,), daemon=True) for lane in lanes]
        for thread in self._threads:
            thread.start()
        try:
            yield from self._collect(len(lanes))
            writer.finish()
            yield from self._written()
        except (StopRequestedError, MachineFaultError):
            self._ended.set()
            writer.finish()
            yield from self._written()
            raise
        finally:
            self._ended.set()
            self._decoding.close()
            writer.close()

    def join(self) -> None:
        """Wait until no tower computes: a thread that is inside torch must not be left behind when Python ends."""
        for thread in self._threads:
            thread.join()

    def _next(self) -> Outcome | _LaneOver:
        """Return the next piece of news; raise what a thread could not handle."""
        while True:
            try:
                news = self._outcomes.get(timeout=POLL_S)  # a wait without an end would hold signals back
            except queue.Empty:
                continue
            if isinstance(news, BaseException):
                raise news
            return news

    def _collect(self, lanes: int) -> Generator[Outcome, None, None]:
        """Yield outcomes until every unit is finished."""
        finished = 0
        opened = False
        faults: list[_LaneOver] = []
        while finished < len(self._units):
            news = self._next()
            if isinstance(news, _LaneOver):
                faults.append(news)
                if len(faults) == lanes:
                    why = faults[0].why
                    if isinstance(why, ExtractorError) and not opened:
                        raise PreflightError(str(why)) from why
                    raise MachineFaultError("; ".join(str(fault.why) for fault in faults)) from why
                self._say(f"{news.device} is out: {news.why}; the others take its videos")
            else:
                if isinstance(news, UnitDone):
                    finished += news.units
                    opened = opened or bool(news.rows)
                yield news

    def _written(self) -> Generator[Outcome, None, None]:
        """Yield what the writer still writes."""
        while not (self._writer.is_over and self._outcomes.empty()):
            try:
                news = self._outcomes.get(timeout=POLL_S / 10)
            except queue.Empty:
                continue
            if isinstance(news, BaseException):
                raise news
            if not isinstance(news, _LaneOver):
                yield news

    def _drive(self, lane: Lane) -> None:
        """Run one lane to its end, in a thread of its own."""
        restarts = 0
        try:
            while True:
                feeder = _Feeder(lane, self._decoding, self._shelf, self._writer, self._outcomes.put, self._ended)
                try:
                    lane.open()
                    feeder.feed()
                except LaneDiedError as death:
                    restarts = 1 if feeder.groups else restarts + 1
                    if restarts > MOST_RESTARTS:
                        raise MachineFaultError(f"{death}, {restarts} times in a row") from death
                    logger.debug("a lane is started again", exc_info=True)
                else:
                    return
        except EndedError:
            return
        except (MachineFaultError, ExtractorError) as fault:
            self._outcomes.put(_LaneOver(lane.device, fault))
        except BaseException as error:  # noqa: BLE001 (raised again in the calling thread)
            self._outcomes.put(error)
        finally:
            lane.close()


def takes_more(group: Sequence[Decoded]) -> bool:
    """Return whether another unit may join a group: arrays in flight are bounded by number and by bytes."""
    return len(group) < GROUP and sum(decoded.nbytes for decoded in group) < GROUP_BYTES


class _Shelf:
    """Decoded units that a lane has given back."""

    def __init__(self) -> None:
        self._units: deque[Decoded] = deque()
        self._retries = Retries()
        self._lock = threading.Lock()

    def take(self, sociable: bool) -> list[Decoded]:
        """Return some units, or none; one on which a process died comes alone, and not to ``sociable`` company."""
        with self._lock:
            group: list[Decoded] = []
            while self._units and takes_more(group):
                alone = self._retries.must_be_alone(self._units[0].unit)
                if alone and (group or sociable):
                    break
                group.append(self._units.popleft())
                if alone:
                    break
            return group

    def is_alone(self, group: Sequence[Decoded]) -> bool:
        """Return whether a process died on the unit of this group, so that nothing else may be with it."""
        with self._lock:
            return self._retries.must_be_alone(group[0].unit)

    def put(self, units: Iterable[Decoded]) -> None:
        """Put units back."""
        with self._lock:
            self._units.extend(units)

    def died(self, group: Sequence[Decoded]) -> list[Decoded]:
        """Put a group back whose process died; return the units that are at fault for that."""
        with self._lock:
            at_fault = {unit.keys for unit in self._retries.died([decoded.unit for decoded in group])}
            self._units.extend(decoded for decoded in group if decoded.unit.keys not in at_fault)
            return [decoded for decoded in group if decoded.unit.keys in at_fault]


class _Feeder:
    """Takes groups of decoded units through one lane, once it is open."""

    def __init__(
        self,
        lane: Lane,
        decoding: DecodeThreads,
        shelf: _Shelf,
        writer: WriterThread,
        emit: Callable[[Outcome], None],
        ended: threading.Event,
    ) -> None:
        self._lane = lane
        self._decoding = decoding
        self._shelf = shelf
        self._writer = writer
        self._emit = emit
        self._ended = ended
        self._waiting_s = 0.0
        self._submitted: deque[list[Decoded]] = deque()
        self.groups = 0

    def feed(self) -> None:
        """Feed the lane until the run has ended; what it does not finish goes back to the shelf."""
        try:
            while not self._ended.is_set():
                while self._has_room and (group := self._group(wait=not self._submitted)):
                    self._lane.submit(group)
                    self._submitted.append(group)
                if self._submitted:
                    results = self._lane.result()
                    self._report(self._submitted.popleft(), results)
                    self.groups += 1
        except LaneDiedError as death:
            for decoded in self._shelf.died(self._submitted.popleft()):
                for failure in crash(decoded, str(death)):
                    self._emit(failure)
                self._emit(UnitDone(1))
            raise
        finally:
            for group in self._submitted:
                self._shelf.put(group)

    @property
    def _has_room(self) -> bool:
        """Whether another group may be submitted: while one is computed, the pictures of the next may be decoded."""
        alone = len(self._submitted) == 1 and self._shelf.is_alone(self._submitted[0])
        return len(self._submitted) < self._lane.depth and not alone

    def _group(self, wait: bool) -> list[Decoded]:
        """Return the units that are ready; if none is, wait for one, but not longer than the run lasts."""
        started = time.perf_counter()
        group = self._shelf.take(sociable=not wait)
        while not group and not self._ended.is_set():
            if (first := self._decoded(wait)) is not None:
                group.append(first)
                while takes_more(group) and (more := self._decoded(wait=False)) is not None:
                    group.append(more)
            elif not wait:
                break
            else:
                group = self._shelf.take(sociable=False)
        if wait:
            self._waiting_s += time.perf_counter() - started
        return group

    def _decoded(self, wait: bool) -> Decoded | None:
        """Return the next decoded unit; report what was not decoded. None if there is none, for a moment or at all."""
        while True:
            result = self._decoding.get(wait)
            if result is None or isinstance(result, Decoded):
                return result
            self._emit(result)
            self._emit(UnitDone(1))

    def _report(self, group: Sequence[Decoded], results: Results) -> None:
        """Hand the rows to the writer, then tell what is finished."""
        rows = [item for item in results.items if isinstance(item, ComputedRow)]
        self._writer.put(rows)
        for item in results.items:
            if isinstance(item, UnitFailure):
                self._emit(item)
        times = StageTimes(
            decode_s=sum(decoded.seconds for decoded in group) + results.decode_s,
            model_s=results.seconds,
            waiting_s=self._waiting_s,
            frames=sum(decoded.frames for decoded in group),
            steps=sum(len(row.row.values) for row in rows),
            sandboxes=Counter(decoded.sandbox for decoded in group if decoded.sandbox is not None),
        )
        self._waiting_s = 0.0
        self._emit(UnitDone(len(group), times, Counter(row.feature for row in rows)))
