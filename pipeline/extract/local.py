"""The local executor, the reference: decode workers in threads, towers in the calling thread."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from extractors import ExtractorError
from pipeline.extract.compute import Models, compute_rows
from pipeline.extract.config import RunConfig
from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.outcomes import Outcome, StageTimes, UnitDone
from pipeline.extract.plan import Unit
from pipeline.extract.shards import FinishedShard, ShardSet
from pipeline.extract.units import ComputedRow, Decoded, RunContext, UnitFailure, UnitUnchanged
from pipeline.shared import PreflightError, StopRequestedError, StopSignals, choose

_POLL_S = 0.5  # how soon a blocked thread notices a stop
_GROUP = 8  # decoded units that may share micro-batches

_DecodeResult = Decoded | UnitFailure | UnitUnchanged


@dataclass(frozen=True, slots=True)
class _WorkerDied:
    """The error that ended a decode thread."""

    error: BaseException


class _DecodeThreads:
    """Threads that each supervise one decoding child; at most ``2 × workers`` decoded units wait."""

    def __init__(self, context: RunContext, units: Sequence[Unit], workers: int) -> None:
        self._context = context
        self._units = iter(units)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._results: queue.Queue[_DecodeResult | _WorkerDied] = queue.Queue(2 * workers)
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{i}", daemon=True) for i in range(min(workers, len(units)))
        ]
        for thread in self._threads:
            thread.start()

    def _next(self) -> Unit | None:
        with self._lock:
            return None if self._stop.is_set() else next(self._units, None)

    def _run(self) -> None:
        try:
            with self._context.media_process() as media:
                while (unit := self._next()) is not None:
                    self._put(decode_unit(self._context, unit, media))
        except BaseException as error:  # noqa: BLE001 (raised again in the calling thread)
            self._put(_WorkerDied(error))

    def _put(self, result: _DecodeResult | _WorkerDied) -> None:
        while not self._stop.is_set():
            try:
                self._results.put(result, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def get(self, wait: bool) -> _DecodeResult | None:
        """Return the next result; None if ``wait`` is False and there is none yet."""
        while True:
            try:
                result = self._results.get(block=wait, timeout=_POLL_S if wait else None)
            except queue.Empty:
                if not wait:
                    return None
                continue
            if isinstance(result, _WorkerDied):
                raise result.error
            return result

    def close(self) -> None:
        """Let the threads end after their current video; they are daemons, so nobody waits for a slow one."""
        self._stop.set()


class LocalExecutor:
    """Decodes in threads that each supervise a child process; the towers run in the calling thread.

    Parameters
    ----------
    run
        How the work is spread and cut into shards.
    signals
        Held back while a shard is written.
    say
        Prints one line for a person.
    """

    def __init__(self, run: RunConfig, signals: StopSignals, say: Callable[[str], None]) -> None:
        self._run = run
        self._signals = signals
        self._say = say

    def run(self, context: RunContext, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units, as ``Executor.run`` specifies."""
        sizing = choose(self._run, self._run.decode_workers)
        self._say(f"local: {sizing.describe()}")
        try:
            models = Models.load(context.wanted_features(units), sizing.device, sizing.model_threads)
        except ExtractorError as error:
            raise PreflightError(str(error)) from error
        yield from _compute(context, units, self._run, sizing.decode_workers, models, self._signals)


def _compute(
    context: RunContext,
    units: Sequence[Unit],
    run: RunConfig,
    decode_workers: int,
    models: Models,
    signals: StopSignals,
) -> Generator[Outcome, None, None]:
    shards = ShardSet(context, run.shard_mb, run.shard_rows, run.commit_seconds)
    threads = _DecodeThreads(context, units, decode_workers)
    ready: deque[FinishedShard] = deque()
    remaining = len(units)
    try:
        while remaining:
            started = time.perf_counter()
            group = _collect(threads, min(_GROUP, remaining))
            remaining -= len(group)
            times = StageTimes(waiting_s=time.perf_counter() - started)
            decoded = [result for result in group if isinstance(result, Decoded)]
            yield from (result for result in group if not isinstance(result, Decoded))
            started = time.perf_counter()
            failed: dict[str, UnitFailure] = {}
            for computed in compute_rows(context, models, decoded):
                if isinstance(computed, ComputedRow):
                    with signals.critical():
                        shards.add(computed)
                    times.steps += len(computed.row.values)
                else:
                    failed[computed.unit.keys[0]] = computed
                    yield computed
            times.model_s = time.perf_counter() - started
            for item in decoded:
                times.decode_s += item.seconds
                times.frames += item.frames
            yield UnitDone(len(group), times)
            started = time.perf_counter()
            with signals.critical():
                ready.extend(shards.finish_due() if remaining else shards.finish_all())
            while ready:
                yield ready.popleft()
            yield UnitDone(0, StageTimes(write_s=time.perf_counter() - started))
    except StopRequestedError:
        with signals.critical():
            ready.extend(shards.finish_all())
        while ready:
            yield ready.popleft()
        raise
    finally:
        threads.close()
        shards.discard()


def _collect(threads: _DecodeThreads, most: int) -> list[_DecodeResult]:
    """Wait for one result, and return it with the others that are ready by then."""
    first = threads.get(wait=True)
    group = [first] if first is not None else []
    while len(group) < most and (more := threads.get(wait=False)) is not None:
        group.append(more)
    return group
