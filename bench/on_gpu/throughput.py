"""Section ``throughput``: the micro-batcher over prepared rows against the best bare model, in steps per second."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench import bare
from bench.on_gpu.section import Section, Setup
from bench.on_gpu.towers import Tower, extractor_of, load, network_of, noise, towers
from extractors import MicroBatcher
from settings.messages import one_line

TARGET = 0.85
_BATCHES, _QUICK_BATCHES = (32, 64, 128, 256), (1, 2)
_ROWS = 8  # as many as the local executor hands over at a time
_SECONDS_PER_TOWER = 16.0
_COMPILE_SECONDS = 60.0
# The dtype of the comparison comes first; the others are told for information.
_DTYPES = ("float16", "bfloat16", "float32")


def run(setup: Setup, section: Section) -> None:
    """Measure every tower; what compilers and CUDA graphs would add comes last, as far as time allows."""
    chosen = towers(setup.quick)
    dtypes = _DTYPES if setup.on_gpu else _DTYPES[-1:]
    found: dict[str, dict[str, Any]] = {}
    for tower in chosen:
        if not setup.quick and not section.has_time(tower.name, _SECONDS_PER_TOWER):
            continue
        found[tower.name] = {}
        for dtype in dtypes:
            with section.attempt(f"{tower.name} {dtype}"):
                found[tower.name][dtype] = compare(setup, tower, dtype)
                section.put(tower.name, found[tower.name])
                section.line(describe(tower, dtype, found[tower.name][dtype]))
    if not setup.on_gpu:
        section.leave_out("half precision, torch.compile and CUDA graphs", "they need a CUDA device")
        return
    for tower in chosen:
        if "float16" in found.get(tower.name, {}):
            found[tower.name]["for_information"] = _information(setup, section, tower, found[tower.name]["float16"])
            section.put(tower.name, found[tower.name])


def describe(tower: Tower, dtype: str, found: dict[str, Any]) -> str:
    """Return one line about a tower in a dtype."""
    best = found["best_bare"]
    return (
        f"{tower.name} {dtype}: {found['ours']:.0f} steps/s in micro-batches of {tower.micro_batch}, bare "
        f"{best.steps_per_second:.0f} ({best.way}, {best.batch}): {found['ratio']:.3f}"
    )


def compare(setup: Setup, tower: Tower, dtype: str) -> dict[str, Any]:
    """Measure ours at the micro-batch of the presets and at others, and the bare model at several batches."""
    seconds = 0.05 if setup.quick else (0.9 if dtype == "float16" else 0.45)
    extractor, device = extractor_of(tower, dtype), setup.device
    batches = _QUICK_BATCHES if setup.quick else _BATCHES
    wanted = (tower.micro_batch,) if setup.quick or dtype != "float16" else (tower.micro_batch, 64, 128, 256)
    ours = {size: ours_rate(setup, tower, dtype, size, seconds) for size in wanted}
    network = bare.bare_network(network_of(tower), device, getattr(torch, dtype))
    rates = bare.eager_rates(network, extractor.prepared_shape(), batches, device, seconds, 1 if setup.quick else 3)
    best = bare.best(rates)
    return {
        "ours": ours[tower.micro_batch],
        "ours_by_micro_batch": ours,
        "bare": rates,
        "best_bare": best,
        "ratio": ours[tower.micro_batch] / best.steps_per_second,
        "ratio_at_best_micro_batch": max(ours.values()) / best.steps_per_second,
    }


def ours_rate(
    setup: Setup, tower: Tower, dtype: str, micro_batch: int, seconds: float, compiled: bool = False
) -> float:
    """Return steps per second of the micro-batcher over rows that hold a whole number of micro-batches."""
    batcher = MicroBatcher(load(tower, dtype, setup.device, compiled=compiled), micro_batch)
    rows = 2 if setup.quick else max(2, _ROWS * 32 // micro_batch)
    steps = noise(extractor_of(tower, dtype), micro_batch)
    prepared = [(f"video{index}", np.roll(steps, index, axis=0)) for index in range(rows)]
    return bare.rate(lambda: batcher.run(prepared), rows * micro_batch, seconds, setup.device, 1 if setup.quick else 3)


def _information(setup: Setup, section: Section, tower: Tower, found: dict[str, Any]) -> dict[str, Any]:
    """Measure the bare model as a CUDA graph and compiled, and ours compiled, all in float16."""
    shape, device, batch = extractor_of(tower).prepared_shape(), setup.device, found["best_bare"].batch
    told: dict[str, Any] = {}
    network = bare.bare_network(network_of(tower), device, torch.float16)
    try:
        told["graph"] = bare.graph_rate(network, shape, batch, device, 0.5)
    except RuntimeError as error:
        section.leave_out(f"{tower.name} as a CUDA graph", one_line(error))
    if not section.has_time(f"{tower.name} compiled", _COMPILE_SECONDS):
        return told
    try:
        told["compiled"] = bare.compiled_rate(network, shape, batch, device, 0.5)
        told["ours_compiled"] = ours_rate(setup, tower, "float16", tower.micro_batch, 0.5, compiled=True)
    except (RuntimeError, OSError) as error:  # no C compiler, no Triton
        section.leave_out(f"{tower.name} compiled", one_line(error))
    return told
