"""The in-process executor: decode workers in threads, towers in the calling thread. The reference."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.executors.outcomes import Outcome, StageTimes, UnitDone
from pipeline.plan import Unit
from pipeline.signals import StopRequestedError, StopSignals
from pipeline.sizing import Sizing
from pipeline.work import ComputedRow, Decoded, Models, UnitFailure, UnitUnchanged, Work, compute_rows, decode_unit
from pipeline.writing import FinishedShard, ShardSet

_POLL_S = 0.5
_GROUP = 8  # decoded units that may share micro-batches

_Result = Decoded | UnitFailure | UnitUnchanged


@dataclass(frozen=True, slots=True)
class _WorkerDied:
    error: BaseException


class _DecodeThreads:
    """Threads that each supervise one media child; at most ``2 × workers`` decoded units wait."""

    def __init__(self, work: Work, units: Sequence[Unit], workers: int) -> None:
        self._work = work
        self._units = iter(units)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._results: queue.Queue[_Result | _WorkerDied] = queue.Queue(2 * workers)
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
            with self._work.media_process() as media:
                while (unit := self._next()) is not None:
                    self._put(decode_unit(self._work, unit, media))
        except BaseException as error:  # noqa: BLE001 (raised again in the calling thread)
            self._put(_WorkerDied(error))

    def _put(self, result: _Result | _WorkerDied) -> None:
        while not self._stop.is_set():
            try:
                self._results.put(result, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def get(self, wait: bool) -> _Result | None:
        """The next result; None when ``wait`` is False and there is none yet."""
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
        """Let the threads end after the video they are at; they are daemons, so nobody waits for a slow one."""
        self._stop.set()


def run_local(
    work: Work, units: Sequence[Unit], run: RunConfig, sizing: Sizing, models: Models, signals: StopSignals
) -> Iterator[Outcome]:
    """Compute all units; yields what is finished as it is finished.

    When ``StopRequestedError`` reaches the generator (raised in it, or thrown into it), it publishes the rows
    that are computed, yields their shards, and raises the error again.
    """
    shards = ShardSet(work, run.shard_mb, run.shard_rows, run.commit_seconds)
    threads = _DecodeThreads(work, units, sizing.decode_workers)
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
            for computed in compute_rows(work, models, decoded):
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


def _collect(threads: _DecodeThreads, most: int) -> list[_Result]:
    """At least one result, and the others that are ready by now."""
    first = threads.get(wait=True)
    group = [first] if first is not None else []
    while len(group) < most and (more := threads.get(wait=False)) is not None:
        group.append(more)
    return group
