"""The few system calls that change a store, each between two named crash points.

No other module creates, writes, renames, links or removes a file of a store (h5py writes HDF5 shards, but only inside
``staging/``). One test kills the process at every crash point; another uses strace to prove that no such call is made
outside this module.
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


def _no_crash(name: str) -> None:
    """Do nothing: outside tests, a crash point has no effect."""


crash_point: Callable[[str], None] = _no_crash
"""Called with a name before and after every system call below. A test replaces it to kill the process there."""


@contextmanager
def crash_points(call: str, path: Path) -> Iterator[None]:
    """Put a crash point before and after one system call (or one staged write by a library)."""
    crash_point(f"{call}:before:{path}")
    yield
    crash_point(f"{call}:after:{path}")


def make_directory(path: Path) -> None:
    """Create a directory and its parents unless it exists."""
    if path.is_dir():
        return
    with crash_points("mkdir", path):
        path.mkdir(parents=True, exist_ok=True)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    with crash_points("fsync", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network filesystems cannot sync a directory
                raise
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with crash_points("fsync", path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_new(path: Path, data: bytes | memoryview) -> None:
    """Create ``path`` exclusively, write all of ``data`` and fsync it; after an error (a full disk) leave no file."""
    with crash_points("create", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with crash_points("write", path):
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        with crash_points("fsync", path):
            os.fsync(descriptor)
    except OSError:
        unlink(path)
        raise
    finally:
        os.close(descriptor)


def append(path: Path, data: bytes) -> None:
    """Add a line to a log. Logs do not belong to any version and are not fsynced."""
    with crash_points("append", path), path.open("ab", buffering=0) as file:
        file.write(data)


def rename(source: Path, target: Path) -> None:
    """Rename a file, replacing ``target`` if it exists."""
    with crash_points("rename", target):
        source.rename(target)


def unlink(path: Path) -> None:
    """Remove a file if it exists."""
    with crash_points("unlink", path):
        path.unlink(missing_ok=True)


def remove_directory(path: Path) -> None:
    """Remove an empty directory."""
    with crash_points("rmdir", path):
        path.rmdir()


def replace_file(path: Path, staging: Path, data: bytes) -> None:
    """Give ``path`` new content in one step (only for files that no manifest lists)."""
    write_new(staging, data)
    rename(staging, path)
    sync_directory(path.parent)


def link_exclusive(source: Path, target: Path, data: bytes) -> bool:
    """Publish ``source`` as ``target`` unless ``target`` exists, and return whether this call published it.

    ``data`` is the content of ``source`` and contains a nonce. After an error the target is read and compared: NFS may
    report EEXIST for a link that it did make, and then the target contains our nonce.

    Raises
    ------
    UnsupportedFilesystemError
        If neither hard links nor ``renameat2(RENAME_NOREPLACE)`` work here.
    StoreError
        If publishing failed for another reason and there is no target.
    """
    failure: OSError | None = None
    with crash_points("link", target):
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
    """Rename unless ``target`` exists; return the error, if any."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return OSError(errno.ENOSYS, "renameat2 is not in this C library")
    with crash_points("renameat2", target):
        result = libc.renameat2(
            _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(_RENAME_NOREPLACE)
        )
    return None if result == 0 else OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
