"""Section ``memory``: what happens when the card is nearly full: the micro-batch halves, and the rows stay right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.on_gpu.section import Section, Setup
from bench.on_gpu.towers import extractor_of, load, noise, towers
from extractors import MicroBatcher
from extractors.base import Json, Model
from pipeline.extract.precision import rounding_error
from stores.format import RoundingError

_DTYPE = "float16"
_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a shortage of memory did.

    Attributes
    ----------
    asked, used
        The micro-batch before and after.
    same_bits
        Whether the rows have the bits that the smaller micro-batch gives where memory is plenty.
    against_plenty
        Difference of the rows from those of the micro-batch that was asked for, where memory is plenty.
    """

    asked: int
    used: int
    same_bits: bool
    against_plenty: RoundingError


class Tight(Model):
    """A model that runs out of memory above some number of steps, for machines without a card to fill."""

    def __init__(self, model: Model, most: int) -> None:
        self._model, self._most, self.output = model, most, model.output

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Turn ``[M, *prepared_shape]`` into ``[M, *step_shape]``. Raises RuntimeError above ``most`` steps."""
        if len(batch) > self._most:
            raise RuntimeError(f"CUDA out of memory: {len(batch)} steps, room for {self._most}")
        return self._model.forward(batch)

    def numerics(self) -> dict[str, Json]:
        """Return the model's own."""
        return self._model.numerics()


def run(setup: Setup, section: Section) -> None:
    """Fill the card, compute with a micro-batch that does not fit, and free the card."""
    if not setup.quick and not section.has_time("the shortage", _SECONDS):
        return
    tower = towers(setup.quick)[0]
    asked = 4 * tower.micro_batch
    steps = noise(extractor_of(tower), asked + 3)
    rows = [("whole", steps[:asked]), ("ragged", steps[asked:])]
    model = load(tower, _DTYPE if setup.on_gpu else "float32", setup.device)
    if not setup.on_gpu:
        section.leave_out("a card that is really full", "it needs a CUDA device; a model that refuses stands in for it")
        tight = Tight(model, tower.micro_batch)
        section.put(tower.name, under_shortage(model, asked, rows, lambda: MicroBatcher(tight, asked)))
        return
    found = on_full_card(model, asked, rows, setup.device)
    section.put(tower.name, found)
    section.line(f"asked for {found.asked} steps, {found.used} fit; same bits as with room: {found.same_bits}")


def on_full_card(model: Model, asked: int, rows: list[tuple[str, NDArray[Any]]], device: torch.device) -> Shortage:
    """Compute rows on a card whose free memory is two fifths of what the micro-batch takes beside the weights."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    MicroBatcher(model, asked).run(rows)
    free = int(0.4 * (torch.cuda.max_memory_allocated(device) - before))
    filler: list[torch.Tensor] = []

    def fill_card() -> MicroBatcher:
        filler.extend(occupy(device, free))
        return MicroBatcher(model, asked)

    try:
        return under_shortage(model, asked, rows, fill_card, filler.clear)
    finally:
        torch.cuda.empty_cache()


def under_shortage(
    model: Model,
    asked: int,
    rows: list[tuple[str, NDArray[Any]]],
    tighten: Callable[[], MicroBatcher],
    free: Callable[[], None] = lambda: None,
) -> Shortage:
    """Compute rows with room, then with too little of it, then with room in the micro-batch that was left.

    Parameters
    ----------
    model
        The model, where memory is plenty.
    asked
        The micro-batch to ask for.
    rows
        Keys and prepared steps.
    tighten
        Takes the memory away and returns the micro-batcher to compute with.
    free
        Gives the memory back.
    """
    plenty = dict(MicroBatcher(model, asked).run(rows))
    batcher = tighten()
    try:
        tight = dict(batcher.run(rows))
    finally:
        free()
    again = dict(MicroBatcher(model, batcher.micro_batch).run(rows))
    same = all(tight[key].tobytes() == again[key].tobytes() for key, _ in rows)
    whole = rows[0][0]
    return Shortage(asked, batcher.micro_batch, same, rounding_error(tight[whole], plenty[whole]))


def occupy(device: torch.device, leave: int) -> list[torch.Tensor]:
    """Take all memory of a card but ``leave`` bytes; it is free again when the tensors are gone."""
    torch.cuda.empty_cache()
    taken: list[torch.Tensor] = []
    block = 1 << 30
    while block >= 1 << 21:  # the allocator's own granularity
        free, _ = torch.cuda.mem_get_info(device)
        if free - leave < block:
            block //= 2
            continue
        try:
            taken.append(torch.empty(block, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            block //= 2
    return taken
