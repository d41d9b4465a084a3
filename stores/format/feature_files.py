"""The open files of one feature: its index, its list of shards, and the shards that were asked for."""

from __future__ import annotations

from pathlib import Path

from ..errors import StoreDamageError
from . import layout, schemas
from .manifest import Manifest
from .receipts import read_receipt
from .segments import SegmentLog
from .shard import ShardReader


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

    def find(self, key: str) -> tuple[ShardReader, int] | None:
        """Return (shard, row in it) of a key, or None if the key has no row."""
        place = self._located.get(key)
        if place is None:
            record = self.index.get(layout.check_key(key))
            if record is None:
                return None
            place = self._located[key] = (self.reader(record["shard"]), record["row"])
        return place

    def close(self) -> None:
        """Close all shards."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._located.clear()
