"""Decodes in a child process, so that a file that crashes, hangs or eats memory costs one typed failure."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.media.errors import classify
from pipeline.media.inputs import LOCAL, answer, send_message
from pipeline.media.types import DecodeRequest, Event, MediaError
from pipeline.media.wire import Hello, ProtocolError, Wanted, receive

ROOT = Path(__file__).resolve().parents[2]
_PIPE_BYTES = 1 << 20  # the most that Linux grants without privileges
_SEND_S = 30.0  # a child that does not even read its request has stopped
_TAIL_BYTES = 4096  # of stderr: enough to hold its last line


class MediaProcess:
    """A decoding child that is started when needed and replaced when it fails.

    One per thread: the child ends with the thread that started it.

    Parameters
    ----------
    deadline_s
        Seconds that one video may keep its caller waiting, summed over its events; the caller's own work between
        events does not count.
    memory_mb
        Memory that the child may use beyond its own size, in MiB.
    recycle_after
        Number of videos after which a child is replaced.
    backend
        The backend that the requests will name. If it needs torch, resident memory is watched; otherwise the child may
        not reserve more than its budget.
    module
        Module that the child runs; tests name one that misbehaves.

    Attributes
    ----------
    sandbox
        What keeps the child from doing anything but decode (``pipeline.media.sandbox``); None before the first answer.
    """

    def __init__(
        self,
        deadline_s: float = 120.0,
        memory_mb: int = 2048,
        recycle_after: int = 300,
        backend: str = "pyav",
        module: str = "pipeline.media.child",
    ) -> None:
        self.deadline_s = deadline_s
        self.memory_mb = memory_mb
        self.recycle_after = recycle_after
        self.backend = backend
        self.module = module
        self.sandbox: str | None = None
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the current child, or None."""
        return None if self._child is None else self._child.process.pid

    def decode(self, request: DecodeRequest) -> Iterator[Event]:
        """Decode as ``pipeline.media.decoding.decode`` does, in the child.

        Leaving the iterator early, or calling again before it has ended, costs the child: the next call starts another.

        Raises
        ------
        MediaError
            What the child reports; ``timeout``, ``crash`` or ``oom`` for the child itself.
        """
        request = replace(request, path=str(Path(request.path).absolute()))
        try:
            opened = None if request.image_rate is not None else LOCAL.open(request.path)
        except OSError as error:
            raise classify(error) from error
        with opened or contextlib.nullcontext():
            yield from self._decode(request, None if opened is None else opened.fileno())

    def _decode(self, request: DecodeRequest, descriptor: int | None) -> Iterator[Event]:
        """Decode an open file, or a folder of images."""
        child = self._usable_child()
        child.busy = True
        child.served += 1
        patience = _Patience(self.deadline_s)
        try:
            child.send(request, descriptor)
            while (event := receive(child.reader(patience), request)) is not None:
                if isinstance(event, Hello):
                    self.sandbox = event.sandbox
                    continue
                if isinstance(event, Wanted):
                    child.answer(request, event)
                    continue
                yield event
                if self._child is not child:
                    raise RuntimeError("this decode was given up: its MediaProcess went on to another or was closed")
            child.busy = False
        except MediaError as error:
            child.busy = error.failure_class == "oom"
            raise
        except TimeoutError:
            raise MediaError("timeout", f"no answer within {self.deadline_s:g} s") from None
        except (EOFError, ConnectionError):
            raise child.describe_end() from None
        except ProtocolError as error:
            raise MediaError("crash", f"the decoder's answer is garbled: {error}") from error
        finally:
            if child.busy:
                self._drop(child)

    def works(self) -> bool:
        """Return whether a child starts and answers: asked for a file that holds nothing, it says so."""
        with tempfile.TemporaryFile() as nothing:
            try:
                for _ in self._decode(DecodeRequest(f"{ROOT}/\n", ()), nothing.fileno()):
                    pass
            except MediaError as error:
                return error.failure_class in ("corrupt", "missing")
        return False

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._drop(self._child)

    def __enter__(self) -> MediaProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _usable_child(self) -> _Child:
        child = self._child
        if child is not None and (child.busy or child.served >= self.recycle_after or child.has_ended):
            self._drop(child)
        if self._child is None:
            try:
                self._child = _Child(self.module, self.memory_mb, self.backend)
            except OSError as error:  # no processes, no memory, no descriptors left
                raise MediaError("crash", f"the decoder cannot be started: {error.strerror or error}") from error
        return self._child

    def _drop(self, child: _Child) -> None:
        child.kill()
        if self._child is child:
            self._child = None


class _Patience:
    """Seconds left to wait; they run only inside ``wait``."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self, descriptor: int) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        started = time.monotonic()
        ready = poll.poll(max(0.0, self.left) * 1000)
        self.left -= time.monotonic() - started
        if not ready:
            raise TimeoutError


class _Child:
    """One running process and its pipes."""

    def __init__(self, module: str, memory_mb: int, backend: str) -> None:
        self.busy = False
        self.served = 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        own, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(memory_mb), str(os.getpid()), backend],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                # In a group of its own, so that Ctrl-C at the terminal reaches the parent alone.
                start_new_session=True,
            )
        except BaseException:
            own.close()
            raise
        finally:
            theirs.close()
        assert self.process.stdout is not None
        self._requests, self._stdout = own, self.process.stdout
        self._requests.settimeout(_SEND_S)
        with contextlib.suppress(OSError):
            # A larger pipe saves switches between the two processes; the system may refuse it.
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, request: DecodeRequest, descriptor: int | None) -> None:
        send_message(self._requests, request.to_fields(), descriptor)

    def answer(self, request: DecodeRequest, wanted: Wanted) -> None:
        if request.image_rate is None:
            raise ProtocolError(f"asks for {wanted.name!r}, but the request is for one file")
        answer(self._requests, request.path, wanted.name)

    def reader(self, patience: _Patience) -> _Reader:
        return _Reader(self._stdout.fileno(), patience)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._requests.close()
        self._stdout.close()
        self._errors.close()

    def describe_end(self) -> MediaError:
        """Return why the process ended by itself: its signal or status, and the last line of its stderr."""
        code = self.process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with status {code}"
        words = f": {lines[-1]}" if lines else ""
        out_of_memory = bool(lines) and lines[-1].startswith("MemoryError")
        return MediaError("oom" if out_of_memory else "crash", f"the decoder {how}{words}")


class _Reader:
    """Reads exactly as many bytes as asked for from a pipe, within the patience left."""

    def __init__(self, descriptor: int, patience: _Patience) -> None:
        self._descriptor = descriptor
        self._patience = patience

    def __call__(self, count: int) -> NDArray[np.uint8]:
        buffer = np.empty(count, dtype=np.uint8)
        rest = buffer.data
        while rest:
            self._patience.wait(self._descriptor)
            taken = os.readv(self._descriptor, [rest])
            if not taken:
                raise EOFError
            rest = rest[taken:]
        return buffer
