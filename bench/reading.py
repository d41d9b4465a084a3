"""Compare random access to feature rows in a store with the layouts that trainers read today.

    python bench/reading.py [--rounds 9] [--dir DIR] [--json PATH]

All layouts hold the same float16 rows: CLIP [32, 768] (48 KiB) and Swin-B maps [60, 7, 7, 1024] (6 MiB). A read fills
one batch (64 CLIP rows, 16 Swin rows) in an order drawn at random; figures are per row. The store's figure includes
times and masks, which no other layout keeps.

- h5py as published reads one row at a time from a file kept open (as CRA's trainers fill their dict) or opened for
  each row (as HCRN's loader does), then stacks them with PyTorch's default collate.
- One .npy file per video, as published, uses ``np.load`` and the same collate.
- All others, and h5py once more with ``read_direct``, write into one batch buffer that is used again and lies half a
  page off the start of a page, as the store's own does: none pays for fresh memory or for 4 KiB aliasing.
- WebDataset has no random access: its figure is one pass in order.
- LMDB is left out if the package lmdb is not installed. Lance is not safe under fork (a worker may wait for ever), so
  it has no figure with workers.

The first figures are with a warm page cache, filled by reading each file once in order, where copying the same bytes
from memory row by row (memcpy) is the floor; then cold, with files evicted before the pass; then through a DataLoader
with 0 and 2 workers (started before the clock), and through ``read_ahead``, our own way without workers. Peers take
turns within every round, in an order drawn anew for each; figures are medians over rounds.
"""

from __future__ import annotations

import io
import mmap
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

from bench.layouts import (
    FEATURES,
    Feature,
    Peer,
    Read,
    ReadRow,
    batch_buffer,
    build_peers,
    build_store,
    key,
    values,
)
from bench.report import Column, Report, Table, Target, bench_parser, prose
from bench.residency import make_cold, resident_pages
from stores import Store
from stores.exchange import export
from stores.loading import QuestionDataset, VideoDataset, View, identity, read_ahead
from stores.loading.buffers import Buffers
from stores.loading.gather import FeatureRows

_Name = TypeVar("_Name")

LOADER_BATCH = {"clip": 64, "swin": 4}


def evict(files: Path) -> bool:
    """Drop a file, or every file of a folder, from the page cache; return whether the system did so."""
    paths = [files] if files.is_file() else sorted(path for path in files.rglob("*") if path.is_file())
    return sum(make_cold(path) for path in paths) == len(paths)


def read_once(files: Path) -> None:
    """Read a file, or every file of a folder, in order, so that pages are cached as on a machine that wrote none."""
    for path in [files] if files.is_file() else sorted(path for path in files.rglob("*") if path.is_file()):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def microseconds(read: Read, order: Sequence[int], batch: int) -> float:
    """Read the rows ``order`` batch by batch; return microseconds per row."""
    start = time.perf_counter()
    for first in range(0, len(order), batch):
        read(order[first : first + batch])
    return (time.perf_counter() - start) / len(order) * 1e6


def memcpy(feature: Feature, order: Sequence[int]) -> Read:
    """Return the floor of every comparison: a read that copies the same rows from memory into one buffer."""
    rows = np.stack([values(feature, index) for index in sorted(set(order))])
    position = {index: number for number, index in enumerate(sorted(set(order)))}
    out = batch_buffer(feature)

    def read(batch: Sequence[int]) -> np.ndarray:
        for place, index in enumerate(batch):
            np.copyto(out[place], rows[position[index]])
        return out[: len(batch)]

    return read


def shuffled(names: Sequence[_Name], rounds: int) -> Iterator[list[_Name]]:
    """Give the names in a new order for each round, so that no peer always follows the same other one.

    What the one before leaves in the caches of the processor is worth more than a tenth of a CLIP row.
    """
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        yield [names[at] for at in generator.permutation(len(names))]


class Rows(Dataset[torch.Tensor]):
    """Rows of a peer for a DataLoader, opened on first use because workers are forked."""

    def __init__(self, open_row: Callable[[], ReadRow], rows: int) -> None:
        self.open_row, self.rows = open_row, rows
        self.read: ReadRow | None = None

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, item: int) -> torch.Tensor:
        self.read = self.read or self.open_row()
        row = self.read(item)
        return torch.from_numpy(row if row.flags.writeable else row.copy())


def loader_rates(
    feature: Feature, peers: Sequence[Peer], store: Path, order: Sequence[int], rounds: int
) -> dict[str, dict[str, float]]:
    """Return rows per second of passes through a DataLoader, by peer: medians of rounds in which peers take turns.

    A first pass of each, which starts the workers, does not count.
    """
    size = LOADER_BATCH[feature.name]
    batches = [list(order[first : first + size]) for first in range(0, len(order), size)]
    passes: dict[tuple[str, str], Callable[[], Iterable[Any]]] = {}
    for peer in peers:
        dataset: Any
        if peer.open_row is None:
            dataset, collate = VideoDataset(store, feature.name, [View(feature.name, dtype=None)]), identity
            passes[peer.name, "read_ahead_rows_per_s"] = partial(read_ahead, dataset, batches)
        else:
            dataset, collate = Rows(peer.open_row, feature.rows), None
        for workers in (0, 2) if peer.forks else (0,):
            loader: Any = DataLoader(
                dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate
            )
            passes[peer.name, f"loader_{workers}_rows_per_s"] = partial(iter, loader)
    for batches_of in passes.values():
        _rate(batches_of, len(order))
    rates: dict[tuple[str, str], list[float]] = {name: [] for name in passes}
    names = [*passes]
    for taking_turns in shuffled(names, rounds):
        for name in taking_turns:
            rates[name].append(_rate(passes[name], len(order)))
    figures: dict[str, dict[str, float]] = {}
    for (peer_name, figure), measured in rates.items():
        figures.setdefault(peer_name, {})[figure] = statistics.median(measured)
    return figures


def _rate(batches: Callable[[], Iterable[Any]], rows: int) -> float:
    def read_all() -> None:
        for _ in batches():
            pass

    return rows / _seconds(read_all)


def measure(feature: Feature, peers: list[Peer], store: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Measure every peer warm, cold and through loaders; return figures by peer."""
    order = np.random.default_rng(0).permutation(feature.rows)[: feature.reads].tolist()
    for peer in peers:
        evict(peer.files)
        read_once(peer.files)
    figures = warm_figures(feature, peers, order, rounds)
    for peer in peers:
        if evict(peer.files):
            figures[peer.name]["cold_us"] = microseconds(peer.open(), order, feature.batch)
    by_row = [peer for peer in peers if peer.name != "h5py read_direct"]  # it fills batches, a map-style dataset rows
    for name, rates in loader_rates(feature, by_row, store, order, rounds).items():
        figures[name] |= rates
    return figures


def warm_figures(feature: Feature, peers: list[Peer], order: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Measure every peer and memcpy with a warm page cache, after checking that all read the same values."""
    reads = {"memcpy": memcpy(feature, order), **{peer.name: peer.open() for peer in peers}}
    for name, read in reads.items():
        np.testing.assert_array_equal(read(order[:3]), [values(feature, index) for index in order[:3]], name)
        microseconds(read, order, feature.batch)
    warm: dict[str, list[float]] = {name: [] for name in reads}
    for names in shuffled([*reads], rounds):
        for name in names:
            warm[name].append(microseconds(reads[name], order, feature.batch))
    floor = warm["memcpy"]  # compared round by round, as the machine's speed changes from one to the next
    return {
        name: {
            "warm_us": statistics.median(times),
            "above_memcpy_us": statistics.median(ours - copy for ours, copy in zip(times, floor, strict=True)),
            "of_memcpy": statistics.median(copy / ours for ours, copy in zip(times, floor, strict=True)),
        }
        for name, times in warm.items()
    }


def webdataset_pass(feature: Feature, store: Path, folder: Path) -> float:
    """Read the tar files once, in their order; return microseconds per row."""
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
    """Measure whole batches as trainers read them.

    Returns
    -------
    Median milliseconds of 64 CRA questions in float32, as its trainer reads them, and as stored; and the speed of 16
    Swin-B videos relative to copying as many bytes.
    """
    rng = np.random.default_rng(1)
    figures = {}
    for name, dtype in (("batch_of_64_questions_ms", "float32"), ("batch_of_64_questions_as_stored_ms", None)):
        questions = QuestionDataset(store, "clip", [View("clip", dtype=dtype)])
        picks = [rng.permutation(len(questions))[:64].tolist() for _ in range(4 * rounds)]
        for pick in picks:
            questions.__getitems__(pick)
        figures[name] = statistics.median(_seconds(questions.__getitems__, pick) for pick in picks) * 1e3
    videos = VideoDataset(store, "swin", [View("swin", dtype=None)])
    groups = [rng.permutation(len(videos))[:16].tolist() for _ in range(2 * rounds)]
    source = np.stack([values(FEATURES[1], index) for index in range(16)])
    out = batch_buffer(FEATURES[1])
    for group in groups:
        videos.__getitems__(group)
    ratios = [_seconds(np.copyto, out, source) / _seconds(videos.__getitems__, group) for group in groups]
    return {**figures, "batch_of_16_swin_ratio_of_memcpy": statistics.median(ratios)}


def _seconds(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def pages_of_a_frame(store: Path) -> dict[str, int]:
    """Read one frame of a cold Swin row; return how many pages that brings in and how many its bytes fill.

    Returns
    -------
    Both counts; empty if the system cannot drop files from the page cache.
    """
    feature = FEATURES[1]
    if not evict(store / "features"):
        return {}
    rows = FeatureRows(Store.open(store, lease=False), View("swin", dtype=None), [key(i) for i in range(feature.rows)])
    rows.frames([4], [0], Buffers())  # opens the shard and its columns
    (file,) = (store / "features").rglob(f"{rows.shards[rows.shard_of[5]]}.h5")
    before = resident_pages(file)
    rows.frames([5], [31], Buffers())
    own = -(-feature.row_bytes // feature.shape[0] // mmap.PAGESIZE)
    return {"pages_touched": resident_pages(file) - before, "pages_of_its_bytes": own}


def table_of(feature: Feature, figures: dict[str, dict[str, float]]) -> Table:
    """Return the figures of a feature as a table."""
    shape = "×".join(map(str, feature.shape))
    names = ("warm_us", "above_memcpy_us", "of_memcpy", "cold_us")
    rates = ("loader_0_rows_per_s", "loader_2_rows_per_s", "read_ahead_rows_per_s")
    return Table(
        f"{feature.name} [{shape}] float16, {feature.row_bytes / 1024:.0f} KiB per row, random access",
        [
            "layout",
            Column("warm µs", ".1f"),
            Column("above memcpy µs", ".1f"),
            Column("of memcpy's speed", ".2f"),
            Column("cold µs", ".0f"),
            Column("loader rows/s", ",.0f"),
            Column("2 workers", ",.0f"),
            Column("read_ahead", ",.0f"),
        ],
        [(name, *(row.get(column) for column in (*names, *rates))) for name, row in figures.items()],
    )


def targets_of(figures: dict[str, Any]) -> list[Target]:
    """Return what reading should reach."""
    clip, swin = figures["clip"], figures["swin"]
    targets = [
        Target("a CLIP row above memcpy", clip["store"]["above_memcpy_us"], 2.0, unit="µs"),
        Target("Swin rows, of memcpy's speed", swin["store"]["of_memcpy"], 0.8, at_most=False),
        Target("a batch of 64 questions", figures["batch_of_64_questions_ms"], 3, unit="ms"),
        Target("16 Swin-B videos, of memcpy's speed", figures["batch_of_16_swin_ratio_of_memcpy"], 0.7, at_most=False),
    ]
    if "pages_touched" in figures:
        own = figures["pages_of_its_bytes"]
        targets.append(Target("pages that one frame brings in", figures["pages_touched"], own + 2, unit="pages"))
    for feature, rows in (("clip", clip), ("swin", swin)):
        peers = {name: row["warm_us"] for name, row in rows.items() if name not in ("memcpy", "store")}
        fastest = min(peers, key=lambda name: peers[name])
        ratio = peers[fastest] / rows["store"]["warm_us"]
        targets.append(Target(f"{feature}: speed relative to {fastest}, the fastest peer", ratio, 1, at_most=False))
        if "LMDB" in rows:
            warm = rows["LMDB"]["warm_us"] / rows["store"]["warm_us"]
            workers = rows["store"]["loader_2_rows_per_s"] / rows["LMDB"]["loader_2_rows_per_s"]
            targets.append(Target(f"{feature}: speed relative to LMDB", warm, 1, at_most=False))
            targets.append(Target(f"{feature}: the same with two loader workers", workers, 1, at_most=False))
    return targets


def main() -> int:
    """Measure and report."""
    parser = bench_parser(__doc__, rounds=1)
    parser.add_argument("--dir", type=Path, help="work in this new folder (about 5 GB) and keep it")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each measurement; medians are reported")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = arguments.dir or Path(tempfile.mkdtemp(prefix="reelstore-bench-"))
    try:
        store = work / "store"
        build_store(store)
        figures: dict[str, Any] = {}
        for feature in FEATURES:
            peers = build_peers(feature, work / feature.name, store)
            figures[feature.name] = measure(feature, peers, store, arguments.rounds)
            sequential = webdataset_pass(feature, store, work / feature.name / "webdataset")
            figures[f"webdataset_{feature.name}_in_order_us"] = sequential
        figures |= batch_figures(store, arguments.rounds) | pages_of_a_frame(store)
    finally:
        if arguments.dir is None:
            shutil.rmtree(work)
    others = [(name, value) for name, value in figures.items() if isinstance(value, float | int)]
    return Report(
        title="Random access to feature rows",
        about=prose(__doc__),
        tables=[
            *(table_of(feature, figures[feature.name]) for feature in FEATURES),
            Table("other figures", ["figure", Column("value")], others),
        ],
        targets=targets_of(figures),
        notes=[] if "LMDB" in figures["clip"] else ["LMDB is left out: the package lmdb is not installed."],
        figures=figures,
        uses=("numpy", "torch", "h5py", "lmdb", "pylance", "zarr", "webdataset"),
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
