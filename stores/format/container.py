"""The HDF5 file that a shard is: what it costs beyond its data, and where its datasets begin."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil

from .mapped import PAGE_BYTES
from .staged_file import StagedFile

_METADATA_BLOCK = 3072
"""Bytes that HDF5 sets aside for its own structures at once: with the superblock and the small datasets of a shard of
one row, they fill the page before the values."""
_TREE_RANK, _NAMES_RANK = 1, 8
"""Ranks of the symbol table of the one group: it holds 16 names, more than a shard has, in one leaf."""

_hdf5 = ctypes.PyDLL(h5py.h5p.__file__)  # finds what the HDF5 library of h5py offers and h5py does not wrap


def _set(name: str, *types: type) -> Any:
    """Return a function of HDF5 that sets a property, or None if this library does not have it.

    All that is set so makes a file smaller. A file that was made without it is as good.
    """
    function = getattr(_hdf5, name, None)
    if function is not None:
        function.argtypes = (ctypes.c_int64, *types)
    return function


_set_symbol_table = _set("H5Pset_sym_k", ctypes.c_uint, ctypes.c_uint)
_set_no_attributes = _set("H5Pset_dset_no_attrs_hint", ctypes.c_bool)


@contextmanager
def opened_container(descriptor: int) -> Iterator[h5py.File]:
    """Let HDF5 read an open file."""
    with h5py.File(f"/dev/fd/{descriptor}", "r", locking=False) as file:
        yield file


def plain_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose bytes lie in this file, as they are.

    HDF5 would follow a link to another file, read raw data from any file that a dataset names, and put datasets
    together from those of other files. None of that is a shard.

    Raises
    ------
    KeyError
        If there is no such dataset, or it is of another kind.
    """
    if isinstance(file.get(name, getlink=True), h5py.HardLink):
        dataset = file[name]
        if isinstance(dataset, h5py.Dataset):
            properties = dataset.id.get_create_plist()
            if properties.get_layout() == h5py.h5d.CONTIGUOUS and not properties.get_external_count():
                return dataset
    raise KeyError(f"{name!r} is not a dataset that lies in this file unfiltered and in one piece")


def create_container(target: StagedFile) -> h5py.File:
    """Create an empty HDF5 file, to be filled by ``create_dataset`` and closed by the caller.

    Datasets of at least a page begin at the start of a page. Smaller ones lie wherever there is room.
    """
    creation, access = h5py.h5p.create(h5py.h5p.FILE_CREATE), h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    access.set_alignment(PAGE_BYTES, PAGE_BYTES)
    access.set_meta_block_size(_METADATA_BLOCK)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, target)
    with phil:  # the lock under which h5py itself calls HDF5
        if _set_symbol_table is not None:
            _set_symbol_table(creation.id, _TREE_RANK, _NAMES_RANK)
    return h5py.File(h5py.h5f.create(repr(target).encode(), h5py.h5f.ACC_TRUNC, creation, access))


def create_dataset(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
    """Create a contiguous, unfiltered dataset whose place in the file is settled at once.

    Datasets must be created in descending order of their item sizes: each then begins at a multiple of its own.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    with phil:
        if _set_no_attributes is not None:
            _set_no_attributes(properties.id, True)
    space = h5py.h5s.create_simple(shape)
    hdf5_type = h5py.h5t.py_create(dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), hdf5_type, space, dcpl=properties))
