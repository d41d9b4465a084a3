"""The head of a store's card that hubs of datasets read: license, sizes, tags, and how to load its tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

from ..format.manifest import TableEntry
from ..store import Store

_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_NAMES = {1_000: "1K", 10_000: "10K", 100_000: "100K", 1_000_000: "1M", 10_000_000: "10M", 100_000_000: "100M"}
_FIRST = "questions"
"""The table that a hub shows first."""


def hub_head(store: Store, license: str) -> list[str]:
    """Return the YAML head, line by line. Every table is a configuration; every part of it a split.

    Features are HDF5, which hubs store but do not show.
    """
    lines = ["---", f"pretty_name: {json.dumps(store.path.name)}", f"license: {json.dumps(license)}"]
    lines += ["task_categories:", "- visual-question-answering", "tags:", "- reelstore", "- video", "- features"]
    lines += ["size_categories:", f"- {size_category(_largest(store))}"]
    names = sorted((name for name in store.tables if not _differs(name)), key=lambda name: (name != _FIRST, name))
    if names:
        lines.append("configs:")
    for name in names:
        lines += [
            f"- config_name: {json.dumps(name)}",
            *(["  default: true"] if name == _FIRST else []),
            "  data_files:",
        ]
        lines += _files(store.manifest.tables[name])
    return [*lines, "---", ""]


def size_category(rows: int) -> str:
    """Return how many rows a dataset has, as hubs say it: ``n<1K``, ``1K<n<10K``, …, ``n>1T``."""
    if rows < _SIZES[0]:
        return "n<1K"
    for low, high in pairwise(_SIZES):
        if rows < high:
            return f"{_NAMES[low]}<n<{_NAMES.get(high, '1B')}"
    return "1B<n<10B"


def _largest(store: Store) -> int:
    """Return the rows of the table of questions, or of the largest feature if there is none."""
    if _FIRST in store.tables:
        return store.manifest.tables[_FIRST].rows
    return max((info.rows for info in store.features.values()), default=0)


def _differs(name: str) -> bool:
    """Return whether parts of a table may differ in type, so that they cannot be loaded as one."""
    return name in ("embeddings", "parses") or name.endswith("dictionary")


def _files(table: TableEntry) -> Iterator[str]:
    """Yield the files of a table by split. A split's name has only letters, digits and underscores."""
    taken: set[str] = set()
    for part, entry in sorted(table.parts.items()):
        split = re.sub(r"\W+", "_", part, flags=re.ASCII).strip("_") or "all"
        while split in taken:
            split += "_"
        taken.add(split)
        yield f"  - split: {json.dumps(split)}"
        yield "    path:"
        yield from (f"    - {json.dumps(file.path)}" for file in entry.files)
