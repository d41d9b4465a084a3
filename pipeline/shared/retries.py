"""Decides what becomes of work whose process died without a word: killed by the system, or crashed in a library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

_MOST_DEATHS = 2  # of processes that worked on one item and nothing else
MOST_RESTARTS = 3
"""Times in a row that a process is started again without having finished anything."""

_Item = TypeVar("_Item")


class Retries(Generic[_Item]):
    """Tells items that kill the process that works on them from items that were with one.

    An item whose process died is tried again, alone. It is at fault if that kills two processes more.

    Parameters
    ----------
    key
        Returns what identifies an item.
    """

    def __init__(self, key: Callable[[_Item], Hashable]) -> None:
        self._key = key
        self._alone: set[Hashable] = set()
        self._deaths: Counter[Hashable] = Counter()

    def must_be_alone(self, item: _Item) -> bool:
        """Return whether a process died on a group with this item."""
        return self._key(item) in self._alone

    def died(self, items: Sequence[_Item]) -> list[_Item]:
        """Note that a process died on these items; return those that are at fault."""
        self._alone.update(map(self._key, items))
        if len(items) > 1:
            return []
        key = self._key(items[0])
        self._deaths[key] += 1
        return [items[0]] if self._deaths[key] >= _MOST_DEATHS else []
