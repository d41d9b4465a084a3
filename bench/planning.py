"""Measure what a second run over unchanged files costs: one stat per file, no hash, no torch.

    python bench/planning.py [--files 100000] [--runs 3] [--json PATH]

The store gets its rows without decoding (a second run never reads a value), through the same writer, index and commit
as a real run; then ``jobs/extract.py`` runs in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.extract import load_config, make_plan, read_source, ready_features
from pipeline.extract.identity import cache_key
from stores.changes import Changes
from stores.commit import commit, create_store, place_shard, write_spec
from stores.format import Row, ShardWriter, load

CONFIG = "features:\n  rgb: {extractor: rgb_grid, grid: 1, sampling: {policy: uniform, n: 1}}\n"
ROWS_PER_SHARD = 4096


def fill(folder: Path, files: int) -> tuple[Path, Path, Path]:
    """Make the files and a store with one row per file; return the paths of videos, store and configuration."""
    videos, store, config = folder / "videos", folder / "store", folder / "rgb.yaml"
    config.write_text(CONFIG)
    for index in range(files):
        path = videos / f"{index % 100:02d}" / f"v{index:07d}.mp4"
        if index < 100:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{index}\n")
    create_store(store)
    (feature,) = ready_features(load_config(file=config)).values()
    write_spec(store, feature.spec)
    plan = make_plan(store, load(store), read_source(str(videos)).items, [feature])
    commit(store, Changes(sources=plan.sources, current={feature.name: feature.spec_digest}))
    step = np.zeros((1, 3), np.float16)
    for start in range(0, len(plan.units), ROWS_PER_SHARD):
        writer = ShardWriter(store, feature.name, feature.spec_digest, {"device_type": "cpu"})
        for unit in plan.units[start : start + ROWS_PER_SHARD]:
            cache = cache_key(unit.content_id or "", None, None, feature.spec_digest)
            writer.add(Row(unit.keys[0], cache, step, np.zeros(1), np.ones(1, bool), 1.0))
        receipt = writer.finish()
        commit(store, Changes(placed=place_shard(store, receipt), shards=[receipt]))
    return videos, store, config


def second_run(videos: Path, store: Path, config: Path) -> tuple[float, float, dict[str, object]]:
    """Run the job in a fresh process; return wall seconds, peak memory in GB and its summary."""
    command = [sys.executable, "jobs/extract.py", str(videos), "--store", str(store), "--config", str(config), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    wall = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    return wall, peak, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="unchanged files")
    parser.add_argument("--runs", type=int, default=3, help="second runs; the median time is reported")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = fill(Path(folder), arguments.files)
        runs = [second_run(*paths) for _ in range(arguments.runs)]
    assert all(summary["stored"] == arguments.files and summary["computed"] == 0 for _, _, summary in runs)
    wall = statistics.median(run[0] for run in runs)
    peak = max(run[1] for run in runs)
    table = Table(title=f"second run over {arguments.files:,} unchanged files (median of {arguments.runs})")
    for column in ("", "measured", "target"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("wall, process start included", f"{wall:.2f} s", "≤ 5 s")
    table.add_row("peak memory", f"{peak:.2f} GB", "≤ 1 GB")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"files": arguments.files, "wall_s": wall, "peak_gb": peak}, indent=1))


if __name__ == "__main__":
    main()
