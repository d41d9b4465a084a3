"""Files of other tools that refer to something else, or hold more than numbers: refused by name, with the dataset."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stores.errors import ExchangeError
from stores.exchange import open_files
from stores.exchange.exporting import read_keys

SHAPE = (2, 3, 4)


def raw(file: h5py.File, folder: Path) -> None:
    file.create_dataset("x", SHAPE, "f4", external=[(str(folder / "secret"), 0, 96)])


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", SHAPE)
    file.create_virtual_dataset("x", layout)


def unknown_filter(file: h5py.File, folder: Path) -> None:
    """Claims the number of blosc, a plug-in that HDF5 would look for and load."""
    layers = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layers.set_chunk(SHAPE)
    layers.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(SHAPE), layers)


ATTACKS: dict[str, tuple[Callable[[h5py.File, Path], Any], str]] = {
    "external link": (
        lambda file, folder: file.__setitem__("x", h5py.ExternalLink(str(folder / "other.h5"), "/x")),
        r"'x' is a link to /x in .*other\.h5; links are not followed",
    ),
    "soft link": (
        lambda file, folder: file.__setitem__("x", h5py.SoftLink("/elsewhere/x")),
        r"'x' is a link to /elsewhere/x; links are not followed",
    ),
    "external storage": (raw, r"dataset 'x' has its numbers in another file \(.*secret\)"),
    "virtual dataset": (virtual, r"dataset 'x' is a virtual dataset"),
    "filter": (unknown_filter, r"dataset 'x' is packed by filter 32001, a plug-in"),
    "arrays of varying length": (
        lambda file, folder: file.create_dataset("x", SHAPE, h5py.vlen_dtype("f4")),
        r"dataset 'x' holds objects",
    ),
    "references": (
        lambda file, folder: file.create_dataset("x", SHAPE, h5py.ref_dtype),
        r"dataset 'x' holds objects",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hdf5_that_refers_to_something_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.arange(24, dtype="<f4").tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones(SHAPE, "f4")
    make, words = ATTACKS[name]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vid"] = np.array([b"a", b"b"])
        make(file, tmp_path)
    with pytest.raises(ExchangeError, match=words) as caught:
        open_files([tmp_path / "a.h5"])
    assert str(tmp_path / "a.h5") in str(caught.value)


def test_what_h5py_writes_by_itself_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vid"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        options = {"compression": "lzf", "shuffle": True, "fletcher32": True, "chunks": True}
        file.create_dataset("x", data=np.ones(SHAPE, "f4"), **options)
    rows = open_files([tmp_path / "a.h5"])
    assert rows.keys() == ["a", "b"] and rows.row("b").shape == SHAPE[1:]


def test_numpy_objects_are_not_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "npy"
    folder.mkdir()

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "mark"),)

    np.save(folder / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(ExchangeError, match=r"cannot be read as a \.npy array"):
        open_files([folder]).row("a")
    assert not (tmp_path / "mark").exists()


def test_files_and_lists_that_are_no_files_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "npy"
    folder.mkdir()
    os.mkfifo(folder / "a.npy")
    os.mkfifo(tmp_path / "a.h5")
    for path in (folder, tmp_path / "a.h5"):
        with pytest.raises(OSError, match="not a regular file but a FIFO"):
            open_files([path])
    deep = tmp_path / "keys.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(ExchangeError, match="cannot be read as JSON"):
        read_keys(deep)
