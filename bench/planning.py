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

from pipeline.extract import load_config, read_source, ready_features
from pipeline.extract.identity import cache_key, hash_content, source_status
from stores.changes import Changes, SourceRecord
from stores.commit import commit, create_store, place_shard, write_spec
from stores.format import Row, ShardWriter

FEATURE = "  rgb{0}: {{extractor: rgb_grid, grid: {0}, sampling: {{policy: uniform, n: 1}}}}\n"
ROWS_PER_SHARD = 4096


def fill(folder: Path, files: int, features: int = 1) -> tuple[Path, Path, Path]:
    """Make the files and a store with one row per file and feature; return the paths of videos, store and config."""
    videos, store, config = folder / "videos", folder / "store", folder / "rgb.yaml"
    if config.exists():
        return videos, store, config
    for index in range(files):
        path = videos / f"{index % 100:02d}" / f"v{index:07d}.mp4"
        if index < 100:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{index}\n")
    create_store(store)
    draft = folder / "draft.yaml"
    draft.write_text("features:\n" + "".join(FEATURE.format(number + 1) for number in range(features)))
    wanted = list(ready_features(load_config(file=draft)).values())
    for feature in wanted:
        write_spec(store, feature.spec)
    items = read_source(str(videos)).items
    sources = [_record(Path(item.uri)) for item in items]
    commit(store, Changes(sources=sources, current={feature.name: feature.spec_digest for feature in wanted}))
    for start in range(0, files, ROWS_PER_SHARD):
        changes = Changes()
        for number, feature in enumerate(wanted, 1):
            step = np.zeros((1, number * number * 3), np.float16)
            writer = ShardWriter(store, feature.name, feature.spec_digest, {"device_type": "cpu"})
            for item, source in zip(
                items[start : start + ROWS_PER_SHARD], sources[start : start + ROWS_PER_SHARD], strict=True
            ):
                cache = cache_key(source.content_id, None, None, feature.spec_digest)
                writer.add(Row(item.key, cache, step, np.zeros(1), np.ones(1, bool), 1.0))
            receipt = writer.finish()
            changes.placed += place_shard(store, receipt)
            changes.shards.append(receipt)
        commit(store, changes)
    draft.rename(config)  # last: a folder with a configuration is whole
    return videos, store, config


def _record(path: Path) -> SourceRecord:
    return SourceRecord(str(path), *source_status(path, None), hash_content(path))


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
