"""Decides what becomes of units whose process died without a word: killed by the system, or crashed in a library."""

from __future__ import annotations

from pipeline.extract.plan import Unit
from pipeline.shared import retries
from pipeline.shared.retries import MOST_RESTARTS

__all__ = ["MOST_RESTARTS", "Retries"]


class Retries(retries.Retries[Unit]):
    """Tells units that kill the process that computes them from units that were with one."""

    def __init__(self) -> None:
        super().__init__(lambda unit: unit.keys)
