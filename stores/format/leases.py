"""Leases tell ``gc`` which versions are being read.

A lease is one small file in ``leases/``. It is valid until its reader closes the store, until its process is found dead
on its own host, or for ``LEASE_SECONDS`` after it was written.
"""

from __future__ import annotations

import json
import os
import socket
import time

import psutil

from ..errors import StoreDamageError
from . import durable, layout
from .inside import StorePath

LEASE_SECONDS = 7 * 24 * 3600.0
_LARGEST = 1 << 16
_CLOCK_SLACK_SECONDS = 2.0
"""Two readings of one process's start time may differ by this much."""


def take(root: StorePath, version: int) -> StorePath | None:
    """Write a lease on ``version`` and return its path, or None if the store cannot be written."""
    path = root / layout.LEASES / f"{layout.new_id()}.json"
    process = psutil.Process()
    record = {
        "version": version,
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": process.create_time(),
    }
    try:
        durable.write_new(path, json.dumps(record).encode())
    except (OSError, StoreDamageError):
        return None
    return path


def release(path: StorePath, owner: int) -> None:
    """Remove a lease, but only in the process ``owner`` that took it: a forked child shares its parent's lease."""
    if os.getpid() == owner:
        try:
            durable.unlink(path)
        except (OSError, StoreDamageError):
            return


def held(root: StorePath, now: float | None = None) -> tuple[set[int], list[StorePath]]:
    """Return the versions under a valid lease, and the lease files that are no longer valid."""
    versions: set[int] = set()
    dead: list[StorePath] = []
    for path in (root / layout.LEASES).files(".json"):
        try:
            age = (time.time() if now is None else now) - path.status().st_mtime
            if age > LEASE_SECONDS:
                dead.append(path)
                continue
            record = json.loads(path.read_bytes(_LARGEST))
            version = int(record["version"])
            is_local = record["host"] == socket.gethostname()
            reader_died = is_local and not _alive(int(record["pid"]), float(record["started"]))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            continue  # incomplete: its reader is still writing it, or died while doing so
        if reader_died:
            dead.append(path)
        else:
            versions.add(version)
    return versions, dead


def _alive(pid: int, started: float) -> bool:
    """Return whether the process that had this id at that time is still running."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < _CLOCK_SLACK_SECONDS)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
