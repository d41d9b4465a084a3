"""What the store's bookkeeping costs: bytes and time per commit, and opening a large store.

    python bench/store.py [--commits 10000] [--keys 1000000] [--dir DIR] [--json PATH]

Commits are real ones (index and shard-list segments, merges, manifest, fsyncs) of one row each; their shards are
receipts only, since writing 10,000 HDF5 files would measure HDF5. The large store has one commit of most keys and
a hundred small ones on top, and one real shard, read in a fresh process.
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

sys.path[0] = str(Path(__file__).resolve().parents[1])

from stores.commit import Changes, Placed, commit, create_store, place_shard, write_spec
from stores.format import durable, layout
from stores.format.rows import Receipt, Row
from stores.format.shard import ShardWriter

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
found = time.perf_counter()
count = len(store.keys("bench"))
listed = time.perf_counter()
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"open_s": opened - start, "first_row_s": found - opened, "keys_s": listed - found,
                  "keys": count, "peak_rss_mib": peak}))
"""


def receipt(spec: str, number: int) -> Receipt:
    identity = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    return Receipt(
        id=identity,
        feature="bench",
        spec=spec,
        recipe=SPEC,
        rows=1,
        ragged=False,
        bytes=170_000,
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        datasets={},
        numerics={"device": "cpu", "threads": 2, "micro_batch": 32},
        format_version=layout.FORMAT_VERSION,
    )


def placed(made: Receipt, key: str) -> Placed:
    return Placed("bench", made.spec_digest, key, made.id, 0, hashlib.sha256(key.encode()).digest())


def count_bytes() -> Callable[[], int]:
    """Count what goes through the one function that writes files of a version."""
    real = durable.write_new
    total = 0

    def write_new(path: Path, data: bytes | memoryview) -> None:
        nonlocal total
        total += len(data)
        real(path, data)

    durable.write_new = write_new
    return lambda: total


def measure_commits(root: Path, commits: int) -> list[dict[str, float]]:
    """Per window of 1,000 commits: mean and median of bytes and seconds."""
    create_store(root)
    spec = write_spec(root, SPEC)
    written = count_bytes()
    windows = []
    sizes: list[int] = []
    times: list[float] = []
    for number in range(commits):
        made = receipt(spec, number)
        before, start = written(), time.perf_counter()
        commit(root, Changes(placed=[placed(made, f"clip-{number * 7919 % commits:08d}")], shards=[made]))
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
    """A store of ``keys`` keys; return one that can be read."""
    create_store(root)
    spec = write_spec(root, SPEC)
    small = min(100, keys // 10)
    large = keys - small - 1
    rows = []
    shards = [receipt(spec, number) for number in range(large // 2000 + 1)]
    for number in range(large):
        made = shards[number // 2000]
        key = f"video-{number:09d}"
        rows.append(Placed("bench", spec, key, made.id, number % 2000, hashlib.sha256(key.encode()).digest()))
    commit(root, Changes(placed=rows, shards=shards, current={"bench": spec}))
    for number in range(small):
        made = receipt(spec, -number - 1)
        commit(root, Changes(placed=[placed(made, f"late-{number}")], shards=[made]))
    writer = ShardWriter(root, "bench", spec, {"device": "cpu", "threads": 2, "micro_batch": 32})
    values = np.zeros((32, 768), np.float16)
    writer.add(Row("readable", bytes(32), values, np.arange(32.0), np.ones(32, bool), 32.0))
    made = writer.finish()
    commit(root, Changes(placed=place_shard(root, made), shards=[made]))
    return "readable"


def measure_opening(root: Path, key: str, repeats: int = 5) -> dict[str, float]:
    """Medians over fresh processes."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, "-c", OPENING, str(root), key]
        cwd = Path(__file__).resolve().parents[1]
        runs.append(json.loads(subprocess.run(command, capture_output=True, check=True, cwd=cwd).stdout))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def shown(windows: list[dict[str, float]], opening: dict[str, float]) -> tuple[Table, dict[str, Any]]:
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
        value = f"{window['bytes_mean']:,.0f} mean, {window['bytes_median']:,.0f} median"
        spent = f"{window['ms_median']:.2f} ms"
        table.add_row(f"bytes per commit, up to {window['commits']:,.0f}", f"{value}; {spent}", "flat")
    table.add_row("bytes per commit, last/first window", f"{results['bytes_last_over_first']:.2f}", "flat (≤ 1.25)")
    table.add_row("time per commit, last/first window", f"{results['ms_last_over_first']:.2f}", "")
    table.add_row(f"open and first row, {opening['keys']:,.0f} keys", f"{opened:.3f} s", "≤ 2 s")
    table.add_row("keys() of all", f"{opening['keys_s']:.3f} s", "≤ 2 s")
    table.add_row("peak memory of that process", f"{opening['peak_rss_mib']:,.0f} MiB", "")
    return table, results


def main(
    commits: Annotated[int, typer.Option(min=1)] = 10_000,
    keys: Annotated[int, typer.Option(min=100)] = 1_000_000,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to work (default: the temporary folder).")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Keep the figures here.")] = None,
) -> None:
    """Measure, show, keep."""
    work = Path(tempfile.mkdtemp(dir=directory))
    try:
        windows = measure_commits(work / "commits", commits)
        readable = make_large(work / "large", keys)
        table, results = shown(windows, measure_opening(work / "large", readable))
    finally:
        shutil.rmtree(work)
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
