"""Measure what dictionaries cost: memory and time of k-means over frames, and node strings embedded per second.

    python bench/clustering.py [--json PATH]

The frames are a matrix of 123,840 × 768, the size of NExT-GQA's training split, drawn around 600 random directions.
The node strings come from made-up graphs, 8 strings per graph. The published code embeds one string at a time, padded
to the whole context of 77 tokens, and repeated strings as often as they occur; it runs beside ours in one process on
the same threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import numpy as np
from rich.console import Console
from rich.table import Table

from parsers import KMeansParameters, fit_dictionary

WORDS = {
    "animal": ["cat", "dog", "bird", "baby", "boy", "girl", "man", "woman", "lady", "horse", "child", "monkey"],
    "verb": ["chase", "watch", "follow", "carry", "hold", "push", "lift", "throw", "catch", "hug", "feed", "touch"],
    "thing": ["ball", "toy", "car", "bottle", "cup", "guitar", "bike", "box", "phone", "chair", "leash", "spoon"],
    "place": ["in the room", "on the grass", "near the end", "at the beginning", "by the table", "outside"],
}


def peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fit(rows: int, size: int, k: int) -> None:
    """Fit a dictionary and print seconds and bytes as JSON; meant to run in a process of its own.

    Parameters
    ----------
    rows, size
        Shape of the matrix of frames, float32.
    k
        Number of clusters.
    """
    generator = np.random.default_rng(0)
    warm = generator.standard_normal((64, size), np.float32)
    fit_dictionary(warm, range(64), KMeansParameters(k=2))  # loads the libraries before memory is measured
    directions = generator.standard_normal((600, size), np.float32) * 3
    members = np.empty((rows, size), np.float32)
    for start in range(0, rows, 4096):
        block = members[start : start + 4096]
        block[:] = directions[generator.integers(0, 600, len(block))]
        block += generator.standard_normal(block.shape, np.float32)
    before = peak_bytes()
    started = time.perf_counter()
    fitted = fit_dictionary(members, range(rows), KMeansParameters(k=k))
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "array_bytes": members.nbytes,
                "extra_bytes": peak_bytes() - before,
                "empty": int(fitted.empty.sum()),
            }
        )
    )


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


def main() -> None:
    """Measure and print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=123_840, help="frames to cluster")
    parser.add_argument("--size", type=int, default=768, help="numbers per frame")
    parser.add_argument("--k", type=int, default=512, help="clusters")
    parser.add_argument("--model", default="ViT-L-14", help="open_clip model, with random weights")
    parser.add_argument("--graphs", type=int, default=200, help="graphs whose strings are embedded")
    parser.add_argument("--runs", type=int, default=3, help="measurements of the embedding; medians are reported")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the text encoder")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        fit(arguments.rows, arguments.size, arguments.k)
        return
    sizes = ["--rows", str(arguments.rows), "--size", str(arguments.size), "--k", str(arguments.k)]
    command = [sys.executable, __file__, "--fit", *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    fitted = json.loads(done.stdout)
    encoded = embedding(arguments.model, arguments.graphs, arguments.runs, arguments.threads)
    shape = f"{arguments.rows:,} × {arguments.size}, k={arguments.k}"
    table = Table(title=f"dictionaries ({arguments.model}, {arguments.threads} threads, median of {arguments.runs})")
    for column in ("", "measured", "target"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(f"fit {shape}", f"{fitted['seconds']:.1f} s", "")
    share = fitted["extra_bytes"] / fitted["array_bytes"]
    table.add_row("peak memory beside the array itself", f"{share:.2f} × its size", "≤ 0.5 ×")
    table.add_row("node strings", f"{encoded['strings_per_s']:.1f} /s", "")
    table.add_row("compared with one string at a time", f"{encoded['ratio']:.1f} ×", "≥ 10 ×")
    table.add_row(
        f"… without repeats ({encoded['distinct']} distinct of {encoded['strings']})",
        f"{encoded['ratio_without_repeats']:.1f} ×",
        "",
    )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"fit": fitted, "embedding": encoded}, indent=1))


if __name__ == "__main__":
    main()
