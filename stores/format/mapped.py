"""Read-only memory maps of whole files that keep no file descriptor.

A store of large rows has thousands of shards, and a trainer maps them all in each of its workers. Python's
own ``mmap`` holds a descriptor for as long as the map lives, which ends at the usual limit of 1024.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

from .rows import Array

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value
_PAGE = 4096


def map_file(path: Path, size: int) -> Array:
    """``[size] uint8``, a read-only view of the file; unmapped when the last view of it is gone.

    Raises
    ------
    OSError
        If the file cannot be opened or mapped.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    finally:
        os.close(descriptor)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    owner = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(owner, _libc.munmap, address, size).atexit = False  # views may be read until the very end
    view: Array = np.frombuffer(memoryview(owner), np.uint8)
    view.flags.writeable = False
    return view


def will_read(address: int, nbytes: int) -> None:
    """Ask the kernel to start reading the pages of ``[address, address + nbytes)``, and no others, into its cache.

    Left to itself, the first touch of a cold page brings a whole read-ahead window with it, which is up to
    megabytes around a frame of some kilobytes.
    """
    start = address // mmap.PAGESIZE * mmap.PAGESIZE
    _libc.madvise(start, address + nbytes - start, mmap.MADV_WILLNEED)  # advice: refusing it is no error


def empty_apart(nbytes: int) -> Array:
    """``[nbytes] uint8``, uninitialised, half a page off the start of a page: where rows of a map are copied to.

    Rows mostly start at a page. Where a copy's target starts a few bytes after a page's start, as large arrays of
    numpy do, each load waits for a store with the same twelve low address bits, and the copy takes six times as long.
    """
    memory = np.empty(nbytes + 2 * _PAGE, np.uint8)
    first = -memory.__array_interface__["data"][0] % _PAGE + _PAGE // 2
    return memory[first : first + nbytes]
