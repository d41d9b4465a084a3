"""Runs the sections one after the other, each within its share of the time, and holds the figures to the targets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.on_gpu import agreement, environment, extraction, memory, nvdec, throughput, training
from bench.on_gpu.report import Report
from bench.on_gpu.section import Section, Setup

# What tells most comes first, what may end the process comes last. Shares of the time are seconds of eight minutes.
SECTIONS: Mapping[str, tuple[Callable[[Setup, Section], None], float]] = {
    "environment": (environment.run, 25),
    "towers": (agreement.run, 80),
    "throughput": (throughput.run, 115),
    "extraction": (extraction.run, 110),
    "training": (training.run, 80),
    "memory": (memory.run, 20),
    "nvdec": (nvdec.run, 50),
}
NAMES = tuple(SECTIONS)
GRACE_S = 20.0
"""How long after the time of its sections a run is ended, with what it has found by then."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that should be reached on an H100.

    Attributes
    ----------
    what
        What the figure is.
    value
        The figure.
    wanted
        The bound.
    met
        Whether it is reached.
    """

    what: str
    value: float
    wanted: str
    met: bool


def run_sections(
    setup: Setup, names: Sequence[str], report: Report, seconds: float, say: Callable[[str], None] = print
) -> list[str]:
    """Run sections in the order of ``SECTIONS``; return the names of those in which something failed.

    A section's time is its share of what is left, so that what one does not use, the next ones have. One that fails
    says why, and the next begins. If a section does not end, the process does, shortly after its time.
    """
    ended = time.monotonic() + seconds
    chosen = [name for name in SECTIONS if name in names]
    failed: list[str] = []
    running = ""

    def give_up() -> None:
        report.put(running, "cut", f"it did not end within {seconds:.0f} s")
        say(f"{running}: it did not end in time; what was found until now is in {report.folder}")
        os._exit(3)

    guard = threading.Timer(seconds + GRACE_S, give_up)
    guard.daemon = True
    guard.start()
    try:
        for index, name in enumerate(chosen):
            running = name
            call, share = SECTIONS[name]
            rest = sum(SECTIONS[later][1] for later in chosen[index:])
            section = Section(name, max(0.0, ended - time.monotonic()) * share / rest, report, say)
            with section.attempt("the section"):
                call(setup, section)
            if section.failures:
                failed.append(name)
            section.put("seconds", section.spent)
            _free_memory(setup)
    finally:
        guard.cancel()
    return failed


def _free_memory(setup: Setup) -> None:
    import gc

    import torch

    gc.collect()
    if setup.on_gpu:
        torch.cuda.empty_cache()


def targets(found: Mapping[str, Mapping[str, Any]]) -> list[Target]:
    """Return the targets whose figures were measured.

    Parameters
    ----------
    found
        Findings by section, as ``Report.sections`` holds them.
    """
    told = []
    for tower, rates in found.get("throughput", {}).items():
        if isinstance(rates, Mapping) and "float16" in rates:
            told.append(_at_least(f"{tower} float16 against the best bare model", rates["float16"]["ratio"], 0.85))
    for film, figures in found.get("extraction", {}).items():
        if isinstance(figures, Mapping) and "ratio" in figures:
            told.append(_at_least(f"extraction of {film} against its limit", figures["ratio"], 0.9))
    step = found.get("training", {}).get("coqo_bfloat16")
    if step is not None and step["reserved_gib"] is not None:
        gib, most = step["reserved_gib"], training.TARGET_GIB
        told.append(Target("a CoQo step in bfloat16, GiB", gib, f"at most {most:g}", gib <= most))
    for tower, compared in found.get("towers", {}).items():
        if isinstance(compared, Mapping) and "float16" in compared:
            for dtype in ("float32", "bfloat16", "float16"):
                same = bool(compared[dtype]["same_bits_twice"])
                told.append(Target(f"{tower} {dtype}: the same bits twice", float(same), "1", same))
    return told


def _at_least(what: str, value: float, least: float) -> Target:
    return Target(what, value, f"at least {least:g}", value >= least)
