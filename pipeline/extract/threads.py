"""Maps a function over items in threads that a stop need not wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

_POLL_S = 0.5  # how long a stop may have to wait

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_in_threads(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    workers: int,
    on_done: Callable[[int, int], None] | None = None,
) -> list[_Result]:
    """Return ``work(item)`` of every item, in order.

    The threads are daemons and the wait has an end now and then, so that a stop is heeded even if an item never
    answers. The first exception is raised here; items that wait are then given up.

    Parameters
    ----------
    on_done
        Called in this thread with (items done, items in all).
    """
    waiting = iter(enumerate(items))
    lock = threading.Lock()
    given_up = threading.Event()
    finished: queue.SimpleQueue[tuple[int, _Result | None, BaseException | None]] = queue.SimpleQueue()

    def loop() -> None:
        while not given_up.is_set():
            with lock:
                place = next(waiting, None)
            if place is None:
                return
            number, item = place
            try:
                finished.put((number, work(item), None))
            except BaseException as error:  # noqa: BLE001 (whoever waits for the result must learn of it)
                finished.put((number, None, error))

    for _ in range(min(workers, len(items))):
        threading.Thread(target=loop, daemon=True).start()
    results: dict[int, _Result] = {}
    try:
        while len(results) < len(items):
            try:
                number, result, error = finished.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            results[number] = result  # type: ignore[assignment]  # there is one if there is no error
            if on_done is not None:
                on_done(len(results), len(items))
    finally:
        given_up.set()
    return [results[number] for number in range(len(items))]
