"""Signals of the launching process of Ray Train, for its workers: they stop after a step, as a process of its own does.

Ray's own way would end the workers where they are. A file in the folder of the run, which all hosts share, carries the
name of the signal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from trainers.folder import replace_file

POLL_S = 0.5


@contextmanager
def asking_to_stop(path: Path) -> Iterator[None]:
    """Write the name of the first SIGTERM or SIGINT that arrives within the ``with`` block to a file.

    A second signal ends the block at once, with ``SystemExit`` of 128 plus its number. Outside the main thread, signals
    are left to whoever handles them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        if is_asked:
            raise SystemExit(128 + number)
        is_asked = True
        replace_file(path, signal.Signals(number).name.encode())

    handlers = {one: signal.signal(one, ask) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
        path.unlink(missing_ok=True)


@contextmanager
def hearing(path: Path, poll_s: float = POLL_S) -> Iterator[list[signal.Signals]]:
    """Look for the file that ``asking_to_stop`` writes, in a thread, and yield a list to which the signal is added."""
    received: list[signal.Signals] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(poll_s):
            with suppress(OSError, KeyError):  # not there
                received.append(signal.Signals[path.read_text()])
                return

    listener = threading.Thread(target=look, name="hear-stop", daemon=True)
    listener.start()
    try:
        yield received
    finally:
        ended.set()
        listener.join()
