"""Random access to feature rows: a store against what trainers read today.

    python bench/reading.py [--dir DIR] [--json PATH]

The same rows, float16: CLIP [32, 768] (48 KiB) and Swin-B maps [60, 7, 7, 1024] (6 MiB), as a store, one HDF5 file
(kept open, and opened for each row as some published loaders do), one .npy a video, LMDB, Lance and Zarr 3. WebDataset
has no random access: its figure is one pass in order. A read fills one batch (64 CLIP rows, 16 Swin rows); figures
are per row. First with warm page cache, where copying the same bytes from memory (memcpy) is the floor; then cold,
files evicted before the pass; then through a DataLoader with 0 and 2 workers.
Peers take turns within every round; figures are medians over rounds.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import pyarrow as pa
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.residency import make_cold, resident_pages
from parsers.annotations.schema import QUESTIONS
from stores import Store
from stores.commit import Changes, commit, create_store, place_shard, write_spec, write_table
from stores.legacy_export import export
from stores.loading import QuestionDataset, VideoDataset, View, identity
from stores.loading.buffers import Buffers
from stores.loading.gather import FeatureRows
from stores.mapped import empty_apart
from stores.rows import Row
from stores.shard import ShardWriter

console = Console(highlight=False)


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
ReadRow = Callable[[int], np.ndarray]


class Peer:
    """One way to keep rows; ``open`` opens it as a trainer would."""

    def __init__(
        self, name: str, files: Path, open_row: Callable[[], ReadRow], open_: Callable[[], Read] | None = None
    ):
        self.name, self.files, self.open_row = name, files, open_row
        self.open = open_ or self._stacked

    def _stacked(self) -> Read:
        row = self.open_row()
        return lambda batch: np.stack([row(index) for index in batch])


def build_peers(feature: Feature, folder: Path, store: Path) -> list[Peer]:
    """Write every layout of a feature once."""
    folder.mkdir()
    with h5py.File(folder / "rows.h5", "w") as file:
        dataset = file.create_dataset("CLIPL_I", (feature.rows, *feature.shape), "<f2")
        for index in range(feature.rows):
            dataset[index] = values(feature, index)
    (folder / "npy").mkdir()
    for index in range(feature.rows):
        np.save(folder / "npy" / f"{key(index)}.npy", values(feature, index))
    peers = [
        Peer("store", store / "features", lambda: _store_row(feature, store), lambda: _store_reader(feature, store)),
        Peer("h5py, file kept open", folder / "rows.h5", lambda: _h5py_reader(folder / "rows.h5")),
        Peer("h5py, opened per row", folder / "rows.h5", lambda: lambda index: _h5py_once(folder / "rows.h5", index)),
        Peer(".npy per video", folder / "npy", lambda: lambda index: np.load(folder / "npy" / f"{key(index)}.npy")),
    ]
    peers.append(Peer("LMDB", folder / "lmdb", _build_lmdb(feature, folder / "lmdb")))
    with Store.open(store, lease=False) as opened:
        for target in ("lance", "zarr"):
            export(opened, feature.name, target, folder / target)
    lance = folder / "lance" / "all.lance"
    peers.append(Peer("Lance", lance, lambda: _lance_row(feature, lance), lambda: _lance_reader(feature, lance)))
    peers.append(Peer("Zarr 3", folder / "zarr", lambda: _zarr_reader(folder / "zarr" / "all.zarr")))
    return peers


def _store_reader(feature: Feature, store: Path) -> Read:
    rows = FeatureRows(
        Store.open(store, lease=False), View(feature.name, dtype=None), [key(i) for i in range(feature.rows)]
    )
    buffers = Buffers()
    return lambda batch: rows.gather(batch, buffers).values.numpy()


def _store_row(feature: Feature, store: Path) -> ReadRow:
    opened = Store.open(store, lease=False)
    return lambda index: opened.row(feature.name, key(index)).copy()


def _h5py_reader(path: Path) -> ReadRow:
    dataset: Any = h5py.File(path)["CLIPL_I"]
    return lambda index: dataset[index]


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
            return np.frombuffer(transaction.get(key(index).encode()), np.float16).reshape(feature.shape).copy()

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
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), *feature.shape).copy()

    return read


def _zarr_reader(path: Path) -> ReadRow:
    import zarr

    array: Any = zarr.open_group(path, mode="r")["values"]
    return lambda index: array[index]


def evict(files: Path) -> None:
    """Drop a file or every file of a folder from the page cache."""
    for path in [files] if files.is_file() else sorted(files.rglob("*")):
        if path.is_file():
            make_cold(path)


def microseconds(read: Read, order: Sequence[int], batch: int) -> float:
    """A row's share of reading ``order`` batch by batch."""
    start = time.perf_counter()
    for first in range(0, len(order), batch):
        read(order[first : first + batch])
    return (time.perf_counter() - start) / len(order) * 1e6


def memcpy(feature: Feature, order: Sequence[int]) -> Read:
    """The floor: the same rows, already in memory, into one buffer."""
    rows = np.stack([values(feature, index) for index in sorted(set(order))])
    place = {index: at for at, index in enumerate(sorted(set(order)))}
    out = empty_apart(feature.batch * feature.row_bytes).view(np.float16).reshape(feature.batch, *feature.shape)

    def read(batch: Sequence[int]) -> np.ndarray:
        for at, index in enumerate(batch):
            np.copyto(out[at], rows[place[index]])
        return out[: len(batch)]

    return read


class Rows(Dataset[torch.Tensor]):
    """A peer behind a DataLoader; opened on first use, as forked workers need."""

    def __init__(self, peer: Peer, order: Sequence[int]) -> None:
        self.peer, self.order = peer, order
        self.read: ReadRow | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int) -> torch.Tensor:
        self.read = self.read or self.peer.open_row()
        return torch.from_numpy(self.read(self.order[item]))


def loader_rate(feature: Feature, peer: Peer, store: Path, order: Sequence[int], workers: int) -> float:
    """Rows a second through a DataLoader, the workers already started."""
    if peer.name == "store":
        whole = VideoDataset(store, feature.name, [View(feature.name, dtype=None)])
        loader: Any = DataLoader(whole, feature.batch // 4, sampler=order, num_workers=workers, collate_fn=identity)
    else:
        loader = DataLoader(Rows(peer, order), feature.batch // 4, num_workers=workers)
    batches: Iterator[Any] = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return feature.batch // 4 * count / (time.perf_counter() - start)


def measure(feature: Feature, peers: list[Peer], store: Path, rounds: int) -> dict[str, dict[str, float]]:
    order = np.random.default_rng(0).permutation(feature.rows)[: feature.reads].tolist()
    reads = {peer.name: peer.open() for peer in peers}
    reads = {"memcpy": memcpy(feature, order), **reads}
    for name, read in reads.items():
        np.testing.assert_array_equal(read(order[:3]), [values(feature, index) for index in order[:3]], name)
    warm: dict[str, list[float]] = {name: [] for name in reads}
    for read in reads.values():
        microseconds(read, order, feature.batch)
    for turn in range(rounds):
        names = list(reads)[turn % len(reads) :] + list(reads)[: turn % len(reads)]
        for name in names:
            warm[name].append(microseconds(reads[name], order, feature.batch))
    figures = {name: {"warm_us": statistics.median(times)} for name, times in warm.items()}
    reads.clear()
    for peer in peers:
        cold = []
        for turn in range(max(1, rounds // 2)):
            evict(peer.files)
            cold.append(microseconds(peer.open(), order[turn :: max(1, rounds // 2)], feature.batch))
        figures[peer.name]["cold_us"] = statistics.median(cold)
        for workers in (0, 2):
            rate = loader_rate(feature, peer, store, order, workers)
            figures[peer.name][f"loader_{workers}_rows_per_s"] = rate
    return figures


def webdataset_pass(feature: Feature, store: Path, folder: Path) -> float:
    """Microseconds a row of one pass over the tar files, in their order."""
    with Store.open(store, lease=False) as opened:
        result = export(opened, feature.name, "webdataset", folder)
    import webdataset

    urls = [str(folder / name) for name in result.files]
    start = time.perf_counter()
    count = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        np.load(io.BytesIO(sample["values.npy"]))
        count += 1
    return (time.perf_counter() - start) / count * 1e6


def batch_figures(store: Path, rounds: int) -> dict[str, float]:
    """A batch of 64 CRA items, and of 16 Swin-B videos against copying as many bytes."""
    questions = QuestionDataset(store, "clip", [View("clip", dtype=None)])
    videos = VideoDataset(store, "swin", [View("swin", dtype=None)])
    rng = np.random.default_rng(1)
    picks = [rng.permutation(len(questions))[:64].tolist() for _ in range(4 * rounds)]
    groups = [rng.permutation(len(videos))[:16].tolist() for _ in range(2 * rounds)]
    for each in picks:
        questions.__getitems__(each)
    shape = FEATURES[1].shape
    source = np.stack([values(FEATURES[1], index) for index in range(16)])
    out = empty_apart(16 * FEATURES[1].row_bytes).view(np.float16).reshape(16, *shape)
    question_ms, swin_s, copy_s = [], [], []
    for each in picks:
        start = time.perf_counter()
        questions.__getitems__(each)
        question_ms.append((time.perf_counter() - start) * 1e3)
    for group in groups:
        videos.__getitems__(group)
    for group in groups:
        start = time.perf_counter()
        np.copyto(out, source)
        middle = time.perf_counter()
        videos.__getitems__(group)
        copy_s.append(middle - start)
        swin_s.append(time.perf_counter() - middle)
    return {
        "batch_of_64_questions_ms": statistics.median(question_ms),
        "batch_of_16_swin_ratio_of_memcpy": statistics.median(a / b for a, b in zip(copy_s, swin_s, strict=True)),
    }


def pages_of_a_frame(store: Path) -> dict[str, int]:
    """Pages that reading one frame of a cold Swin row brings in, counted by mincore, against those of its bytes."""
    feature = FEATURES[1]
    evict(store / "features")
    rows = FeatureRows(Store.open(store, lease=False), View("swin", dtype=None), [key(i) for i in range(feature.rows)])
    rows.frames([4], [0], Buffers())  # opens the shard and its columns
    (file,) = (store / "features").rglob(f"{rows.shards[rows.shard_of[5]]}.h5")
    before = resident_pages(file)
    rows.frames([5], [31], Buffers())
    own = feature.row_bytes // feature.shape[0] // mmap.PAGESIZE
    return {"pages_touched": resident_pages(file) - before, "pages_of_its_bytes": own}


def show(feature: Feature, figures: dict[str, dict[str, float]]) -> None:
    shape = "×".join(map(str, feature.shape))
    table = Table(title=f"{feature.name} [{shape}] float16, {feature.row_bytes / 1024:.0f} KiB a row, random access")
    table.add_column("layout")
    for column in ("warm, µs", "of memcpy's speed", "cold, µs", "loader rows/s", "2 workers"):
        table.add_column(column, justify="right")
    floor = figures["memcpy"]["warm_us"]
    for name, row in figures.items():
        cells = [f"{row['warm_us']:.1f}", f"{floor / row['warm_us']:.2f}"]
        cells += [
            f"{row[c]:.0f}" if c in row else "" for c in ("cold_us", "loader_0_rows_per_s", "loader_2_rows_per_s")
        ]
        table.add_row(name, *cells)
    console.print(table)


def main(
    folder: Annotated[Path | None, typer.Option("--dir", help="Work here (about 5 GB), and keep it.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each measurement; medians are reported.")] = 7,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure and print; exit 1 if a target is missed."""
    torch.set_num_threads(1)
    work = folder or Path(tempfile.mkdtemp(prefix="reelstore-bench-"))
    try:
        store = work / "store"
        build_store(store)
        figures: dict[str, Any] = {}
        for feature in FEATURES:
            peers = build_peers(feature, work / feature.name, store)
            figures[feature.name] = measure(feature, peers, store, rounds)
            show(feature, figures[feature.name])
            sequential = webdataset_pass(feature, store, work / feature.name / "webdataset")
            figures[feature.name]["WebDataset, in order"] = {"warm_us": sequential}
            console.print(f"WebDataset, one pass in order: {sequential:.1f} µs a row")
        figures |= batch_figures(store, rounds) | pages_of_a_frame(store)
    finally:
        if folder is None:
            shutil.rmtree(work)
    missed = _missed(figures)
    for name in ("batch_of_64_questions_ms", "batch_of_16_swin_ratio_of_memcpy", "pages_touched", "pages_of_its_bytes"):
        console.print(f"{name}: {figures[name]:.3g}")
    for line in missed:
        console.print(f"missed: {line}")
    if json_path is not None:
        json_path.write_text(json.dumps({**figures, "missed": missed}, indent=2) + "\n")
    raise typer.Exit(1 if missed else 0)


def _missed(figures: dict[str, Any]) -> list[str]:
    clip, swin = figures["clip"], figures["swin"]
    over = clip["store"]["warm_us"] - clip["memcpy"]["warm_us"]
    of_copy = swin["memcpy"]["warm_us"] / swin["store"]["warm_us"]
    missed = []
    if figures["batch_of_64_questions_ms"] > 3:
        missed.append(f"a batch of 64 questions takes {figures['batch_of_64_questions_ms']:.2f} ms (target 3)")
    if over > 3:
        missed.append(f"a CLIP row costs {over:.1f} µs above memcpy (target 3)")
    if of_copy < 0.8:
        missed.append(f"Swin rows come at {of_copy:.2f} of memcpy's speed (target 0.8)")
    if figures["batch_of_16_swin_ratio_of_memcpy"] < 0.7:
        missed.append(f"16 Swin-B videos at {figures['batch_of_16_swin_ratio_of_memcpy']:.2f} of memcpy (target 0.7)")
    if figures["pages_touched"] > figures["pages_of_its_bytes"] + 2:
        missed.append(f"one frame touches {figures['pages_touched']} pages of {figures['pages_of_its_bytes']}")
    for feature, rows in (("clip", clip), ("swin", swin)):
        peers = {name: row["warm_us"] for name, row in rows.items() if name not in ("memcpy", "store")}
        fastest = min(peers, key=lambda name: peers[name])
        if rows["store"]["warm_us"] > peers[fastest]:
            missed.append(f"{feature}: {fastest} reads a row in {peers[fastest]:.1f} µs, faster than the store")
        if rows["h5py, file kept open"]["warm_us"] < 5 * rows["store"]["warm_us"]:
            ratio = rows["h5py, file kept open"]["warm_us"] / rows["store"]["warm_us"]
            missed.append(f"{feature}: {ratio:.1f}x of h5py by row (target 5)")
    return missed


if __name__ == "__main__":
    typer.run(main)
