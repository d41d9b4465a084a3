"""Measure what an extraction costs beside decoding: whole extractions without a network against a bare decode loop.

    python bench/overhead.py local|ray|memory [--runs 3] [--json PATH]

local   a whole extraction (plan, child process, queues, shards, commits) on 12 decode-bound clips (60 s of moving
        texture, 640x360) with one decode worker, against a loop that decodes the same frames in this process.
ray     the same on Ray with 200 short clips (10 s). Start-up is excluded on both sides by taking the
        difference between many clips and few.
memory  peak of the process tree (proportional set size) at 2,000 clips against 200.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import psutil
from rich.console import Console
from rich.table import Table

from bench.decode import make_clip
from examples.clips import write_clip
from pipeline.extract import Config, ExtractRequest, PlanOptions, extract, load_config
from pipeline.media import DecodeRequest, decode
from pipeline.shared import ExecutorName, Terminal

CONFIG = """
features:
  rgb: {extractor: rgb_grid, grid: 1, sampling: {policy: uniform, n: 32}}
run: {decode_workers: 1}
"""


def copies(folder: Path, count: int, clip: Path) -> Path:
    """Write copies of a clip, each with its number appended so that no two are duplicates; return the folder."""
    folder.mkdir(parents=True)
    data = clip.read_bytes()
    for index in range(count):
        (folder / f"c{index:05d}.mp4").write_bytes(data + index.to_bytes(4, "little"))
    return folder


def bare_loop(paths: Sequence[Path]) -> float:
    """Decode the wanted frames of each file in this process, and nothing else; return wall seconds."""
    started = time.perf_counter()
    for path in paths:
        for _ in decode(DecodeRequest(str(path), ({"policy": "uniform", "n": 32},))):
            pass
    return time.perf_counter() - started


def whole_extraction(
    videos: Path, store: Path, config: Config, executor: ExecutorName, limit: int | None = None
) -> float:
    """Run an extraction in this process; return wall seconds."""
    request = ExtractRequest(
        source=str(videos), store=str(store), config=config, executor=executor, options=PlanOptions(limit=limit)
    )
    started = time.perf_counter()
    result = extract(request, Terminal(quiet=True))
    assert not result.incomplete, result.summary()["failures"][:1]
    return time.perf_counter() - started


def bench_local(folder: Path, config: Config, runs: int) -> dict[str, object]:
    """Compare local extractions with the bare loop; return medians in seconds and the median ratio."""
    videos = copies(folder / "videos", 12, make_clip(60))
    paths = sorted(videos.iterdir())
    bare_loop(paths[:1])
    whole_extraction(videos, folder / "warm", config, "local", limit=1)
    pairs = [(whole_extraction(videos, folder / f"s{i}", config, "local"), bare_loop(paths)) for i in range(runs)]
    whole, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return {"clips": len(paths), "job_s": whole, "bare_s": bare, "ratio": ratio, "target": 1.10}


def bench_ray(folder: Path, config: Config, runs: int, count: int = 200, few: int = 8) -> dict[str, object]:
    """Compare extractions on Ray with the bare loop, both on ``count - few`` clips; return medians and ratio."""
    import ray

    videos = copies(folder / "videos", count, make_clip(10))
    paths = sorted(videos.iterdir())
    os.environ["PYTHONPATH"] = str(ROOT)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    whole_extraction(videos, folder / "warm", config, "ray", limit=2)
    ratios, wholes, bares = [], [], []
    for index in range(runs):
        wholes.append(
            whole_extraction(videos, folder / f"m{index}", config, "ray")
            - whole_extraction(videos, folder / f"f{index}", config, "ray", limit=few)
        )
        bares.append(bare_loop(paths[few:]))
        ratios.append(wholes[-1] / bares[-1])
    ray.shutdown()
    return {
        "clips": count,
        "job_s": statistics.median(wholes),
        "bare_s": statistics.median(bares),
        "ratio": statistics.median(ratios),
        "target": 1.25,
    }


def tree_peak(command: list[str]) -> tuple[float, float]:
    """Run a command; return the peak of its process tree (proportional set size, in MB) and wall seconds."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    ended = threading.Event()

    def sample() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while not ended.wait(0.1):
            total = 0
            try:
                members = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for member in members:
                try:
                    total += member.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
                    continue
            peak = max(peak, total)

    sampler = threading.Thread(target=sample)
    sampler.start()
    code = process.wait()
    ended.set()
    sampler.join()
    assert code == 0, f"{command} ended with {code}"
    return peak / 1e6, time.perf_counter() - started


def bench_memory(folder: Path, runs: int, few: int = 200, many: int = 2000) -> dict[str, object]:
    """Compare the peak memory of extractions over many clips and over few; return medians in MB and their ratio."""
    config = folder / "rgb.yaml"
    config.write_text(CONFIG)
    clip = folder / "clip.mp4"
    write_clip(clip, seconds=2.0, width=320, height=240)
    videos = copies(folder / "videos", many, clip)
    peaks: dict[int, list[float]] = {few: [], many: []}
    for index in range(runs):
        for count in (few, many):
            command = [sys.executable, "jobs/extract.py", str(videos), "--store", str(folder / f"s{index}-{count}")]
            peak, _ = tree_peak([*command, "--config", str(config), "--limit", str(count)])
            peaks[count].append(peak)
    small, large = (statistics.median(peaks[count]) for count in (few, many))
    return {"clips": [few, many], "peak_mb": [small, large], "ratio": large / small, "target": 1.05}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("local", "ray", "memory"), help="what to measure")
    parser.add_argument("--runs", type=int, default=3, help="measurements of each side; medians are reported")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.yaml").write_text(CONFIG)
        config = load_config(file=folder / "config.yaml")
        if arguments.what == "memory":
            result = bench_memory(folder, arguments.runs)
        else:
            result = {"local": bench_local, "ray": bench_ray}[arguments.what](folder, config, arguments.runs)
    table = Table(title=f"overhead: {arguments.what} (median of {arguments.runs})")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in result.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
