"""The few system calls that change a store, each between two named crash points.

No other module creates, writes, renames, links or removes a file of a store (h5py writes HDF5 shards, but only inside
``staging/``). One test kills the process at every crash point; another uses strace to prove that no such call is made
outside this module.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StoreError, UnsupportedFilesystemError
from .inside import StorePath

_RENAME_NOREPLACE = 1


def _no_crash(name: str) -> None:
    """Do nothing: outside tests, a crash point has no effect."""


crash_point: Callable[[str], None] = _no_crash
"""Called with a name before and after every system call below. A test replaces it to kill the process there."""


@contextmanager
def crash_points(call: str, path: StorePath) -> Iterator[None]:
    """Put a crash point before and after one system call (or one staged write by a library)."""
    crash_point(f"{call}:before:{path}")
    yield
    crash_point(f"{call}:after:{path}")


def make_directory(path: StorePath) -> None:
    """Create a directory in a store, or a store with its parents, unless it exists."""
    if path.is_directory():
        return
    with crash_points("mkdir", path):
        if not path.names:
            path.root.mkdir(parents=True, exist_ok=True)
            return
        with path.descriptor_of_parent() as parent, contextlib.suppress(FileExistsError):
            os.mkdir(path.name, dir_fd=parent)


def sync_directory(path: StorePath) -> None:
    """Make the entries of a directory durable."""
    with crash_points("fsync", path):
        descriptor = path.open_directory()
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network filesystems cannot sync a directory
                raise
        finally:
            os.close(descriptor)


def sync_file(path: StorePath) -> None:
    """Make the content of a file durable."""
    with crash_points("fsync", path):
        descriptor = path.open()
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def create(path: StorePath) -> int:
    """Create a file that does not exist, and return a descriptor for reading and writing."""
    with crash_points("create", path):
        return path.open(os.O_RDWR | os.O_CREAT | os.O_EXCL)


def write_new(path: StorePath, data: bytes | memoryview) -> None:
    """Create ``path`` exclusively, write all of ``data`` and fsync it; after an error (a full disk) leave no file."""
    descriptor = create(path)
    try:
        with crash_points("write", path):
            _write_all(descriptor, data)
        with crash_points("fsync", path):
            os.fsync(descriptor)
    except OSError:
        unlink(path)
        raise
    finally:
        os.close(descriptor)


def write_stream(path: StorePath, chunks: Iterable[bytes]) -> None:
    """Create ``path`` exclusively, write all chunks and fsync it; after any error leave no file."""
    descriptor = create(path)
    try:
        with crash_points("write", path):
            for chunk in chunks:
                _write_all(descriptor, chunk)
        with crash_points("fsync", path):
            os.fsync(descriptor)
    except BaseException:
        unlink(path)
        raise
    finally:
        os.close(descriptor)


def append(path: StorePath, data: bytes) -> None:
    """Add a line to a log. Logs do not belong to any version and are not fsynced."""
    with crash_points("append", path):
        descriptor = path.open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``: one call may take a part of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def rename(source: StorePath, target: StorePath) -> None:
    """Rename a file, replacing ``target`` if it exists."""
    with crash_points("rename", target), source.descriptor_of_parent() as old, target.descriptor_of_parent() as new:
        os.rename(source.name, target.name, src_dir_fd=old, dst_dir_fd=new)


def unlink(path: StorePath) -> None:
    """Remove a file (of a link, the link itself) if it exists."""
    with crash_points("unlink", path), contextlib.suppress(FileNotFoundError), path.descriptor_of_parent() as parent:
        os.unlink(path.name, dir_fd=parent)


def remove_directory(path: StorePath) -> None:
    """Remove an empty directory."""
    with crash_points("rmdir", path), path.descriptor_of_parent() as parent:
        os.rmdir(path.name, dir_fd=parent)


def replace_file(path: StorePath, staging: StorePath, data: bytes) -> None:
    """Give ``path`` new content in one step (only for files that no manifest lists)."""
    write_new(staging, data)
    rename(staging, path)
    sync_directory(path.parent)


def link_exclusive(source: StorePath, target: StorePath, data: bytes) -> bool:
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
    with source.descriptor_of_parent() as old, target.descriptor_of_parent() as new:
        with crash_points("link", target):
            try:
                os.link(source.name, target.name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
            except OSError as error:
                failure = error
        if failure is None:
            return True
        if failure.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            with crash_points("renameat2", target):
                failure = _rename_no_replace(old, source.name, new, target.name)
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


def create_whole(target: StorePath, staged: StorePath, data: bytes) -> bool:
    """Create ``target`` with all its content unless it exists, and return whether this call did.

    ``staged`` is a new name, which holds the content meanwhile. Raises as ``link_exclusive`` does.
    """
    write_new(staged, data)
    try:
        return link_exclusive(staged, target, data)
    finally:
        unlink(staged)


def _rename_no_replace(old: int, source: str, new: int, target: str) -> OSError | None:
    """Rename a file of one open directory to one of another unless that exists; return the error, if any."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return OSError(errno.ENOSYS, "renameat2 is not in this C library")
    names = os.fsencode(source), os.fsencode(target)
    result = libc.renameat2(old, names[0], new, names[1], ctypes.c_uint(_RENAME_NOREPLACE))
    return None if result == 0 else OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def file_digest(path: StorePath | Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.opened() if isinstance(path, StorePath) else path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
