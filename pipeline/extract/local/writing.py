"""Writes rows in a thread of its own: digests, shards and the disk keep no tower waiting."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from pipeline.extract.config import RunConfig
from pipeline.extract.local.decode_threads import POLL_S
from pipeline.extract.outcomes import Outcome, StageTimes, UnitDone
from pipeline.extract.shards import ShardSet
from pipeline.extract.units import ComputedRow, RunContext


class WriterThread:
    """The one writer of a local run.

    Parameters
    ----------
    context, run
        What is written where, and how it is cut into shards.
    emit
        Receives finished shards and, if the disk fails, the error.
    most_waiting
        Number of groups of rows that may wait; ``put`` waits when there are more.
    """

    def __init__(
        self, context: RunContext, run: RunConfig, emit: Callable[[Outcome | BaseException], None], most_waiting: int
    ) -> None:
        self._shards = ShardSet(context, run.shard_mb, run.shard_rows, run.commit_seconds)
        self._emit = emit
        self._rows: queue.Queue[Sequence[ComputedRow] | None] = queue.Queue(most_waiting)
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether everything is published, or the disk has failed."""
        return not self._thread.is_alive()

    def put(self, rows: Sequence[ComputedRow]) -> None:
        """Hand rows over; if the writer is over, they are dropped."""
        while not (self.is_over or self._given_up.is_set()):
            try:
                self._rows.put(rows, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def finish(self) -> None:
        """Have everything that was handed over published."""
        while not self.is_over:
            try:
                self._rows.put(None, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def close(self) -> None:
        """End the thread; rows in shards that are not published are dropped."""
        self._given_up.set()
        self._thread.join()
        self._shards.discard()

    def _write(self) -> None:
        try:
            while not self._given_up.is_set():
                try:
                    rows = self._rows.get(timeout=POLL_S / 10)
                except queue.Empty:
                    rows = ()
                started = time.perf_counter()
                for row in rows or ():
                    self._shards.add(row)
                finished = list(self._shards.finish_all() if rows is None else self._shards.finish_due())
                for shard in finished:
                    self._emit(shard)
                if rows or finished:
                    self._emit(UnitDone(0, StageTimes(write_s=time.perf_counter() - started)))
                if rows is None:
                    return
        except BaseException as error:  # noqa: BLE001 (raised again in the calling thread)
            self._emit(error)
