"""Compaction: merge many small shards into a few full ones without changing rows, digests or numerics.

A store that grows by single videos collects shards of one row. Compaction copies their rows into new shards, in the
order of their keys, and moves the index over in one commit per group of shards. Readers of older versions keep the old
files until ``gc`` removes them.

With a threshold ``above``, small shards are merged by size class, so that doing it after every change stays cheap. The
size class of a shard with ``r`` live rows is ``floor(log(r) / log(above + 1))``. If more than ``above`` small shards
have one class, they are merged with those of all lower classes, which makes a shard of a higher class. So at most
``above`` small shards of each class remain, and a row is copied at most once for each class (but for rows that are left
over when a merge fills a shard).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..commit import Changes, Placed, check_identity, commit, place_shard
from ..errors import StoreDamageError, StoreError
from ..format import layout, schemas
from ..format.indexed import IndexedRow, IndexedRows, rows_by_shard
from ..format.inside import Root, StorePath
from ..format.manifest import FeatureEntry, load
from ..format.receipts import read_receipt
from ..format.rounding import RoundingError, pooled
from ..format.rows import Receipt
from ..format.segments import SegmentLog
from ..format.shard import SHARD_MB, SHARD_ROWS, ShardReader, ShardWriter
from ..progress import Progress, followed, silent

_FULL_ENOUGH = 0.5
"""A shard at least this full, by size or rows, is left as it is."""


@dataclass(slots=True)
class Compaction:
    """Result of ``compact``. ``gc`` frees the ``bytes_before`` once no kept version names them.

    Of a plan, ``bytes_after`` is 0: it is known once the shards are written.
    """

    version: int
    shards_before: int = 0
    shards_after: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    """A stored row and the keys that the index gives it; the new shard stores it under the first of them."""

    reader: ShardReader
    row: int
    keys: tuple[str, ...]
    cache_key: bytes


@dataclass(frozen=True, slots=True)
class _Small:
    """A small shard and its live rows."""

    reader: ShardReader
    rows: list[_Row]

    @property
    def dead(self) -> int:
        """Rows that no key points at any more."""
        return self.reader.receipt.rows - len(self.rows)


def compact(
    root: Root,
    shard_mb: float = SHARD_MB,
    shard_rows: int = SHARD_ROWS,
    above: int | None = None,
    plan_only: bool = False,
    progress: Progress = silent,
) -> Compaction:
    """Rewrite the small shards, and those with many dead rows, of every feature's current spec.

    A key that another writer moves or removes in the meantime stays as that writer left it.

    Parameters
    ----------
    root
        The store.
    shard_mb, shard_rows
        Size in megabytes (10^6 bytes) and number of rows of a full shard.
    above
        Merge only size classes with more than this number of shards (at least 1), and leave dead rows alone; by
        default, everything that makes fewer shards or frees dead rows.
    plan_only
        Report what would be rewritten, and write nothing.
    progress
        Told of the rows of each group of shards.

    Raises
    ------
    StoreError
        If ``above`` is less than 1.
    StoreDamageError
        If a row to be copied is damaged; run ``repair`` first.
    """
    if above is not None and above < 1:
        raise StoreError(f"above={above}: the number of small shards that may stay is at least 1")
    root = check_identity(root)
    manifest = load(root)
    outcome = Compaction(manifest.version)
    for name, feature in sorted(manifest.features.items()):
        for numerics, group in _groups(root, name, feature, shard_mb * 1e6, shard_rows):
            chosen = _worthwhile(group) if above is None else _crowded(group, above)
            if not chosen:
                continue
            rows = sorted((row for shard in chosen for row in shard.rows), key=lambda row: row.keys[0].encode())
            outcome.rows += len(rows)
            outcome.shards_before += len(chosen)
            outcome.bytes_before += sum(shard.reader.receipt.bytes for shard in chosen)
            if plan_only:
                outcome.shards_after += _shards_of(rows, shard_mb * 1e6, shard_rows)
                continue
            changes = Changes()
            for receipt, placed in _rewritten(
                root, name, feature.current, numerics, rows, shard_mb * 1e6, shard_rows, progress
            ):
                changes.shards.append(receipt)
                changes.placed += placed
            outcome.version = commit(root, changes).version
            outcome.shards_after += len(changes.shards)
            outcome.bytes_after += sum(receipt.bytes for receipt in changes.shards)
    return outcome


def _worthwhile(group: list[_Small]) -> list[_Small]:
    """Return all shards of a group if rewriting them makes fewer shards or frees dead rows."""
    return group if len(group) > 1 or any(shard.dead for shard in group) else []


def _crowded(group: list[_Small], above: int) -> list[_Small]:
    """Return the shards of the highest size class that has too many, and of all classes below it."""
    by_class: dict[int, list[_Small]] = {}
    for shard in group:
        by_class.setdefault(_size_class(len(shard.rows), above + 1), []).append(shard)
    chosen: list[_Small] = []
    waiting: list[_Small] = []
    for size_class, shards in sorted(by_class.items()):
        merged = bool(chosen) and _size_class(sum(len(shard.rows) for shard in chosen), above + 1) == size_class
        waiting += shards
        if len(shards) + merged > above:
            chosen, waiting = [*chosen, *waiting], []
    return chosen


def _size_class(rows: int, base: int) -> int:
    """Return ``floor(log(rows) / log(base))``, exactly."""
    size_class = 0
    while rows >= base:
        rows, size_class = rows // base, size_class + 1
    return size_class


def _groups(
    root: StorePath, name: str, feature: FeatureEntry, full_bytes: float, full_rows: int
) -> Iterator[tuple[str, list[_Small]]]:
    """Yield (numerics, small shards) whose rows may share a shard: equal step shape, dtype and set of columns."""
    entry = feature.specs[feature.current]
    indexed = rows_by_shard(SegmentLog(root, entry.index, schemas.INDEX).table())
    groups: dict[tuple[str, str], list[_Small]] = {}
    for record in SegmentLog(root, entry.shards, schemas.SHARDS):
        rows = indexed.get(record["key"])
        live = 0 if rows is None else len(np.unique(rows.numbers))
        filled = live / record["rows"] * max(record["bytes"] / full_bytes, record["rows"] / full_rows)
        if rows is None or filled >= _FULL_ENOUGH:
            continue
        path = layout.feature_directory(root, name, feature.current) / f"{record['key'].hex()}.h5"
        receipt = read_receipt(path.with_suffix(".json"))
        reader = ShardReader(path, receipt)
        numerics = layout.canonical_json(receipt.numerics).decode()
        groups.setdefault((numerics, _form(receipt)), []).append(_Small(reader, _rows(reader, rows)))
    for (numerics, _), group in sorted(groups.items(), key=lambda named: named[0]):
        yield numerics, group


def _form(receipt: Receipt) -> str:
    """Describe what all rows of a shard share: dtype and shape of a step, and whether they have published times."""
    values = receipt.datasets["values"]
    step = values.shape[1 if receipt.ragged else 2 :]
    return f"{values.dtype}{list(step)} {'published_time_s' in receipt.datasets}"


def _rows(reader: ShardReader, rows: IndexedRows) -> list[_Row]:
    by_row: dict[int, list[IndexedRow]] = {}
    for row in rows:
        by_row.setdefault(row.row, []).append(row)
    return [
        _Row(reader, number, tuple(sorted((row.key for row in same), key=str.encode)), same[0].cache_key)
        for number, same in sorted(by_row.items())
    ]


def _rewritten(
    root: StorePath,
    name: str,
    spec_digest: str,
    numerics: str,
    rows: list[_Row],
    full_bytes: float,
    full_rows: int,
    progress: Progress,
) -> Iterator[tuple[Receipt, list[Placed]]]:
    """Copy rows into new shards."""
    writer = ShardWriter(root, name, spec_digest, json.loads(numerics))
    copied: list[_Row] = []
    try:
        for row in followed(rows, name, progress):
            if not row.reader.row_is_sound(row.row):
                raise StoreDamageError(f"{row.reader.path}: key {row.keys[0]!r} is damaged; run `reelstore repair`")
            writer.add(row.reader.row(row.row, row.keys[0], row.cache_key))
            copied.append(row)
            if writer.bytes >= full_bytes or len(writer) >= full_rows or row is rows[-1]:
                receipt = writer.finish(_rounding(copied))
                yield receipt, _moved(root, receipt, copied)
                writer, copied = ShardWriter(root, name, spec_digest, json.loads(numerics)), []
    finally:
        writer.discard()


def _shards_of(rows: list[_Row], full_bytes: float, full_rows: int) -> int:
    """Return how many shards ``_rewritten`` makes of rows."""
    shards, size, count = 0, 0, 0
    for row in rows:
        size, count = size + row.reader.values(row.row).nbytes, count + 1
        if size >= full_bytes or count >= full_rows or row is rows[-1]:
            shards, size, count = shards + 1, 0, 0
    return shards


def _rounding(rows: list[_Row]) -> dict[str, RoundingError]:
    """Pool the measured errors of the shards that rows come from."""
    sources = {row.reader.receipt.id: row.reader.receipt.rounding for row in rows}
    kinds = sorted({kind for errors in sources.values() for kind in errors})
    return {kind: pooled([errors[kind] for errors in sources.values() if kind in errors]) for kind in kinds}


def _moved(root: StorePath, receipt: Receipt, rows: list[_Row]) -> list[Placed]:
    """Return the index records of copied rows, each with the place that it was copied from."""
    before = {key: (row.reader.receipt.id, row.row) for row in rows for key in row.keys}
    placed = place_shard(root, receipt, {row.keys[0]: row.keys[1:] for row in rows})
    return [replace(row, moved_from=before[row.key]) for row in placed]
