"""Section ``towers``: every tower in every dtype against float32 on the CPU, on the same prepared steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.on_gpu.section import Section, Setup
from bench.on_gpu.towers import DTYPES, Tower, extractor_of, load, noise, scenes, towers
from extractors import MicroBatcher
from extractors.torch_model import TorchModel
from pipeline.extract.precision import rounding_error
from stores.format import RoundingError

_STEPS, _QUICK_STEPS = 8, 2  # of noise, and as many of scenes
_SECONDS_PER_TOWER = 12.0  # on an H100 with 16 cores: the CPU's float32 takes most of it


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one tower computes in one dtype on one device.

    Attributes
    ----------
    noise, scenes
        Difference from float32 on the CPU, on noise and on drawn scenes.
    reference
        Difference of the model's own float32, which ``reference`` computes, from float32 on the CPU; None for float32.
    same_bits_twice
        Whether the same batch gives the same bits again.
    position_independent
        Whether one step repeated over a micro-batch gives the same bits at every position.
    neighbours_do_not_matter
        Whether a step gives the same bits beside other steps: if so, neither padding nor packing can be seen.
    micro_batch_does_not_matter
        Whether half the micro-batch gives the same bits. It need not: the size is part of the numerics.
    """

    noise: RoundingError
    scenes: RoundingError
    reference: RoundingError | None
    same_bits_twice: bool
    position_independent: bool
    neighbours_do_not_matter: bool
    micro_batch_does_not_matter: bool


def run(setup: Setup, section: Section) -> None:
    """Compare every tower in every dtype."""
    dtypes = DTYPES if setup.on_gpu else DTYPES[:2]
    if not setup.on_gpu:
        section.leave_out("float16", "it needs a CUDA device; a CPU takes ten times as long for it")
    for tower in towers(setup.quick):
        if not setup.quick and not section.has_time(tower.name, _SECONDS_PER_TOWER):
            continue
        extractor = extractor_of(tower)
        count = _QUICK_STEPS if setup.quick else _STEPS
        inputs = {"noise": noise(extractor, count), "scenes": scenes(extractor, count)}
        cpu = load(tower, "float32", torch.device("cpu"))
        truth = {name: cpu.forward(steps) for name, steps in inputs.items()}
        del cpu
        found: dict[str, Any] = {
            # What an error is to be held against: how large the numbers are, and how much they differ between steps.
            "mean_abs": float(np.abs(truth["scenes"]).mean()),
            "between_scenes": rounding_error(truth["scenes"][:-1], truth["scenes"][1:]),
        }
        for dtype in dtypes:
            with section.attempt(f"{tower.name} {dtype}"):
                found[dtype] = compare(load(tower, dtype, setup.device), tower.micro_batch, inputs, truth)
                section.put(tower.name, found)
                section.line(describe(tower, dtype, found[dtype]))


def describe(tower: Tower, dtype: str, agreement: Agreement) -> str:
    """Return one line about a tower in a dtype."""
    marks = {
        "same bits twice": agreement.same_bits_twice,
        "position": agreement.position_independent,
        "neighbours": agreement.neighbours_do_not_matter,
    }
    told = ", ".join(f"{name} {'ok' if kept else 'DIFFERS'}" for name, kept in marks.items())
    error = agreement.scenes
    return f"{tower.name} {dtype}: cosine {error.min_cosine:.7f}, mean {error.mean_abs:.2e}, {told}"


def compare(
    model: TorchModel, micro_batch: int, inputs: dict[str, NDArray[Any]], truth: dict[str, NDArray[np.float32]]
) -> Agreement:
    """Compare a model with the truth about ``noise`` and ``scenes``, and with itself."""
    batcher = MicroBatcher(model, micro_batch)
    rows = dict(batcher.run(list(inputs.items())))
    own = model.reference(inputs["scenes"])
    batch = fill(inputs["noise"], micro_batch)
    first = model.forward(batch)
    other = batch.copy()
    other[1:] = fill(inputs["scenes"], micro_batch)[1:]
    repeated = model.forward(fill(inputs["noise"][:1], micro_batch))
    half = model.forward(batch[: max(1, micro_batch // 2)])
    return Agreement(
        noise=rounding_error(rows["noise"], truth["noise"]),
        scenes=rounding_error(rows["scenes"], truth["scenes"]),
        reference=None if own is None else rounding_error(own, truth["scenes"]),
        same_bits_twice=same(model.forward(batch), first),
        position_independent=same(repeated, np.broadcast_to(repeated[:1], repeated.shape)),
        neighbours_do_not_matter=same(model.forward(other)[:1], first[:1]),
        micro_batch_does_not_matter=same(half, first[: len(half)]),
    )


def fill(steps: NDArray[Any], count: int) -> NDArray[Any]:
    """Repeat steps until there are ``count``."""
    return steps[np.arange(count) % len(steps)]


def same(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Compare two arrays bit by bit."""
    return first.shape == second.shape and first.tobytes() == second.tobytes()
