"""Turns SIGTERM and SIGINT into a clean stop, never in the middle of a shard or a commit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequestedError(BaseException):
    """Raised in the main thread when the process is asked to stop; its text is the signal's name."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)


class StopSignals:
    """Context in which a stop signal raises ``StopRequestedError`` once.

    Inside ``critical`` the exception waits for the end of the block. After a library that sets handlers of its own
    (``ray.init`` does), call ``install`` again.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._signum: int | None = None
        self._raised = False
        self._depth = 0

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def install(self) -> None:
        """Set the handlers; in other threads than the main one, where Python allows none, do nothing."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                previous = signal.signal(signum, self._handle)
                self._previous.setdefault(signum, previous)

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._signum = self._signum or signum
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._signum is not None and self._depth == 0 and not self._raised:
            self._raised = True
            raise StopRequestedError(self._signum)

    @contextmanager
    def critical(self) -> Iterator[None]:
        """Hold a stop back until the block is done."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        self._raise_if_due()
