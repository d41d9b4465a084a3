"""Open files of a store in a child process first: a library that crashes over one is then a finding, not the end.

HDF5, Arrow and Parquet are parsed by C and C++ libraries. They are made for files of one's own; a file that somebody
made on purpose may bring the process down. ``verify`` and ``repair`` have to survive every file, so each goes through
the child before this process opens it. One child serves a process; it is started with the first file, and again after
a crash.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..format import schemas
from ..format.container import opened_container
from ..format.inside import StorePath
from ..format.manifest import TableFile
from ..format.receipts import dataset_places, read_receipt
from ..format.segments import SegmentRef, open_segment
from ..format.shard import ShardReader
from ..format.table_files import read_table_file

DEADLINE_S = 600.0
"""A file that takes longer counts as damaged."""
_SCHEMAS = {"index": schemas.INDEX, "shards": schemas.SHARDS, "sources": schemas.SOURCES, "failures": schemas.FAILURES}


def segment_problem(root: StorePath, ref: SegmentRef, log: str) -> str | None:
    """Return what is wrong with a segment of a log (``index``, ``shards``, ``sources`` or ``failures``), or None."""
    return _ask("segment", root, ref.model_dump(), log)


def table_problem(root: StorePath, file: TableFile) -> str | None:
    """Return what is wrong with a Parquet file of a table, or None."""
    return _ask("table", root, file.model_dump())


def header_problem(path: StorePath) -> str | None:
    """Return how what HDF5 says of a shard differs from its receipt, or None."""
    return _ask("header", StorePath(path.root), path.relative)


def container_problem(path: StorePath) -> str | None:
    """Return why HDF5 cannot tell the datasets of a file, or None."""
    return _ask("container", StorePath(path.root), path.relative)


def _segment(root: StorePath, ref: dict[str, Any], log: str) -> None:
    open_segment(root, SegmentRef.model_validate(ref), _SCHEMAS[log])


def _table(root: StorePath, file: dict[str, Any]) -> None:
    read_table_file(root / file["path"], file["rows"], None, {})


def _header(root: StorePath, path: str) -> None:
    ShardReader(root / path, read_receipt((root / path).with_suffix(".json"))).close()


def _container(root: StorePath, path: str) -> None:
    with (root / path).opened() as raw, opened_container(raw.fileno()) as file:
        dataset_places(file)


_QUESTIONS: dict[str, Callable[..., None]] = {
    "segment": _segment,
    "table": _table,
    "header": _header,
    "container": _container,
}


def serve() -> None:
    """Answer the questions of the parent, one JSON text a line, until it closes the pipe."""
    for line in sys.stdin:
        question, root, *arguments = json.loads(line)
        try:
            _QUESTIONS[question](StorePath(Path(root)), *arguments)
            answer = None
        except StoreError as error:
            answer = str(error)
        except Exception as error:  # noqa: BLE001 (whatever a file makes a library raise is what was asked for)
            answer = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class _Child:
    """The running child of this process."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        self.owner = os.getpid()
        ours, theirs = socket.socketpair()  # closed, it wakes the child; nothing of it is inherited by others
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,
            )
        ours.settimeout(DEADLINE_S)
        self._channel = ours.makefile("rwb")
        ours.close()  # the channel keeps it open

    def ask(self, *question: Any) -> Any:
        """Return the answer; raise ``EOFError`` if there is none."""
        try:
            self._channel.write(json.dumps(question).encode() + b"\n")
            self._channel.flush()
            line = self._channel.readline()
        except OSError as error:
            raise EOFError(str(error)) from error
        if not line.endswith(b"\n"):
            raise EOFError
        return json.loads(line)

    def end(self) -> str:
        """End it, and say how it ended."""
        with suppress(OSError):
            self._channel.close()
        try:
            ended = self._process.wait(1)  # the channel closes a little before
        except subprocess.TimeoutExpired:
            self.kill()
            return f"takes more than {DEADLINE_S:.0f} s to read"
        return f"ended the process that read it ({_named(ended)})"

    def kill(self) -> None:
        """End it at once."""
        with suppress(OSError):
            self._channel.close()
        self._process.kill()
        self._process.wait()


_children: list[_Child] = []


def _ask(question: str, root: StorePath, *arguments: Any) -> str | None:
    if _children and _children[0].owner != os.getpid():  # of the parent, if this process was forked
        _children.clear()
    if not _children:
        _children.append(_Child())
    try:
        answer: str | None = _children[0].ask(question, str(root), *arguments)
    except EOFError:
        return _children.pop().end()
    return answer


def _named(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


@atexit.register
def _end() -> None:
    for child in _children:
        if child.owner == os.getpid():
            child.kill()
