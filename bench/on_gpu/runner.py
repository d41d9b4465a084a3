"""Runs the sections one after the other, each within its share of the time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from bench.on_gpu import agreement, environment, extraction, memory, nvdec, throughput, training
from bench.on_gpu.findings import Findings
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


def run_sections(
    setup: Setup, names: Sequence[str], findings: Findings, seconds: float, say: Callable[[str], None] = print
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
        findings.put(running, "cut", f"it did not end within {seconds:.0f} s")
        say(f"{running}: it did not end in time; what was found until now is in {findings.folder}")
        os._exit(3)

    guard = threading.Timer(seconds + GRACE_S, give_up)
    guard.daemon = True
    guard.start()
    try:
        for index, name in enumerate(chosen):
            running = name
            call, share = SECTIONS[name]
            rest = sum(SECTIONS[later][1] for later in chosen[index:])
            section = Section(name, max(0.0, ended - time.monotonic()) * share / rest, findings, say)
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
