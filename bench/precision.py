"""Compare half precision with float32: weights that were cast once, and autocast over float32 weights.

Every model has random weights and sees noise and smooth images (for VGGish: noise and slow changes in the range of
log-mel). A cosine is the least of all steps; errors are over all numbers of all steps.

    python bench/precision.py                          ViT-L/14, Swin-B, Swin-L and VGGish on the CPU (minutes)
    python bench/precision.py --model vggish --dtype bfloat16
    python bench/precision.py --device cuda
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from extractors import build
from extractors.trained import Trained
from pipeline.extract.precision import rounding_error
from stores.format.rounding import RoundingError

MODELS = ("ViT-L-14", "swin_base_patch4_window7_224", "swin_large_patch4_window7_224", "vggish")
DTYPES = ("float16", "bfloat16")


def main(
    model: Annotated[list[str] | None, typer.Option(help="open_clip or Swin model, or vggish; repeatable.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float16 or bfloat16; repeatable.")] = None,
    device: Annotated[str, typer.Option(help="torch device.")] = "cpu",
    steps: Annotated[int, typer.Option(min=1, help="Images of each kind.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure and print; there is no target."""
    rows = []
    for name in model or MODELS:
        exact = _build(name, "float32")
        network = exact.load(device)
        for kind, prepared in _inputs(exact, steps).items():
            reference = network.forward(prepared)
            for half in dtype or DTYPES:
                with torch.autocast(device.partition(":")[0], dtype=getattr(torch, half)):
                    autocast = network.forward(prepared)
                once = _build(name, half).load(device).forward(prepared)
                errors = {"cast once": rounding_error(once, reference), "autocast": rounding_error(autocast, reference)}
                rows.append((name, half, kind, errors))
    table = Table(title=f"half precision against float32, {steps} steps of each kind, {device}")
    for column in ("model", "dtype", "steps", "", "least cosine", "mean error", "largest error"):
        table.add_column(column)
    for name, half, kind, errors in rows:
        for way, error in errors.items():
            table.add_row(name, half, kind, way, *_figures(error))
    Console(width=140).print(table)
    if json_path is not None:
        records = [
            {"model": name, "dtype": half, "steps": kind, **{way: error.model_dump() for way, error in errors.items()}}
            for name, half, kind, errors in rows
        ]
        json_path.write_text(json.dumps(records, indent=2) + "\n")


def _figures(error: RoundingError) -> tuple[str, str, str]:
    return f"{error.min_cosine:.7f}", f"{error.mean_abs:.2e}", f"{error.max_abs:.2e}"


def _build(model: str, compute_dtype: str) -> Trained:
    options: dict[str, Any] = {} if model == "vggish" else {"model": model}
    extractor = build(
        model if model == "vggish" else "swin" if model.startswith("swin") else "clip",
        {"weights": "random:0", "compute_dtype": compute_dtype, **options},
    )
    assert isinstance(extractor, Trained)
    return extractor


def _inputs(extractor: Trained, steps: int) -> dict[str, np.ndarray]:
    """Draw noise, and slow changes across each step, of the kind that the extractor prepares."""
    generator = np.random.default_rng(0)
    shape = (steps, *extractor.prepared_shape())
    height, width = shape[1], shape[2]
    waves = np.sin(np.linspace(0, 3, height))[:, None] * np.cos(np.linspace(0, 2, width))[None]
    smooth = 0.5 + 0.4 * waves[None] * np.linspace(-1, 1, steps + 2)[1:-1, None, None]
    if extractor.prepared_dtype == "uint8":
        tinted = smooth[..., None] * np.array([1.0, 0.8, 0.6])
        return {"noise": generator.integers(0, 256, shape, np.uint8), "smooth": (tinted * 255).astype(np.uint8)}
    spread = generator.uniform(-4.6, 5, shape)
    return {"noise": spread.astype(np.float32), "smooth": (smooth * 9.6 - 4.6).astype(np.float32)}


if __name__ == "__main__":
    typer.run(main)
