"""Compare the micro-batcher with a bare loop over the same prepared tensors, in steps per second.

Both run the same network, weights, threads and batch shape in one process, alternating. The bare loop gets float
tensors that are already normalised and does nothing but call the network, so the ratio is what batching by row,
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

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from extractors import MicroBatcher, build
from extractors.torch_model import TorchModel

TARGET = 0.95


def main(
    model: Annotated[str, typer.Option(help="open_clip or Swin model, or vggish; weights: random:0.")] = "ViT-B-32",
    rows: Annotated[int, typer.Option(help="Rows (videos) per measurement.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps (frames, patches) per row.")] = 32,
    micro_batch: Annotated[int, typer.Option(help="Steps per forward pass.")] = 32,
    threads: Annotated[int, typer.Option(help="CPU threads of the network.")] = 2,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    compute_dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16, for both.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile, for both.")] = False,
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
    ready = _ready_tensors(np.concatenate([row for _, row in prepared]), micro_batch, device)
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

    pairs = measure(bare, batched, rows * steps, repeats)
    bare_fps = statistics.median(bare_rate for bare_rate, _ in pairs)
    batched_fps = statistics.median(batched_rate for _, batched_rate in pairs)
    ratios = [batched_rate / bare_rate for bare_rate, batched_rate in pairs]
    # The median of the pairwise ratios: neighbours in time share whatever else the machine is doing.
    ratio = statistics.median(ratios)
    table = Table(title=f"{model}, {rows} rows of {steps} steps, micro-batch {micro_batch}, {threads} threads")
    for column in ("bare loop, steps/s", "micro-batcher, steps/s", "ratio"):
        table.add_column(column, justify="right")
    table.add_row(f"{bare_fps:.2f}", f"{batched_fps:.2f}", f"{ratio:.3f}")
    Console().print(table)
    if json_path is not None:
        figures = {
            "model": model,
            "rows": rows,
            "steps": steps,
            "repeats": repeats,
            **batcher.numerics(),
            "bare_fps": bare_fps,
            "batched_fps": batched_fps,
            "ratio": ratio,
            "ratios": ratios,
        }
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    raise typer.Exit(0 if ratio >= TARGET else 1)


def measure(
    bare: Callable[[], None], batched: Callable[[], None], steps: int, repeats: int
) -> list[tuple[float, float]]:
    """Return pairs of rates (bare, batched) in steps per second, after one run of each that does not count."""
    bare()
    batched()
    pairs = []
    for repeat in range(repeats):
        # Each goes first in half of the pairs, or a load that grows or fades would favour one of them.
        first, second = (bare, batched) if repeat % 2 == 0 else (batched, bare)
        rates = {run: _rate(run, steps) for run in (first, second)}
        pairs.append((rates[bare], rates[batched]))
    return pairs


def _extractor(model: str) -> tuple[str, dict[str, str]]:
    """Return the extractor of a model and the option that selects the model."""
    if model == "vggish":
        return model, {}
    return ("swin" if model.startswith("swin") else "clip"), {"model": model}


def _random(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Draw noise in place of pictures, or numbers in the range of log-mel."""
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.uniform(-4.6, 5, shape).astype(dtype)


def _ready_tensors(steps: np.ndarray, micro_batch: int, device: str) -> list[torch.Tensor]:
    """Turn prepared steps into what the network itself takes, in batches on the device; the last may be short.

    Pictures ``[N, S, S, 3] uint8`` become normalised ``[M, 3, S, S] float32`` in channels_last, patches
    ``[M, 1, 96, 64] float32``.
    """
    tensors = torch.from_numpy(steps)
    if steps.dtype == np.uint8:
        tensors = tensors.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(0.45).div_(0.27)
    else:
        tensors = tensors.unsqueeze(1)
    return [part.to(device) for part in torch.split(tensors, micro_batch)]


def _bare(name: str, network: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network's own call; Swin's is the one that ends before pooling."""
    call: Callable[[torch.Tensor], torch.Tensor] = network.forward_features if name == "swin" else network
    return call


def _rate(run: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    typer.run(main)
