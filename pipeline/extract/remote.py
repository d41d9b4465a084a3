"""Reads files at fsspec URIs: by allowed protocols, and so that no server keeps a run waiting or fills its disk."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, TypeVar

import fsspec

from pipeline.media import MediaError
from pipeline.shared.errors import SourceError
from settings.messages import one_line
from stores.format import StorePath, durable

PROTOCOLS = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "hf")
"""The protocols that a source may use unless its settings say otherwise."""
MAX_BYTES = 64 << 30
STALL_S = 60.0

_CHUNK = 1 << 20
_SIGN_OF_LIFE = 1 << 16  # bytes that a copy must bring in ``stall_s``: a server that drips shall not hold a worker
_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a remote file may cost.

    Attributes
    ----------
    max_bytes
        Size of the largest file that is copied.
    stall_s
        Seconds without a sign of life, or with less than 64 KiB of a copy, after which a server is given up.
    """

    max_bytes: int = MAX_BYTES
    stall_s: float = STALL_S


DEFAULT_BOUNDS = Bounds()


class _GivenUpError(Exception):
    """Raised in a thread for which nobody waits any longer."""


class StalledError(TimeoutError):
    """Raised when a server sends nothing for too long."""


def protocols_of(uri: str) -> list[str]:
    """Return the protocols of a URI, each of them where it is a chain (``zip://a.mp4::https://…``)."""
    return [part.partition("://")[0].lower() for part in uri.split("::")]


def check_protocols(uri: str, allowed: Sequence[str]) -> None:
    """Check that a URI may be read and that its filesystem is installed.

    Raises
    ------
    SourceError
        With one line that names the protocol and what to set or install.
    """
    for protocol in protocols_of(uri):
        if protocol not in allowed:
            raise SourceError(
                f"{uri}: the protocol {protocol!r} is not allowed; if this URI is to be trusted, "
                f"--set source.protocols=[{', '.join(dict.fromkeys((*allowed, *protocols_of(uri))))}]"
            )
        if (problem := _why_unusable(protocol)) is not None:
            raise SourceError(f"{uri}: {problem}")


@lru_cache(maxsize=64)
def _why_unusable(protocol: str) -> str | None:
    """Return why no filesystem serves a protocol here, or None if one does."""
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        return f"no filesystem is known for the protocol {protocol!r}"
    except ImportError as error:
        missing = getattr(error.__cause__ or error, "name", None) or one_line(error)
        package = missing.partition(".")[0].replace("_", "-")
        return f"the protocol {protocol!r} needs a package that is not installed: pip install {package}"
    return None


def remote_status(uri: str, bounds: Bounds = DEFAULT_BOUNDS) -> tuple[int, str]:
    """Return size and stamp (the etag or the like) of a remote file.

    Raises
    ------
    OSError
        If the file cannot be reached, or not in time.
    """

    def ask(alive: Callable[[], None]) -> tuple[int, str]:
        filesystem, path = fsspec.core.url_to_fs(uri)
        info = filesystem.info(path)
        stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
        return int(info.get("size") or 0), stamp

    return _within(bounds.stall_s, ask)


def remote_files(uri: str, bounds: Bounds = DEFAULT_BOUNDS) -> tuple[str, list[tuple[str, str]]]:
    """List the files below a URI, or those that a glob matches.

    Returns
    -------
    base
        The folder, as the filesystem names it.
    files
        (name there, URI) of each file, sorted.

    Raises
    ------
    OSError
        If it cannot be listed, or not in time.
    """

    def ask(alive: Callable[[], None]) -> tuple[str, list[tuple[str, str]]]:
        filesystem, path = fsspec.core.url_to_fs(uri)
        names = filesystem.glob(path) if glob.has_magic(path) else filesystem.find(path)
        return path.split("*", 1)[0], [(name, filesystem.unstrip_protocol(name)) for name in sorted(names)]

    return _within(bounds.stall_s, ask)


def read_remote(uri: str, bounds: Bounds = DEFAULT_BOUNDS) -> bytes:
    """Read a remote file whole.

    Raises
    ------
    OSError
        If it cannot be read, or not in time, or is larger than ``max_bytes``.
    """
    parts: list[bytes] = []
    _within(bounds.stall_s, lambda alive: _read(uri, bounds, parts.append, alive))
    return b"".join(parts)


def copy_remote(uri: str, target: StorePath, bounds: Bounds = DEFAULT_BOUNDS) -> str:
    """Copy a remote file, hash it on the way, and return its content id.

    Raises
    ------
    OSError
        If it cannot be read or written.
    MediaError
        ``timeout`` if its server stalls; ``too_large`` beyond ``max_bytes``.
    """
    hasher = hashlib.sha256()

    def copy(alive: Callable[[], None]) -> str:
        with os.fdopen(durable.create(target), "wb") as local:

            def take(chunk: bytes) -> None:
                hasher.update(chunk)
                local.write(chunk)

            _read(uri, bounds, take, alive)
        return hasher.hexdigest()

    try:
        return _within(bounds.stall_s, copy)
    except StalledError as error:
        raise MediaError("timeout", f"{error.strerror} (media.stall_s)") from error
    except OSError as error:
        if error.errno == errno.EOVERFLOW:
            raise MediaError("too_large", f"{error.strerror} (media.max_bytes)") from error
        raise


def _read(uri: str, bounds: Bounds, take: Callable[[bytes], object], alive: Callable[[], None]) -> None:
    """Hand on the bytes of a remote file, chunk by chunk; ``alive`` is told of every 64 KiB."""
    total = unsaid = 0
    with fsspec.open(uri, "rb") as remote:
        reader: IO[bytes] = remote
        alive()
        while chunk := reader.read(_CHUNK):
            total += len(chunk)
            unsaid += len(chunk)
            if total > bounds.max_bytes:
                raise OSError(errno.EOVERFLOW, f"the file has more than {bounds.max_bytes} bytes", uri)
            if unsaid >= _SIGN_OF_LIFE:
                alive()
                unsaid = 0
            take(chunk)


class _Watch:
    """When a thread last gave a sign of life, and whether somebody still waits for it."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.given_up = False

    def alive(self) -> None:
        """Give a sign of life."""
        if self.given_up:
            raise _GivenUpError
        self.last = time.monotonic()


def _within(stall_s: float, work: Callable[[Callable[[], None]], _Result]) -> _Result:
    """Return what ``work`` returns, which calls its argument as a sign of life; raise ``OSError`` for all it raises.

    It runs in a daemon thread: a filesystem that never answers holds neither this one nor the end of the process, and a
    signal reaches the main thread while it waits here.
    """
    watch, done = _Watch(), threading.Event()
    outcome: list[tuple[Any, Exception | None]] = []

    def run() -> None:
        try:
            outcome.append((work(watch.alive), None))
        except Exception as error:  # noqa: BLE001 (a filesystem may be anybody's; raised again below)
            outcome.append((None, error))
        finally:
            done.set()

    threading.Thread(target=run, name="remote", daemon=True).start()
    try:
        while not done.wait(max(0.0, watch.last + stall_s - time.monotonic())):
            if time.monotonic() >= watch.last + stall_s:
                raise StalledError(errno.ETIMEDOUT, f"nothing arrived for {stall_s:g} s")
    finally:
        watch.given_up = True
    result, error = outcome[0]
    if error is None:
        answer: _Result = result
        return answer
    if isinstance(error, OSError | MediaError):
        raise error
    raise OSError(errno.EIO, f"{type(error).__name__}: {one_line(error)}") from error
