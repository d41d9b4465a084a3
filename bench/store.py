"""Measure what the store's bookkeeping costs: bytes and time per commit, and opening a large store.

    python bench/store.py [--commits 10000] [--keys 1000000] [--dir DIR] [--json PATH]

The commits are real (index and shard-list segments, merges, manifest, fsyncs), of one row each. Their shards are
receipts only, since writing 10,000 HDF5 files would measure HDF5. The large store has one commit of most keys, a
hundred small ones on top, and one real shard that is read in a fresh process. The cost of a shard of one row is what
file and receipt take beyond values, times and mask of a CLIP row.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

from bench.processes import run
from bench.report import Column, Report, Table, Target, bench_parser, prose
from stores.changes import Changes, Placed
from stores.commit import commit, create_store, place_shard, write_spec
from stores.format import Receipt, Row, ShardWriter, StorePath, durable, layout

SPEC = {"name": "bench", "steps": 32, "step_shape": [768], "dtype": "float16"}
WINDOW = 1000
OPENING = """
import json, sys, time
from stores import Store
path, key = sys.argv[1:]
start = time.perf_counter()
store = Store.open(path)
opened = time.perf_counter()
store.row("bench", key)
first_row = time.perf_counter()
count = len(store.keys("bench"))
listed = time.perf_counter()
print(json.dumps({"open_s": opened - start, "first_row_s": first_row - opened, "keys_s": listed - first_row,
                  "keys": count}))
"""


def make_receipt(spec_digest: str, number: int) -> Receipt:
    """Return the receipt of a shard that was never written."""
    identity = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    return Receipt.model_validate(
        {
            "id": identity,
            "feature": "bench",
            "spec": spec_digest,
            "recipe": SPEC,
            "rows": 1,
            "ragged": False,
            "bytes": 170_000,
            "sha256": hashlib.sha256(identity.encode()).hexdigest(),
            "datasets": {},
            "numerics": {"device": "cpu", "threads": 2, "micro_batch": 32},
            "format_version": layout.FORMAT_VERSION,
        }
    )


def place(receipt: Receipt, key: str, row: int = 0) -> Placed:
    """Return the place of a key's row in a shard."""
    return Placed("bench", receipt.spec_digest, key, receipt.id, row, hashlib.sha256(key.encode()).digest())


def count_bytes() -> Callable[[], int]:
    """Wrap the one function that writes the files of a version; return a function that gives the bytes so far."""
    real = durable.write_new
    total = 0

    def write_new(path: StorePath, data: bytes | memoryview) -> None:
        nonlocal total
        total += len(data)
        real(path, data)

    durable.write_new = write_new
    return lambda: total


def measure_commits(root: Path, commits: int) -> list[dict[str, float]]:
    """Make commits of one row; return the mean and median of bytes and milliseconds per window of 1,000."""
    create_store(root)
    spec_digest = write_spec(root, SPEC)
    written = count_bytes()
    windows = []
    sizes: list[int] = []
    times: list[float] = []
    for number in range(commits):
        receipt = make_receipt(spec_digest, number)
        before, start = written(), time.perf_counter()
        commit(root, Changes(placed=[place(receipt, f"clip-{number * 7919 % commits:08d}")], shards=[receipt]))
        times.append(time.perf_counter() - start)
        sizes.append(written() - before)
        if len(sizes) == min(WINDOW, commits):
            windows.append(
                {
                    "commits": number + 1,
                    "bytes_mean": statistics.mean(sizes),
                    "bytes_median": statistics.median(sizes),
                    "ms_mean": 1e3 * statistics.mean(times),
                    "ms_median": 1e3 * statistics.median(times),
                }
            )
            sizes, times = [], []
    return windows


def make_large(root: Path, keys: int) -> str:
    """Make a store of ``keys`` keys; return the one key whose row can be read."""
    create_store(root)
    spec_digest = write_spec(root, SPEC)
    small = min(100, keys // 10)
    large = keys - small - 1
    shards = [make_receipt(spec_digest, number) for number in range(large // 2000 + 1)]
    rows = [place(shards[number // 2000], f"video-{number:09d}", number % 2000) for number in range(large)]
    commit(root, Changes(placed=rows, shards=shards, current={"bench": spec_digest}))
    for number in range(small):
        receipt = make_receipt(spec_digest, -number - 1)
        commit(root, Changes(placed=[place(receipt, f"late-{number}")], shards=[receipt]))
    writer = ShardWriter(root, "bench", spec_digest, {"device": "cpu", "threads": 2, "micro_batch": 32})
    writer.add(_clip_row("readable"))
    receipt = writer.finish()
    commit(root, Changes(placed=place_shard(root, receipt), shards=[receipt]))
    return "readable"


def _clip_row(key: str) -> Row:
    return Row(key, bytes(32), np.zeros((32, 768), np.float16), np.arange(32.0), np.ones(32, bool), 32.0)


def measure_one_row(root: Path) -> int:
    """Return the bytes that a shard of one row and its receipt take beyond the row."""
    create_store(root)
    writer = ShardWriter(root, "bench", write_spec(root, SPEC), {"device": "cpu", "threads": 2, "micro_batch": 32})
    row = _clip_row("single")
    writer.add(row)
    receipt = writer.finish()
    path = layout.feature_directory(root, "bench", receipt.spec_digest) / f"{receipt.id}.h5"
    own = row.values.nbytes + row.time_s.nbytes + row.valid.nbytes
    return path.status().st_size + path.with_suffix(".json").status().st_size - own


def measure_opening(root: Path, key: str, repeats: int = 5) -> dict[str, float]:
    """Open the store and read a row in fresh processes; return median seconds and peak memory."""
    runs = []
    for _ in range(repeats):
        ran = run(["-c", OPENING, str(root), key], ROOT)
        runs.append({**json.loads(ran.output), "peak_rss_mib": ran.peak_gb * 1e9 / 2**20})
    return {name: statistics.median(each[name] for each in runs) for name in runs[0]}


def main() -> int:
    """Measure and report."""
    parser = bench_parser(__doc__, commits=200, keys=1000)
    parser.add_argument("--commits", type=int, default=10_000, help="commits of one row each")
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys of the large store, at least 100")
    parser.add_argument("--dir", type=Path, help="where to work (default: the temporary folder)")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=arguments.dir))
    try:
        windows = measure_commits(work / "commits", arguments.commits)
        opening = measure_opening(work / "large", make_large(work / "large", arguments.keys))
        one_row = measure_one_row(work / "single")
    finally:
        shutil.rmtree(work)
    growth = windows[-1]["bytes_mean"] / windows[0]["bytes_mean"]
    slower = windows[-1]["ms_median"] / windows[0]["ms_median"]
    opened = opening["open_s"] + opening["first_row_s"]
    return Report(
        title="What a store's bookkeeping costs",
        about=prose(__doc__),
        tables=[
            Table(
                "commits of one row, receipts only",
                [
                    "commits",
                    Column("bytes, mean", ",.0f"),
                    Column("bytes, median", ",.0f"),
                    Column("ms, median", ".2f"),
                ],
                [
                    (
                        f"up to {window['commits']:,.0f}",
                        window["bytes_mean"],
                        window["bytes_median"],
                        window["ms_median"],
                    )
                    for window in windows
                ],
            ),
            Table(
                f"a store of {opening['keys']:,.0f} keys, in a fresh process",
                ["figure", Column("value")],
                [
                    ("open and first row, s", opened),
                    ("keys() of all, s", opening["keys_s"]),
                    ("peak memory, MiB", opening["peak_rss_mib"]),
                    ("time per commit, last over first window", slower),
                ],
            ),
        ],
        targets=[
            Target("bytes per commit, last over first window", growth, 1.25),
            Target("open and first row", opened, 2, unit="s"),
            Target("keys() of all", opening["keys_s"], 2, unit="s"),
            Target("a shard of one row, beyond the row", one_row / 1e3, 8, unit="kB"),
        ],
        figures={"commits": windows, "opening": opening, "one_row_bytes": one_row},
        uses=("pyarrow", "h5py"),
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
