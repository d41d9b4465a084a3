"""Leases: a reader tells ``gc`` which version it holds.

A lease is one small file in ``leases/``. It counts until its reader closes the store, until its
process is seen dead on its own host, or for :data:`LEASE_SECONDS` after it was written.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import psutil

from . import durable, layout

LEASE_SECONDS = 7 * 24 * 3600.0


def take(root: Path, version: int) -> Path | None:
    """Leave a lease on ``version``; None where the store cannot be written."""
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
    except OSError:
        return None
    return path


def release(path: Path, owner: int) -> None:
    """Drop a lease, in the process that took it only (a forked child shares its parent's)."""
    if os.getpid() == owner:
        try:
            durable.unlink(path)
        except OSError:
            return


def held(root: Path, now: float | None = None) -> tuple[set[int], list[Path]]:
    """The versions under a live lease, and the lease files that count no more."""
    versions: set[int] = set()
    dead: list[Path] = []
    for path in sorted((root / layout.LEASES).glob("*.json")):
        try:
            age = (time.time() if now is None else now) - path.stat().st_mtime
            if age > LEASE_SECONDS:
                dead.append(path)
                continue
            record = json.loads(path.read_bytes())
            version = int(record["version"])
            gone = record["host"] == socket.gethostname() and not _alive(int(record["pid"]), float(record["started"]))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            continue  # its reader is still writing it, or died then
        if gone:
            dead.append(path)
        else:
            versions.add(version)
    return versions, dead


def _alive(pid: int, started: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < 2.0)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
