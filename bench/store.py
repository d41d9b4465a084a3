"""Measure what the store's bookkeeping costs: bytes and time per commit, and opening a large store.

    python bench/store.py [--commits 10000] [--keys 1000000] [--dir DIR] [--json PATH]

The commits are real (index and shard-list segments, merges, manifest, fsyncs), of one row each. Their shards are
receipts only, since writing 10,000 HDF5 files would measure HDF5. The large store has one commit of most keys, a
hundred small ones on top, and one real shard that is read in a fresh process.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

from stores.changes import Changes, Placed
from stores.commit import commit, create_store, place_shard, write_spec
from stores.format import Receipt, Row, ShardWriter, durable, layout

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
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"open_s": opened - start, "first_row_s": first_row - opened, "keys_s": listed - first_row,
                  "keys": count, "peak_rss_mib": peak}))
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

    def write_new(path: Path, data: bytes | memoryview) -> None:
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
    values = np.zeros((32, 768), np.float16)
    writer.add(Row("readable", bytes(32), values, np.arange(32.0), np.ones(32, bool), 32.0))
    receipt = writer.finish()
    commit(root, Changes(placed=place_shard(root, receipt), shards=[receipt]))
    return "readable"


def measure_opening(root: Path, key: str, repeats: int = 5) -> dict[str, float]:
    """Open the store and read a row in fresh processes; return median seconds and peak memory."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, "-c", OPENING, str(root), key]
        runs.append(json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def summarise(windows: list[dict[str, float]], opening: dict[str, float]) -> tuple[Table, dict[str, Any]]:
    """Return the table to print and the figures to keep."""
    first, last = windows[0], windows[-1]
    opened = opening["open_s"] + opening["first_row_s"]
    results = {
        "commits": windows,
        "bytes_last_over_first": last["bytes_mean"] / first["bytes_mean"],
        "bytes_median_last_over_first": last["bytes_median"] / first["bytes_median"],
        "ms_last_over_first": last["ms_median"] / first["ms_median"],
        "opening": {**opening, "open_and_first_row_s": opened},
    }
    table = Table(title="store bookkeeping (commits of one row, receipts only)")
    for heading in ("measure", "value", "target"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for window in windows:
        size = f"{window['bytes_mean']:,.0f} mean, {window['bytes_median']:,.0f} median"
        time_taken = f"{window['ms_median']:.2f} ms"
        table.add_row(f"bytes per commit, up to {window['commits']:,.0f}", f"{size}; {time_taken}", "flat")
    table.add_row("bytes per commit, last/first window", f"{results['bytes_last_over_first']:.2f}", "flat (≤ 1.25)")
    table.add_row("time per commit, last/first window", f"{results['ms_last_over_first']:.2f}", "")
    table.add_row(f"open and first row, {opening['keys']:,.0f} keys", f"{opened:.3f} s", "≤ 2 s")
    table.add_row("keys() of all", f"{opening['keys_s']:.3f} s", "≤ 2 s")
    table.add_row("peak memory of that process", f"{opening['peak_rss_mib']:,.0f} MiB", "")
    return table, results


def main(
    commits: Annotated[int, typer.Option(min=1, help="Commits of one row each.")] = 10_000,
    keys: Annotated[int, typer.Option(min=100, help="Keys of the large store.")] = 1_000_000,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to work (default: the temporary folder).")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure and print."""
    work = Path(tempfile.mkdtemp(dir=directory))
    try:
        windows = measure_commits(work / "commits", commits)
        readable = make_large(work / "large", keys)
        table, results = summarise(windows, measure_opening(work / "large", readable))
    finally:
        shutil.rmtree(work)
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
