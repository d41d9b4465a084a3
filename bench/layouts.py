"""Write the same rows to a store and to the layouts that trainers read today, and open each as its readers do."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import torch

from bench.filling import fill
from parsers.annotations import QUESTIONS
from stores import Store
from stores.changes import Changes
from stores.commit import commit, create_store, write_spec, write_table
from stores.exchange import export
from stores.format import Row, empty_half_page_off
from stores.loading import View
from stores.loading.buffers import Buffers
from stores.loading.gather import FeatureRows

BY_ROW = "h5py by row, file kept open"


@dataclass(frozen=True)
class Feature:
    """One made-up feature, float16."""

    name: str
    shape: tuple[int, ...]
    """Shape of one row."""
    rows: int
    """Rows that are written."""
    batch: int
    """Rows per batch."""
    reads: int
    """Rows read in one round."""

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return 2 * int(np.prod(self.shape))


FEATURES = (Feature("clip", (32, 768), 2048, 64, 512), Feature("swin", (60, 7, 7, 1024), 96, 16, 32))


def key(index: int) -> str:
    """Return the video key of a row."""
    return f"{index:08d}"


def values(feature: Feature, index: int) -> np.ndarray:
    """Return the values of a row, ``feature.shape`` float16; the same index gives the same values."""
    generator = np.random.default_rng([index, feature.row_bytes])
    return generator.standard_normal(feature.shape, np.float32).astype(np.float16)


def build_store(root: Path) -> None:
    """Make a store of both features, with one question per video."""
    create_store(root)
    for feature in FEATURES:
        spec = {"name": feature.name, "step_shape": list(feature.shape[1:]), "dtype": "float16"}
        digest = write_spec(root, spec)
        found = (_row(feature, index) for index in range(feature.rows))
        fill(root, {(feature.name, digest): found}, rows_per_shard=512)
    for split, count in (("clip", FEATURES[0].rows), ("swin", FEATURES[1].rows)):
        rows = [_question(split, index) for index in range(count)]
        part = write_table(
            root, "questions", {"kind": "bench"}, pa.Table.from_pylist(rows, QUESTIONS), f"bench/{split}"
        )
        commit(root, Changes(tables={"questions": {f"bench/{split}": part}}))


def _row(feature: Feature, index: int) -> Row:
    steps = feature.shape[0]
    cache_key = hashlib.sha256(f"{feature.name}{index}".encode()).digest()
    times = np.arange(steps, dtype=np.float64)
    return Row(key(index), cache_key, values(feature, index), times, np.ones(steps, bool), float(steps))


def _question(split: str, index: int) -> dict[str, Any]:
    blank: dict[str, Any] = {field.name: [] if pa.types.is_list(field.type) else None for field in QUESTIONS}
    return {
        **blank,
        "question_id": f"{split}_{index}",
        "video_id": key(index),
        "dataset": "bench",
        "split": split,
        "row": index,
        "question": "why did the boy pick up one present from the group of them and move to the sofa",
        "options": ["share with the girl", "approach lady sitting there", "unwrap it", "playing with toy", "gesture"],
        "answer": "unwrap it",
        "answer_index": 2,
        "type": "CW",
        "spans": [[1.2, 5.8]],
        "duration": 34.0,
    }


Read = Callable[[Sequence[int]], np.ndarray]
"""Takes row numbers, returns them as one batch."""
ReadRow = Callable[[int], np.ndarray]
"""Takes a row number, returns the row or a view of it."""


@dataclass(frozen=True)
class Peer:
    """One way to keep rows."""

    name: str
    files: Path
    """The file or folder that holds the rows."""
    open: Callable[[], Read]
    """Opens it as a trainer that fills batches would."""
    open_row: Callable[[], ReadRow] | None = None
    """Opens it as a map-style dataset would, if it can be read row by row."""
    forks: bool = True
    """Whether its library works in a worker that is forked from a process that has used it."""


def published(name: str, files: Path, open_row: Callable[[], ReadRow]) -> Peer:
    """Make a peer that reads rows one by one and stacks them as PyTorch's default collate does."""

    def opened() -> Read:
        row = open_row()
        return lambda batch: torch.stack([torch.from_numpy(row(index)) for index in batch]).numpy()

    return Peer(name, files, opened, open_row)


def buffered(name: str, files: Path, feature: Feature, open_row: Callable[[], ReadRow]) -> Peer:
    """Make a peer that reads rows one by one and copies each into its place in a batch that is used again."""

    def opened() -> Read:
        row, out = open_row(), batch_buffer(feature)

        def read(batch: Sequence[int]) -> np.ndarray:
            for place, index in enumerate(batch):
                np.copyto(out[place], row(index))
            return out[: len(batch)]

        return read

    return Peer(name, files, opened, open_row)


def batch_buffer(feature: Feature) -> np.ndarray:
    """Return an empty batch, ``[feature.batch, *feature.shape]`` float16, placed in memory as the store's own is."""
    return (
        empty_half_page_off(feature.batch * feature.row_bytes).view(np.float16).reshape(feature.batch, *feature.shape)
    )


def build_peers(feature: Feature, folder: Path, store: Path) -> list[Peer]:
    """Write a feature in every layout, and return how each is read; LMDB is left out if it is not installed."""
    folder.mkdir()
    rows, npy, lance, zarr = (folder / name for name in ("rows.h5", "npy", "lance/all.lance", "zarr/all.zarr"))
    with h5py.File(rows, "w") as file:
        dataset = file.create_dataset("CLIPL_I", (feature.rows, *feature.shape), "<f2")
        for index in range(feature.rows):
            dataset[index] = values(feature, index)
    npy.mkdir()
    for index in range(feature.rows):
        np.save(npy / f"{key(index)}.npy", values(feature, index))
    with Store.open(store, lease=False) as opened:
        for target in ("lance", "zarr"):
            export(opened, feature.name, target, folder / target)
        shard_folder = store / Path(opened.place(feature.name, key(0))[0]).parent
    lmdb = folder / "lmdb"
    lmdb_peers = (
        [buffered("LMDB", lmdb, feature, _build_lmdb(feature, lmdb))] if importlib.util.find_spec("lmdb") else []
    )
    return [
        Peer("store", shard_folder, lambda: _store_reader(feature, store)),
        published(BY_ROW, rows, lambda: _h5py_row(rows)),
        published("h5py by row, opened per row", rows, lambda: lambda index: _h5py_once(rows, index)),
        Peer("h5py read_direct", rows, lambda: _h5py_direct(feature, rows)),
        published(".npy per video", npy, lambda: lambda index: np.load(npy / f"{key(index)}.npy")),
        *lmdb_peers,
        Peer("Lance", lance, lambda: _lance_reader(feature, lance), lambda: _lance_row(feature, lance), False),
        buffered("Zarr 3", zarr, feature, lambda: _zarr_row(zarr)),
    ]


def _store_reader(feature: Feature, store: Path) -> Read:
    rows = FeatureRows(
        Store.open(store, lease=False), View(feature.name, dtype=None), [key(i) for i in range(feature.rows)]
    )
    buffers = Buffers()
    return lambda batch: rows.gather(batch, buffers).values.numpy()


def _h5py_row(path: Path) -> ReadRow:
    dataset: Any = h5py.File(path)["CLIPL_I"]
    return lambda index: dataset[index]


def _h5py_direct(feature: Feature, path: Path) -> Read:
    dataset: Any = h5py.File(path)["CLIPL_I"]
    out = batch_buffer(feature)

    def read(batch: Sequence[int]) -> np.ndarray:
        for place, index in enumerate(batch):
            dataset.read_direct(out, np.s_[index], np.s_[place])
        return out[: len(batch)]

    return read


def _h5py_once(path: Path, index: int) -> np.ndarray:
    with h5py.File(path) as file:
        dataset: Any = file["CLIPL_I"]
        row: np.ndarray = dataset[index]
        return row


def _build_lmdb(feature: Feature, path: Path) -> Callable[[], ReadRow]:
    import lmdb

    with lmdb.open(str(path), map_size=4 * feature.rows * feature.row_bytes) as database:
        for index in range(feature.rows):
            with database.begin(write=True) as transaction:
                transaction.put(key(index).encode(), values(feature, index).tobytes())

    def opened() -> ReadRow:
        database = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
        transaction = database.begin(buffers=True)

        def read(index: int) -> np.ndarray:
            found: Any = transaction.get(key(index).encode())
            return np.frombuffer(found, np.float16).reshape(feature.shape)

        return read

    return opened


def _lance_row(feature: Feature, path: Path) -> ReadRow:
    read = _lance_reader(feature, path)
    return lambda index: read([index])[0]


def _lance_reader(feature: Feature, path: Path) -> Read:
    """Read whole batches with ``take``, Lance's fast way."""
    import lance

    dataset = lance.dataset(str(path))

    def read(batch: Sequence[int]) -> np.ndarray:
        column = dataset.take(list(batch), columns=["values"]).column("values").combine_chunks()
        rows: np.ndarray = column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), *feature.shape)
        return rows

    return read


def _zarr_row(path: Path) -> ReadRow:
    import zarr

    array: Any = zarr.open_group(path, mode="r")["values"]
    return lambda index: array[index]
