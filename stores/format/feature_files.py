"""The open files of one feature: its index, its list of shards, and the shards that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ..errors import StoreDamageError
from . import layout, schemas
from .manifest import Manifest
from .receipts import read_receipt
from .segments import SegmentLog
from .shard import ShardReader

_REMEMBERED = 1 << 16
"""Places of this many keys are remembered: who asks for the values of a key asks for its mask next."""


class FeatureFiles:
    """The open files of one feature under one spec, in one process."""

    def __init__(self, root: Path, name: str, spec_digest: str, manifest: Manifest) -> None:
        entry = manifest.spec_entry(name, spec_digest)
        self.name = name
        self.spec_digest = spec_digest
        self.rows = entry.rows
        self.index = SegmentLog(root, entry.index, schemas.INDEX)
        self.shards = SegmentLog(root, entry.shards, schemas.SHARDS)
        self._directory = layout.feature_directory(root, name, spec_digest)
        self._readers: dict[bytes, ShardReader] = {}
        self._located: dict[str, tuple[ShardReader, int]] = {}

    def reader(self, shard: bytes) -> ShardReader:
        """Return a shard, opened on first use."""
        if shard not in self._readers:
            path = self._directory / f"{shard.hex()}.h5"
            receipt = read_receipt(path.with_suffix(".json"))
            if receipt.feature != self.name or receipt.spec_digest != self.spec_digest:
                owner = f"{receipt.feature}@{receipt.spec_digest[:8]}"
                raise StoreDamageError(f"{path}: its receipt belongs to {owner}; run `reelstore repair`")
            self._readers[shard] = ShardReader(path, receipt)
        return self._readers[shard]

    def find_all(self, keys: Sequence[str]) -> list[tuple[ShardReader, int] | None]:
        """Return (shard, row in it) of each key, or None for a key that has no row; all are looked up together."""
        places = [self._located.get(key) for key in keys]
        unknown = [at for at, place in enumerate(places) if place is None]
        records = self.index.lookup([layout.check_key(keys[at]) for at in unknown], ("shard", "row"))
        for at, record in zip(unknown, records, strict=True):
            if record is not None:
                places[at] = self._remember(keys[at], *record)
        return places

    def find(self, key: str) -> tuple[ShardReader, int] | None:
        """Return (shard, row in it) of a key, or None if the key has no row."""
        place = self._located.get(key)
        if place is None:
            record = self.index.get(layout.check_key(key))
            if record is None:
                return None
            place = self._remember(key, record["shard"], record["row"])
        return place

    def _remember(self, key: str, shard: bytes, row: int) -> tuple[ShardReader, int]:
        if len(self._located) >= _REMEMBERED:
            self._located.clear()
        place = self._located[key] = (self.reader(shard), row)
        return place

    def used_shards(self) -> pa.Array:
        """Return the ids of the shards that have a live row, ``[N] binary(16)``, in no particular order."""
        return self.index.table().column("shard").unique()

    def close(self) -> None:
        """Close all shards."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._located.clear()
