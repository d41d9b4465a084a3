"""The process in which untrusted files are decoded: `python -m pipeline.media_child MEMORY_MB PARENT_PID`.

Reads one request a line from stdin and writes events to what was stdout when it started. It imports the standard
library, av, numpy and this project's light modules, and nothing else. It dies with its parent, may not grow beyond its
own size plus a budget, writes no files and leaves no core.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.media.decode import decode
from pipeline.media.types import DecodeRequest, MediaError
from pipeline.media.wire import send_done, send_event, send_failure

_PR_SET_PDEATHSIG = 1
_STDERR_BYTES = 1 << 20


def main(arguments: list[str]) -> None:
    """Serve requests until stdin ends."""
    memory_mb, parent = int(arguments[0]), int(arguments[1])
    die_with(parent)
    channel = claim_stdout()
    limit_resources(memory_mb)
    write = writer(channel)
    for line in sys.stdin.buffer:
        serve(DecodeRequest.from_json(line), write)


def serve(request: DecodeRequest, write: Callable[[bytes | memoryview], None]) -> None:
    """Answer one request."""
    try:
        for event in decode(request):
            send_event(write, event)
    except MediaError as error:
        send_failure(write, error)
    except MemoryError:
        send_failure(write, MediaError("oom", "out of memory"))
    else:
        send_done(write)


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, at whatever the decoder is doing."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # The parent ended before the request above took hold.
        os._exit(1)


def claim_stdout() -> int:
    """Keep stdout for events alone: whatever a C library prints goes to stderr instead."""
    channel = os.dup(1)
    os.dup2(2, 1)
    return channel


def limit_resources(memory_mb: int) -> None:
    """Cap the address space at the present size plus `memory_mb`; no cores; no files beyond stderr's few lines."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_STDERR_BYTES, _STDERR_BYTES))


def writer(channel: int) -> Callable[[bytes | memoryview], None]:
    """A function that writes all of its bytes to a descriptor."""

    def write(data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(channel, rest) :]

    return write


if __name__ == "__main__":
    main(sys.argv[1:])
