"""Lines that a worker of another machine writes and the launching process prints, through a file in the run's folder.

The folder is shared already, and what a worker wrote before it died is still there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_S = 0.5


def append_line(path: Path, text: str) -> None:
    """Append one line to a file; a disk that fails loses the line and stops nothing.

    The file is closed each time, so that other hosts see the line on a network file system.
    """
    with suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(" ".join(text.splitlines()) + "\n")


@contextmanager
def following(path: Path, say: Callable[[str], None], poll_s: float = POLL_S) -> Iterator[None]:
    """Pass on the lines that are appended to a file within the ``with`` block, and what is left at its end.

    Parameters
    ----------
    path
        The file; what is in it already is not passed on.
    say
        Takes a line, in a thread of its own.
    poll_s
        Seconds between two looks at the file.
    """
    ended = threading.Event()
    at = _size(path)

    def follow() -> None:
        nonlocal at
        while True:
            is_last = ended.wait(poll_s)
            for line in _lines(path, at):
                at += len(line)
                say(line.decode(errors="replace").rstrip("\n"))
            if is_last:
                return

    follower = threading.Thread(target=follow, name="follow-progress", daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lines(path: Path, at: int) -> list[bytes]:
    """Return the whole lines after a position; opening the file asks a network file system for what is new."""
    try:
        with path.open("rb") as file:
            file.seek(at)
            return [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    except OSError:
        return []
