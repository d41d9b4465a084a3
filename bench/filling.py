"""Stores rows that nothing was decoded for, through the same writer, index and commits as a real run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from stores.changes import Changes
from stores.commit import commit, place_shard
from stores.format import Receipt, Row, ShardWriter

ROWS_PER_SHARD = 4096


def fill(root: Path, rows: Mapping[tuple[str, str], Iterable[Row]], rows_per_shard: int = ROWS_PER_SHARD) -> None:
    """Store rows of one or more features, none of which is held longer than it takes to write it.

    Parameters
    ----------
    root
        A store, with the specs of the features.
    rows
        Name and spec digest of each feature to its rows. A commit has one shard of each that still has rows.
    rows_per_shard
        Rows of each shard but a feature's last.
    """
    waiting = {feature: iter(found) for feature, found in rows.items()}
    while True:
        changes = Changes(current=dict(rows.keys()))
        for (feature, spec_digest), left in waiting.items():
            if receipt := _write_shard(root, feature, spec_digest, islice(left, rows_per_shard)):
                changes.placed += place_shard(root, receipt)
                changes.shards.append(receipt)
        if not changes.shards:
            return
        commit(root, changes)


def _write_shard(root: Path, feature: str, spec_digest: str, rows: Iterator[Row]) -> Receipt | None:
    first = next(rows, None)
    if first is None:
        return None
    writer = ShardWriter(root, feature, spec_digest, {"device_type": "cpu"})
    for row in chain((first,), rows):
        writer.add(row)
    return writer.finish()
