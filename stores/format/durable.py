"""The few system calls by which a store changes, each with a named crash point.

Nothing else in the package creates, writes, renames, links or removes a file of a store
(HDF5 shards are written by h5py, but in ``staging/`` only). A test kills the process at
every crash point, and another proves with strace that no call escapes this module.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StoreError, UnsupportedFilesystemError

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_CHUNK = 1 << 20


def _nothing(name: str) -> None:
    """What happens at a crash point outside tests."""


crash_point: Callable[[str], None] = _nothing


@contextmanager
def crashing_point(call: str, path: Path) -> Iterator[None]:
    """Bracket one system call (or one library's staged write) with two crash points."""
    crash_point(f"{call}:before:{path}")
    yield
    crash_point(f"{call}:after:{path}")


def make_directory(path: Path) -> None:
    if path.is_dir():
        return
    with crashing_point("mkdir", path):
        path.mkdir(parents=True, exist_ok=True)


def sync_directory(path: Path) -> None:
    with crashing_point("fsync", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network filesystems cannot sync a directory
                raise
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    with crashing_point("fsync", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Create ``path`` exclusively, write all of ``data`` and fsync it; on an error (a full disk) leave nothing."""
    with crashing_point("create", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with crashing_point("write", path):
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        with crashing_point("fsync", path):
            os.fsync(descriptor)
    except OSError:
        unlink(path)
        raise
    finally:
        os.close(descriptor)


def append(path: Path, data: bytes) -> None:
    """Add a line to a log. Logs are not part of a version and are not fsynced."""
    with crashing_point("append", path), path.open("ab", buffering=0) as file:
        file.write(data)


def rename(source: Path, target: Path) -> None:
    with crashing_point("rename", target):
        source.rename(target)


def unlink(path: Path) -> None:
    with crashing_point("unlink", path):
        path.unlink(missing_ok=True)


def remove_directory(path: Path) -> None:
    with crashing_point("rmdir", path):
        path.rmdir()


def replace_file(path: Path, staging: Path, data: bytes) -> None:
    """Give ``path`` new content in one step (for files that no manifest lists)."""
    write_new(staging, data)
    rename(staging, path)
    sync_directory(path.parent)


def link_exclusive(source: Path, target: Path, data: bytes) -> bool:
    """Publish ``source`` as ``target`` unless ``target`` exists; say whether we did.

    ``data`` is what ``source`` holds, and it holds a nonce. After any error the target is read:
    NFS may report EEXIST for a link that it made, and then the target holds our nonce.

    Raises
    ------
    UnsupportedFilesystemError
        If neither hard links nor ``renameat2(RENAME_NOREPLACE)`` work here.
    """
    failure: OSError | None = None
    with crashing_point("link", target):
        try:
            os.link(source, target)
        except OSError as error:
            failure = error
    if failure is None:
        return True
    if failure.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
        failure = _rename_no_replace(source, target)
        if failure is None:
            return True
        if failure.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise UnsupportedFilesystemError(
                f"{target.parent}: this filesystem has neither hard links nor renameat2(RENAME_NOREPLACE); "
                "keep the store on a local disk or on NFS"
            ) from failure
    try:
        return target.read_bytes() == data
    except FileNotFoundError:
        raise StoreError(f"{target}: cannot publish ({failure.strerror})") from failure


def _rename_no_replace(source: Path, target: Path) -> OSError | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return OSError(errno.ENOSYS, "renameat2 is not in this C library")
    with crashing_point("renameat2", target):
        result = libc.renameat2(
            _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(_RENAME_NOREPLACE)
        )
    return None if result == 0 else OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
