"""Writes computed rows into shards: one open shard per feature and numerics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.extract.units import ComputedRow, RunContext
from stores.commit import SourceRecord
from stores.format.rounding import RoundingError, pooled_by_kind
from stores.format.rows import Receipt
from stores.format.shard import ShardWriter


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A published shard that no manifest names yet, and what the commit needs besides its receipt.

    Attributes
    ----------
    receipt
        Receipt of the shard.
    aliases
        Key of the shard to further keys with the same bytes and clip bounds.
    sources
        The files that its rows were computed from.
    """

    receipt: Receipt
    aliases: Mapping[str, tuple[str, ...]]
    sources: tuple[SourceRecord, ...]


@dataclass(slots=True)
class _OpenShard:
    """A shard that is being written, and what its ``FinishedShard`` will need."""

    writer: ShardWriter
    opened: float
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sources: list[SourceRecord] = field(default_factory=list)
    rounding: dict[str, list[RoundingError]] = field(default_factory=dict)


class ShardSet:
    """The open shards of one writer. Rows of different numerics never share a shard.

    Parameters
    ----------
    context
        The context of the run.
    shard_mb, shard_rows
        Size in MB and number of rows at which a shard is full.
    max_age_s
        Age in seconds at which a shard is published, full or not.
    """

    def __init__(self, context: RunContext, shard_mb: float, shard_rows: int, max_age_s: float) -> None:
        self._context = context
        self._bytes = int(shard_mb * 1e6)
        self._rows = shard_rows
        self._age = max_age_s
        self._open: dict[tuple[str, str], _OpenShard] = {}

    def add(self, computed: ComputedRow) -> None:
        """Write one row into the open shard of its feature and numerics."""
        identity = (computed.feature, json.dumps(computed.numerics, sort_keys=True))
        if identity not in self._open:
            spec_digest = self._context.features[computed.feature].spec_digest
            writer = ShardWriter(self._context.store, computed.feature, spec_digest, computed.numerics)
            self._open[identity] = _OpenShard(writer, time.monotonic())
        shard = self._open[identity]
        shard.writer.add(computed.row)
        if computed.aliases:
            shard.aliases[computed.row.key] = computed.aliases
        shard.sources.append(computed.source)
        for kind, error in computed.rounding.items():
            shard.rounding.setdefault(kind, []).append(error)

    def finish_due(self) -> Iterator[FinishedShard]:
        """Publish shards that are full or old."""
        now = time.monotonic()
        for identity, shard in list(self._open.items()):
            writer = shard.writer
            if writer.bytes >= self._bytes or len(writer) >= self._rows or now - shard.opened >= self._age:
                yield self._finish(identity)

    def finish_all(self) -> Iterator[FinishedShard]:
        """Publish every open shard."""
        for identity in list(self._open):
            yield self._finish(identity)

    def _finish(self, identity: tuple[str, str]) -> FinishedShard:
        shard = self._open.pop(identity)
        receipt = shard.writer.finish(pooled_by_kind(shard.rounding))
        return FinishedShard(receipt, dict(shard.aliases), tuple(dict.fromkeys(shard.sources)))

    def discard(self) -> None:
        """Drop the rows that were not published."""
        for shard in self._open.values():
            shard.writer.discard()
        self._open.clear()
