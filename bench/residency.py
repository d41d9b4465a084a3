"""Count the pages of a file that are in the page cache (``mincore``), and drop them (``posix_fadvise``)."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

from stores.format import map_file

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def resident_pages(path: Path) -> int:
    """Return how many pages of the file are in the page cache; counting brings none in.

    Raises
    ------
    OSError
        If the system refuses, as it may for files that we neither own nor may write.
    """
    with path.open("rb") as file:
        view = map_file(file.fileno(), path.stat().st_size)
    pages = np.zeros(-(-view.size // mmap.PAGESIZE), np.uint8)
    if _libc.mincore(view.ctypes.data, view.size, pages.ctypes.data):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return int(np.count_nonzero(pages & 1))


def make_cold(path: Path) -> bool:
    """Drop the file from the page cache; return whether that worked.

    It does not on tmpfs, nor while pages of the file are mapped.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # only clean pages can be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return resident_pages(path) == 0
