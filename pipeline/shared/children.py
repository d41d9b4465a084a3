"""Starts processes that run a module of ours and talk through a socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection


def start_child(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start ``python -m module N``, where N is the descriptor of its end of the connection; return it with ours.

    Ctrl-C at the terminal does not reach it: it is for this process, which ends that one.
    """
    ours, theirs = socket.socketpair()
    path = os.pathsep.join(dict.fromkeys(part for part in sys.path if part))
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    theirs.close()
    return process, Connection(ours.detach())
