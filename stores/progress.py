"""How far a long operation is, for whoever wants to be told.

``verify``, ``compact``, ``export`` and ``import_files`` tell it; the command line shows it, with rate and time left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

Progress = Callable[[str, int, int], None]
"""Gets a stage, how much of it is done, and how much there is."""

_Item = TypeVar("_Item")


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def followed(items: Collection[_Item], stage: str, progress: Progress) -> Iterator[_Item]:
    """Yield items, and tell how many are done before each and after the last."""
    for done, item in enumerate(items):
        progress(stage, done, len(items))
        yield item
    progress(stage, len(items), len(items))
