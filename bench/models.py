"""Frames per second of the micro-batcher against a bare loop over the same ready tensors.

Both run the same network, weights, threads and batch shape in one process, alternating; the bare loop gets float
tensors that are already normalised and does nothing but call the network. The ratio is what batching by row,
normalisation, checks and copies cost.

    python bench/models.py                             ViT-B/32 on the CPU, rows of 32 frames
    python bench/models.py --model ViT-S-32-alt --threads 1
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from extractors import MicroBatcher, build
from extractors.clip_tower import ClipModel


def main(
    model: Annotated[str, typer.Option(help="open_clip model; weights are random:0.")] = "ViT-B-32",
    rows: Annotated[int, typer.Option(help="Rows (videos) per measurement.")] = 3,
    steps: Annotated[int, typer.Option(help="Frames per row.")] = 32,
    micro_batch: Annotated[int, typer.Option(help="Frames per forward.")] = 32,
    threads: Annotated[int, typer.Option(help="CPU threads of the network.")] = 2,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    repeats: Annotated[int, typer.Option(help="Measurements of each; medians are reported.")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure and print; exit 1 if the micro-batcher is below 0.95 of the bare loop."""
    extractor = build("clip", {"model": model, "weights": "random:0"})
    network = extractor.load(device, threads)
    assert isinstance(network, ClipModel)
    generator = np.random.default_rng(0)
    shape = (steps, *extractor.prepared_shape())
    prepared = [(f"video{index}", generator.integers(0, 256, shape, np.uint8)) for index in range(rows)]
    batcher = MicroBatcher(network, micro_batch)
    ready = _ready_tensors(np.concatenate([frames for _, frames in prepared]), micro_batch, device)

    def batched() -> None:
        batcher.run(prepared)

    def bare() -> None:
        with torch.inference_mode():
            for images in ready:
                network.visual(images).cpu()

    bare()
    batched()
    pairs = []
    for repeat in range(repeats):
        # Each goes first in half of the pairs, or a load that grows or fades would favour one of them.
        first, second = (bare, batched) if repeat % 2 == 0 else (batched, bare)
        rates = {run: _rate(run, rows * steps) for run in (first, second)}
        pairs.append((rates[bare], rates[batched]))
    figures = {
        "model": model,
        "rows": rows,
        "steps": steps,
        "repeats": repeats,
        **batcher.numerics(),
        "bare_fps": statistics.median(each[0] for each in pairs),
        "batched_fps": statistics.median(each[1] for each in pairs),
        # The median of the pairwise ratios: neighbours in time share whatever else the machine is doing.
        "ratio": statistics.median(each[1] / each[0] for each in pairs),
        "ratios": [each[1] / each[0] for each in pairs],
    }
    table = Table(title=f"{model}, {rows} rows of {steps} frames, micro-batch {micro_batch}, {threads} threads")
    for column in ("bare loop, frames/s", "micro-batcher, frames/s", "ratio"):
        table.add_column(column, justify="right")
    table.add_row(f"{figures['bare_fps']:.2f}", f"{figures['batched_fps']:.2f}", f"{figures['ratio']:.3f}")
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    raise typer.Exit(0 if figures["ratio"] >= 0.95 else 1)


def _ready_tensors(frames: np.ndarray, micro_batch: int, device: str) -> list[torch.Tensor]:
    """Normalised `float32 [M,3,S,S]` batches in channels_last on the device; the last may be short."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(0.45).div_(0.27)
    return [part.to(device) for part in images.split(micro_batch)]


def _rate(run: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    typer.run(main)
