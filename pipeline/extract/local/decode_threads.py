"""Decodes in threads that each supervise one decoding child."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.plan import Unit
from pipeline.extract.units import Decoded, RunContext, UnitFailure, UnitUnchanged

POLL_S = 0.5
"""How soon a thread that waits notices that the run has ended."""

DecodeResult = Decoded | UnitFailure | UnitUnchanged


@dataclass(frozen=True, slots=True)
class _WorkerDied:
    """The error that ended a decode thread."""

    error: BaseException


class DecodeThreads:
    """Decode threads that all lanes share; at most ``2 × workers`` decoded units wait."""

    def __init__(self, context: RunContext, units: Sequence[Unit], workers: int) -> None:
        self._context = context
        self._units = iter(units)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._results: queue.Queue[DecodeResult | _WorkerDied | None] = queue.Queue(2 * workers)
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
        except BaseException as error:  # noqa: BLE001 (raised again where the results are taken)
            self._put(_WorkerDied(error))

    def _put(self, result: DecodeResult | _WorkerDied) -> None:
        while not self._stop.is_set():
            try:
                self._results.put(result, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def get(self, wait: bool) -> DecodeResult | None:
        """Return the next result; None if there is none yet, after a moment if ``wait``.

        Raises
        ------
        BaseException
            Whatever ended a decode thread.
        """
        try:
            result = self._results.get(block=wait, timeout=POLL_S if wait else None)
        except queue.Empty:
            return None
        if result is None:
            self.close()  # wakes the next one
        if isinstance(result, _WorkerDied):
            raise result.error
        return result

    def close(self) -> None:
        """Let the threads end after their current video; they are daemons, so nobody waits for a slow one."""
        self._stop.set()
        with contextlib.suppress(queue.Full):
            self._results.put_nowait(None)  # wakes a thread that waits for a result
