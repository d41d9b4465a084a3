"""Read-only memory maps of whole files that keep no file descriptor.

A store of large rows has thousands of shards, and a trainer maps all of them in each of its workers. Python's own
``mmap`` keeps a descriptor open for as long as the map lives, and would soon reach the usual limit of 1024.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

import numpy as np

from .rows import Array

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value

PAGE_BYTES = 4096
"""Size of a page of memory; every dataset of a shard that is as large begins at a multiple of it."""


def map_file(descriptor: int, size: int) -> Array:
    """Map an open file and return it as a read-only array ``[size] uint8``; it is unmapped with its last view.

    Raises
    ------
    OSError
        If the file cannot be mapped.
    """
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    owner = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(owner, _libc.munmap, address, size).atexit = False  # views may be read until the very end
    view: Array = np.frombuffer(memoryview(owner), np.uint8)
    view.flags.writeable = False
    return view


def will_read(address: int, nbytes: int) -> None:
    """Ask the kernel to start reading the pages of ``[address, address + nbytes)`` into its cache, and no others.

    Without this, the first access to a cold page also reads a whole read-ahead window: up to megabytes around a frame
    of some kilobytes.
    """
    start = address // mmap.PAGESIZE * mmap.PAGESIZE
    _libc.madvise(start, address + nbytes - start, mmap.MADV_WILLNEED)  # only a hint: a failure can be ignored


def empty_half_page_off(nbytes: int) -> Array:
    """Return an uninitialised array ``[nbytes] uint8`` that begins in the middle of a page, to copy mapped rows into.

    Mapped rows usually begin at the start of a page. If the target of a copy begins a few bytes after the start of a
    page, as large numpy arrays do, every load waits for a store with the same twelve low address bits, and the copy
    takes six times as long.
    """
    memory = np.empty(nbytes + 2 * PAGE_BYTES, np.uint8)
    first = -memory.__array_interface__["data"][0] % PAGE_BYTES + PAGE_BYTES // 2
    return memory[first : first + nbytes]
