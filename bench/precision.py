"""Compare half precision with float32: weights that were cast once, and autocast over float32 weights.

Every model has random weights and sees noise and smooth images (for VGGish: noise and slow changes in the range of
log-mel). A cosine is the least of all steps; errors are over all numbers of all steps, beside the mean size of these
numbers. There is no target.

    python bench/precision.py                          ViT-L/14, Swin-B, Swin-L and VGGish on the CPU (minutes)
    python bench/precision.py --model vggish --dtype bfloat16
    python bench/precision.py --device cuda
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import numpy as np
import torch

from bench.report import Column, Report, Table, bench_parser, prose
from extractors import build
from extractors.trained import Trained
from pipeline.extract.precision import rounding_error
from stores.format.rounding import RoundingError

MODELS = ("ViT-L-14", "swin_base_patch4_window7_224", "swin_large_patch4_window7_224", "vggish")
DTYPES = ("float16", "bfloat16")
WAYS = ("cast once", "autocast")


NOTE = """What this cannot show: layer norms of random networks have weights of 1, which no cast changes, and autocast
on a CPU leaves layer norms in the half type, where on a GPU it takes float32."""


def main() -> int:
    """Measure and report."""
    parser = bench_parser(__doc__, model=["vggish"], steps=1)
    parser.add_argument("--model", nargs="+", default=MODELS, help="open_clip or Swin models, or vggish")
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES, help="float16 or bfloat16")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--steps", type=int, default=2, help="images of each kind")
    arguments = parser.parse_args()
    found = [
        row for name in arguments.model for row in compare(name, arguments.dtype, arguments.device, arguments.steps)
    ]
    errors = (Column("least cosine", ".7f"), Column("mean", ".1e"), Column("largest", ".1e"))
    return Report(
        title="Rounding errors of half precision",
        about=prose(__doc__),
        tables=[
            Table(
                f"{way}, {arguments.device}, {arguments.steps} steps of each kind",
                ["model", "dtype", "steps", *errors],
                [
                    (row["model"].partition("_patch")[0], row["dtype"], row["steps"], *row[way].values())
                    for row in found
                ],
            )
            for way in WAYS
        ],
        notes=[NOTE],
        figures={"device": arguments.device, "steps": arguments.steps, "rows": found},
        uses=("torch", "open_clip_torch", "timm", "torchvggish"),
    ).finish(arguments)


def compare(model: str, dtypes: Sequence[str], device: str, steps: int) -> list[dict[str, Any]]:
    """Return the errors of a model in both ways, for each half type and kind of steps."""
    rows = []
    exact = _build(model, "float32")
    network = exact.load(device)
    halves = {half: _build(model, half).load(device) for half in dtypes}
    for kind, prepared in _inputs(exact, steps).items():
        reference = network.forward(prepared)
        for half, loaded in halves.items():
            with torch.autocast(device.partition(":")[0], dtype=getattr(torch, half)):
                autocast = network.forward(prepared)
            errors = zip(WAYS, (loaded.forward(prepared), autocast), strict=True)
            told = {way: _figures(rounding_error(values, reference)) for way, values in errors}
            rows.append({"model": model, "dtype": half, "steps": kind, **told})
    return rows


def _figures(error: RoundingError) -> dict[str, float]:
    return {"min_cosine": error.min_cosine, "mean_abs": error.mean_abs, "max_abs": error.max_abs}


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
    sys.exit(main())
