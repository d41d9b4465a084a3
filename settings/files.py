"""Reads the files that a user or a table names: regular files alone, asked before they are opened, of bounded size.

A leaf that imports the standard library only. ``stores``, which is installed alone, has its own copy of these few lines
in ``stores/files.py``, and the decoding child, which imports nothing of ours but ``pipeline/media``, in
``pipeline/media/inputs.py``.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

TEXT_BYTES = 4 << 30
"""Most bytes of a file that is read whole: annotations, parses, tables, predictions."""
NOTE_BYTES = 64 << 20
"""Most bytes of a small description: the configuration of a model, an index of weights, the results of a run."""

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_CHUNK = 1 << 20


def check_regular(path: str | Path) -> os.stat_result:
    """Return the status of a file that may be opened: a regular one, or a link to one.

    Raises
    ------
    OSError
        If there is none, or it is something else: opening a FIFO or a device may never return.
    """
    return _checked(os.stat(path), path)  # noqa: PTH116 (a path may be a plain string)


def check_folder(folder: str | Path) -> None:
    """Check that a library may read the files of a folder: none is a FIFO, a device or a socket.

    Raises
    ------
    OSError
        If one is, or the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        for path in sorted(entry.path for entry in entries):
            if not os.path.isdir(path) and os.path.exists(path):  # noqa: PTH110, PTH112 (plain strings)
                check_regular(path)


def open_regular(path: str | Path, most: int | None = None) -> BufferedReader:
    """Open a regular file of at most ``most`` bytes for reading, without ever waiting for it.

    Raises
    ------
    OSError
        If it cannot be opened, is not a regular file, or is larger.
    """
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = _checked(os.fstat(descriptor), path)  # another file may have taken its place
        if most is not None and status.st_size > most:
            raise _too_large(path, most)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, most: int = TEXT_BYTES) -> bytes:
    """Return the bytes of a regular file of at most ``most`` bytes.

    Raises
    ------
    OSError
        As ``open_regular`` does.
    """
    with open_regular(path, most) as file:
        data = file.read(os.fstat(file.fileno()).st_size)
        while chunk := file.read(_CHUNK):  # it has grown, or its system does not know its size
            data += chunk
            if len(data) > most:
                raise _too_large(path, most)
    return data


def read_text(path: str | Path, most: int = NOTE_BYTES, encoding: str = "utf-8") -> str:
    """Return the text of a regular file of at most ``most`` bytes.

    Raises
    ------
    OSError
        As ``open_regular`` does.
    UnicodeDecodeError
        If it is in another encoding.
    """
    return read_bytes(path, most).decode(encoding)


def _checked(status: os.stat_result, path: str | Path) -> os.stat_result:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))
    return status


def _too_large(path: str | Path, most: int) -> OSError:
    size = f"{most >> 30} GiB" if most >= 1 << 30 else f"{most >> 20} MiB" if most >= 1 << 20 else f"{most} bytes"
    return OSError(errno.EOVERFLOW, f"larger than {size}, the most that is read of such a file", str(path))
