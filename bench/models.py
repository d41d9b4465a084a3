"""Frames per second of the micro-batcher against a bare loop over the same ready tensors.

Both run the same network, weights, threads and batch shape in one process, alternating; the bare loop gets float
tensors that are already normalised and does nothing but call the network. The ratio is what batching by row,
normalisation, checks and copies cost.

    python bench/models.py                             ViT-B/32 on the CPU, rows of 32 frames
    python bench/models.py --model ViT-S-32-alt --threads 1
    python bench/models.py --model swin_tiny_patch4_window7_224 --micro-batch 8
    python bench/models.py --model vggish --steps 60
    python bench/models.py --model swin_base_patch4_window7_224 --device cuda --compute-dtype bfloat16 --compile
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from extractors import MicroBatcher, build
from extractors.torch_model import TorchModel


def main(
    model: Annotated[str, typer.Option(help="open_clip or Swin model, or vggish; weights: random:0.")] = "ViT-B-32",
    rows: Annotated[int, typer.Option(help="Rows (videos) per measurement.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps (frames, patches) per row.")] = 32,
    micro_batch: Annotated[int, typer.Option(help="Steps per forward.")] = 32,
    threads: Annotated[int, typer.Option(help="CPU threads of the network.")] = 2,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    compute_dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16, for both.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile, for both.")] = False,
    repeats: Annotated[int, typer.Option(help="Measurements of each; medians are reported.")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure and print; exit 1 if the micro-batcher is below 0.95 of the bare loop."""
    name, options = _extractor(model)
    execution = {"weights": "random:0", "compute_dtype": compute_dtype, "compile": compiled}
    extractor = build(name, {**options, **execution})
    loaded = extractor.load(device, threads)
    assert isinstance(loaded, TorchModel)
    generator = np.random.default_rng(0)
    shape = (steps, *extractor.prepared_shape())
    prepared = [(f"video{index}", _random(generator, shape, extractor.prepared_dtype)) for index in range(rows)]
    batcher = MicroBatcher(loaded, micro_batch)
    ready = _ready_tensors(np.concatenate([each for _, each in prepared]), micro_batch, device)
    network = _bare(name, loaded.network)
    if compiled:
        network = torch.compile(network, dynamic=False)
    half = None if compute_dtype == "float32" else getattr(torch, compute_dtype)

    def batched() -> None:
        batcher.run(prepared)

    def bare() -> None:
        with torch.inference_mode(), torch.autocast(device.partition(":")[0], dtype=half, enabled=half is not None):
            for batch in ready:
                network(batch).cpu()

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
    table = Table(title=f"{model}, {rows} rows of {steps} steps, micro-batch {micro_batch}, {threads} threads")
    for column in ("bare loop, steps/s", "micro-batcher, steps/s", "ratio"):
        table.add_column(column, justify="right")
    table.add_row(f"{figures['bare_fps']:.2f}", f"{figures['batched_fps']:.2f}", f"{figures['ratio']:.3f}")
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    raise typer.Exit(0 if figures["ratio"] >= 0.95 else 1)


def _extractor(model: str) -> tuple[str, dict[str, str]]:
    """The extractor of a model name, and the option that names the model."""
    if model == "vggish":
        return model, {}
    return ("swin" if model.startswith("swin") else "clip"), {"model": model}


def _random(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Noise where pictures go, or numbers in the range of log-mel."""
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.uniform(-4.6, 5, shape).astype(dtype)


def _ready_tensors(steps: np.ndarray, micro_batch: int, device: str) -> list[torch.Tensor]:
    """What the network itself takes, in batches on the device; the last may be short.

    Pictures `uint8 [N,S,S,3]` become normalised `float32 [M,3,S,S]` in channels_last, patches `float32 [M,1,96,64]`.
    """
    tensors = torch.from_numpy(steps)
    if steps.dtype == np.uint8:
        tensors = tensors.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(0.45).div_(0.27)
    else:
        tensors = tensors.unsqueeze(1)
    return [part.to(device) for part in tensors.split(micro_batch)]


def _bare(name: str, network: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network's own call; Swin's is the one that ends before the pooling."""
    return network.forward_features if name == "swin" else network


def _rate(run: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    typer.run(main)
