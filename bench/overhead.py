"""Measure what an extraction costs beside decoding: whole extractions without a network against a bare decode loop.

    python bench/overhead.py local|ray|memory [--runs 3] [--quick] [--json PATH]

    local   12 clips of 60 s with one decode worker, against a loop that decodes the same frames in this process
    ray     200 clips of 10 s on Ray, against the same loop
    memory  peak of the process tree at 2,000 clips against 200

A whole extraction is a plan, child processes, queues, shards and commits. The clips are bound by decoding: moving
texture at 640x360, of which 32 frames are taken. On Ray, start-up is excluded on both sides by taking the difference
between many clips and few. Memory is the proportional set size of all processes, of clips of 2 s.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import psutil

from bench.decode import USES, make_clip
from bench.report import Column, Report, Table, Target, bench_parser, prose
from examples.clips import write_clip
from pipeline.extract import Config, ExtractRequest, PlanOptions, extract, load_config
from pipeline.media import DecodeRequest, decode
from pipeline.shared import ExecutorName, Terminal

CONFIG = """
features:
  rgb: {extractor: rgb_grid, grid: 1, sampling: {policy: uniform, n: 32}}
run: {decode_workers: 1}
"""


CONFIG_FILE = "config.yaml"
MEASURES = {
    "local": ("local", "time, to a bare decode loop", 1.10),
    "ray": ("on Ray", "time, to a bare decode loop", 1.25),
    "memory": ("memory", "peak memory, to that at fewer clips", 1.05),
}
"""What is measured to its title, its target's name and the largest ratio."""


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


def bench_local(folder: Path, config: Config, runs: int, quick: bool) -> dict[str, Any]:
    """Compare local extractions with the bare loop; return medians in seconds and the median ratio."""
    videos = copies(folder / "videos", 2 if quick else 12, make_clip(3 if quick else 60))
    paths = sorted(videos.iterdir())
    bare_loop(paths[:1])
    whole_extraction(videos, folder / "warm", config, "local", limit=1)
    pairs = [(whole_extraction(videos, folder / f"s{i}", config, "local"), bare_loop(paths)) for i in range(runs)]
    whole, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return {"clips": len(paths), "job_s": whole, "bare_s": bare, "ratio": ratio}


def bench_ray(folder: Path, config: Config, runs: int, quick: bool) -> dict[str, Any]:
    """Compare extractions on Ray with the bare loop, both on the clips beyond the first few; return medians, ratio."""
    import ray

    count, few = (8, 2) if quick else (200, 8)
    videos = copies(folder / "videos", count, make_clip(3 if quick else 10))
    paths = sorted(videos.iterdir())
    os.environ["PYTHONPATH"] = str(ROOT)
    # A cluster of its own, even if another one runs on this machine.
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
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
    }


def tree_peak(command: list[str]) -> float:
    """Run a command; return the peak of its process tree: proportional set size, in MB."""
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
    return peak / 1e6


def bench_memory(folder: Path, config: Config, runs: int, quick: bool) -> dict[str, Any]:
    """Compare the peak memory of extractions over many clips and over few; return medians in MB and their ratio."""
    few, many = (4, 8) if quick else (200, 2000)
    clip = folder / "clip.mp4"
    write_clip(clip, seconds=2.0, width=320, height=240)
    videos = copies(folder / "videos", many, clip)
    peaks: dict[int, list[float]] = {few: [], many: []}
    for index in range(runs):
        for count in (few, many):
            command = [sys.executable, "jobs/extract.py", str(videos), "--store", str(folder / f"s{index}-{count}")]
            command += ["--config", str(folder / CONFIG_FILE), "--limit", str(count)]
            peaks[count].append(tree_peak(command))
    small, large = (statistics.median(peaks[count]) for count in (few, many))
    return {"clips": [few, many], "peak_mb": [small, large], "ratio": large / small}


def report(what: str, found: dict[str, Any], runs: int) -> Report:
    """Return the figures as a table, held to their target."""
    if what == "memory":
        few, many = found["clips"]
        columns = [Column(f"MB at {few} clips", ".0f"), Column(f"MB at {many:,} clips", ".0f")]
        row = found["peak_mb"]
    else:
        columns = [Column("clips"), Column("extraction, s", ".2f"), Column("bare loop, s", ".2f")]
        row = [found[name] for name in ("clips", "job_s", "bare_s")]
    title, against, most = MEASURES[what]
    return Report(
        title=f"Overhead of a whole extraction: {title}",
        about=prose(__doc__),
        tables=[Table(f"median of {runs}", [*columns, Column("ratio", ".2f")], [[*row, found["ratio"]]])],
        targets=[Target(against, found["ratio"], most)],
        figures={"runs": runs, **found},
        uses=(*USES, "ray") if what == "ray" else USES,
    )


def main() -> int:
    """Measure and report; return 1 if the target is missed."""
    parser = bench_parser(__doc__, runs=1)
    parser.add_argument("what", choices=tuple(MEASURES), help="what to measure")
    parser.add_argument("--runs", type=int, default=3, help="measurements of each side; medians are reported")
    arguments = parser.parse_args()
    measure = {"local": bench_local, "ray": bench_ray, "memory": bench_memory}[arguments.what]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / CONFIG_FILE).write_text(CONFIG)
        found = measure(folder, load_config(file=folder / CONFIG_FILE), arguments.runs, arguments.quick)
    return report(arguments.what, found, arguments.runs).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
