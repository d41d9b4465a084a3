"""Decides what becomes of work whose process died without a word: killed by the system, or crashed in a library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.extract.plan import Unit

_MOST_DEATHS = 2  # of processes that computed one unit and nothing else
MOST_RESTARTS = 3
"""Times in a row that a process is started again without having finished anything."""


class Retries:
    """Tells units that kill the process that computes them from units that were with one.

    A unit whose process died is tried again, alone. It is at fault if that kills two processes more.
    """

    def __init__(self) -> None:
        self._alone: set[tuple[str, ...]] = set()
        self._deaths: Counter[tuple[str, ...]] = Counter()

    def must_be_alone(self, unit: Unit) -> bool:
        """Return whether a process died on a group with this unit."""
        return unit.keys in self._alone

    def died(self, units: Sequence[Unit]) -> list[Unit]:
        """Note that a process died on these units; return those that are at fault."""
        self._alone.update(unit.keys for unit in units)
        if len(units) > 1:
            return []
        self._deaths[units[0].keys] += 1
        return [units[0]] if self._deaths[units[0].keys] >= _MOST_DEATHS else []
