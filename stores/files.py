"""Opens the files of others that are read into a store: regular files alone, asked before, and of bounded size.

A copy of a few lines of ``settings/files.py`` in the checkout: this package is installed alone.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

TEXT_BYTES = 1 << 30
"""Most bytes of a list of keys, an index or a table of times."""

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path) -> os.stat_result:
    """Return the status of a file that may be opened: a regular one, or a link to one.

    Raises
    ------
    OSError
        If there is none, or it is something else: opening a FIFO or a device may never return.
    """
    return _checked(path.stat(), path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, without ever waiting for it.

    Raises
    ------
    OSError
        If it cannot be opened or is not a regular file.
    """
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _checked(os.fstat(descriptor), path)  # another file may have taken its place
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: Path) -> str:
    """Return the text of a regular file of at most ``TEXT_BYTES``; a byte order mark before it is skipped.

    Raises
    ------
    OSError
        If it cannot be read, is not a regular file, or is larger.
    UnicodeDecodeError
        If it is not UTF-8.
    """
    with open_regular(path) as file:
        data = file.read(TEXT_BYTES + 1)
    if len(data) > TEXT_BYTES:
        raise OSError(errno.EOVERFLOW, f"larger than {TEXT_BYTES >> 20} MiB, the most that is read of it", str(path))
    return data.decode("utf-8-sig")


def _checked(status: os.stat_result, path: Path) -> os.stat_result:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))
    return status
