"""The same rows in a store and in the layouts that trainers read today, each opened as its readers do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import torch

from parsers.annotations.schema import QUESTIONS
from stores import Store
from stores.commit import Changes, commit, create_store, place_shard, write_spec, write_table
from stores.exchange.exporting import export
from stores.format.mapped import empty_apart
from stores.format.rows import Row
from stores.format.shard import ShardWriter
from stores.loading import View
from stores.loading.buffers import Buffers
from stores.loading.gather import FeatureRows

BY_ROW = "h5py by row, file kept open"


@dataclass(frozen=True)
class Feature:
    name: str
    shape: tuple[int, ...]
    rows: int
    batch: int
    reads: int  # rows read in one round

    @property
    def row_bytes(self) -> int:
        return 2 * int(np.prod(self.shape))


FEATURES = (Feature("clip", (32, 768), 2048, 64, 512), Feature("swin", (60, 7, 7, 1024), 96, 16, 32))


def key(index: int) -> str:
    return f"{index:08d}"


def values(feature: Feature, index: int) -> np.ndarray:
    generator = np.random.default_rng([index, feature.row_bytes])
    return generator.standard_normal(feature.shape, np.float32).astype(np.float16)


def build_store(root: Path) -> None:
    """Both features, and one question a video."""
    create_store(root)
    for feature in FEATURES:
        spec = {"name": feature.name, "step_shape": list(feature.shape[1:]), "dtype": "float16"}
        digest = write_spec(root, spec)
        for first in range(0, feature.rows, 512):
            writer = ShardWriter(root, feature.name, digest, {"device": "none"})
            for index in range(first, min(first + 512, feature.rows)):
                steps = feature.shape[0]
                cache_key = hashlib.sha256(f"{feature.name}{index}".encode()).digest()
                times = np.arange(steps, dtype=np.float64)
                writer.add(
                    Row(key(index), cache_key, values(feature, index), times, np.ones(steps, bool), float(steps))
                )
            receipt = writer.finish()
            commit(root, Changes(placed=place_shard(root, receipt), shards=[receipt], current={feature.name: digest}))
    for split, count in (("clip", FEATURES[0].rows), ("swin", FEATURES[1].rows)):
        rows = [_question(split, index) for index in range(count)]
        part = write_table(
            root, "questions", {"kind": "bench"}, pa.Table.from_pylist(rows, QUESTIONS), f"bench/{split}"
        )
        commit(root, Changes(tables={"questions": {f"bench/{split}": part}}))


def _question(split: str, index: int) -> dict[str, Any]:
    blank = {field.name: [] if pa.types.is_list(field.type) else None for field in QUESTIONS}
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


Read = Callable[[Sequence[int]], np.ndarray]  # rows to one batch
ReadRow = Callable[[int], np.ndarray]  # a row, or a view of it


@dataclass(frozen=True)
class Peer:
    """One way to keep rows. ``open`` opens it as a trainer would, ``open_row`` as a map-style dataset does."""

    name: str
    files: Path
    open: Callable[[], Read]
    open_row: Callable[[], ReadRow] | None = None


def published(name: str, files: Path, open_row: Callable[[], ReadRow]) -> Peer:
    """Rows one by one, stacked as PyTorch's default collate does."""

    def opened() -> Read:
        row = open_row()
        return lambda batch: torch.stack([torch.from_numpy(row(index)) for index in batch]).numpy()

    return Peer(name, files, opened, open_row)


def buffered(name: str, files: Path, feature: Feature, open_row: Callable[[], ReadRow]) -> Peer:
    """Rows one by one, each copied into its place in a batch."""

    def opened() -> Read:
        row, out = open_row(), batch_buffer(feature)

        def read(batch: Sequence[int]) -> np.ndarray:
            for place, index in enumerate(batch):
                np.copyto(out[place], row(index))
            return out[: len(batch)]

        return read

    return Peer(name, files, opened, open_row)


def batch_buffer(feature: Feature) -> np.ndarray:
    return empty_apart(feature.batch * feature.row_bytes).view(np.float16).reshape(feature.batch, *feature.shape)


def build_peers(feature: Feature, folder: Path, store: Path) -> list[Peer]:
    """Write every layout of a feature once."""
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
        kept = store / Path(opened.place(feature.name, key(0))[0]).parent
    return [
        Peer("store", kept, lambda: _store_reader(feature, store)),
        published(BY_ROW, rows, lambda: _h5py_row(rows)),
        published("h5py by row, opened per row", rows, lambda: lambda index: _h5py_once(rows, index)),
        Peer("h5py read_direct", rows, lambda: _h5py_direct(feature, rows)),
        published(".npy per video", npy, lambda: lambda index: np.load(npy / f"{key(index)}.npy")),
        buffered("LMDB", folder / "lmdb", feature, _build_lmdb(feature, folder / "lmdb")),
        Peer("Lance", lance, lambda: _lance_reader(feature, lance), lambda: _lance_row(feature, lance)),
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
        return dataset[index]


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
            return np.frombuffer(transaction.get(key(index).encode()), np.float16).reshape(feature.shape)

        return read

    return opened


def _lance_row(feature: Feature, path: Path) -> ReadRow:
    read = _lance_reader(feature, path)
    return lambda index: read([index])[0]


def _lance_reader(feature: Feature, path: Path) -> Read:
    """Lance takes a batch at once, which is its way to be fast."""
    import lance

    dataset = lance.dataset(str(path))

    def read(batch: Sequence[int]) -> np.ndarray:
        column = dataset.take(list(batch), columns=["values"]).column("values").combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), *feature.shape)

    return read


def _zarr_row(path: Path) -> ReadRow:
    import zarr

    array: Any = zarr.open_group(path, mode="r")["values"]
    return lambda index: array[index]
