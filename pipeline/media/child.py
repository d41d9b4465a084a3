"""Decodes untrusted files in a process of its own: ``python -m pipeline.media.child MEMORY_MB PARENT_PID [BACKEND]``.

It receives requests on stdin, a socket, with the file of each open, and writes events to what was stdout when it
started. It imports the standard library, av, numpy and this project's light modules, and nothing else unless an opt-in
backend needs it. It dies with its parent, may not grow beyond its own size plus a budget, leaves no core, and cannot
open files, reach a network or start processes (``pipeline.media.sandbox``).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pkgutil
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av

from pipeline.media import sandbox
from pipeline.media.decoding import decode
from pipeline.media.foreign import BACKENDS
from pipeline.media.inputs import LOCAL, Files, HandedFiles, receive_message
from pipeline.media.recipes import recipe
from pipeline.media.types import DecodeRequest, MediaError
from pipeline.media.wire import send_done, send_event, send_failure, send_hello, send_wanted

_PR_SET_PDEATHSIG = 1
_STDERR_BYTES = 1 << 20  # enough for the last words of a process; a library that floods cannot fill the disk
_WATCH_S = 0.02  # a decoder can claim a few hundred MB in that time, not more


def main(arguments: list[str]) -> None:
    """Serve requests until stdin ends."""
    memory_mb, parent = int(arguments[0]), int(arguments[1])
    die_with(parent)
    backend = arguments[2] if len(arguments) > 2 else "pyav"
    write = writer(claim_stdout())
    limit_resources()
    if backend == "torchcodec":
        watch_memory(memory_mb)
    else:
        limit_address_space(memory_mb)
    requests = socket.socket(fileno=0)
    by_name = backend in BACKENDS  # libraries that open files themselves
    load_everything(backend)
    send_hello(write, sandbox.enter(files=by_name))
    while (received := receive_message(requests)) is not None:
        fields, descriptor = received
        request = DecodeRequest.from_fields(fields)
        handed = HandedFiles(requests, partial(send_wanted, write), request.path, descriptor)
        try:
            serve(request, LOCAL if by_name else handed, write)
        finally:
            handed.close()


def load_everything(backend: str) -> None:
    """Import, and read, whatever a decode may need later: no file can be opened then."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("pyav", backend):
        with contextlib.suppress(MediaError):  # the first request is answered with the reason
            recipe(name)


def serve(request: DecodeRequest, files: Files, write: Callable[[bytes | memoryview], None]) -> None:
    """Answer one request with its events and its end, or with its failure."""
    try:
        for event in decode(request, files):
            send_event(write, event)
    except MediaError as error:
        send_failure(write, error)
    except MemoryError:
        send_failure(write, MediaError("oom", "out of memory"))
    else:
        send_done(write)


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, whatever the decoder is doing."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # The parent ended before the call above took effect.
        os._exit(1)


def claim_stdout() -> int:
    """Keep stdout for events alone: whatever a C library prints goes to stderr instead."""
    channel = os.dup(1)
    os.dup2(2, 1)
    return channel


def limit_address_space(memory_mb: int) -> None:
    """Cap the address space at the present size plus ``memory_mb``."""
    size = _pages(0) * resource.getpagesize() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def watch_memory(memory_mb: int) -> None:
    """End this process once its resident memory exceeds the present size, torch included, plus ``memory_mb``.

    Torch reserves far more address space than it uses, so only resident memory can be limited, and only by looking
    often.
    """
    from pipeline.media.torchcodec_backend import why_unavailable

    why_unavailable("torchcodec")  # loads the libraries; if that fails, the first request is answered with the reason
    limit = _pages(1) + memory_mb * 2**20 // resource.getpagesize()

    def watch() -> None:
        while _pages(1) <= limit:
            time.sleep(_WATCH_S)
        os.write(2, b"MemoryError: more than %d MiB resident\n" % memory_mb)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pages(field: int) -> int:
    """Return the pages of this process by the field of ``statm``: 0 address space, 1 resident."""
    return int(Path("/proc/self/statm").read_text().split()[field])


def limit_resources() -> None:
    """Forbid core dumps, and files beyond stderr's few lines."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_STDERR_BYTES, _STDERR_BYTES))


def writer(channel: int) -> Callable[[bytes | memoryview], None]:
    """Return a function that writes all of its bytes to a descriptor."""

    def write(data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(channel, rest) :]

    return write


if __name__ == "__main__":
    main(sys.argv[1:])
