"""The open files of one feature: its index, its list of shards, and the shards that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import StoreDamageError
from . import layout, schemas
from .holdings import Holding, shard_holdings
from .inside import Root, StorePath
from .manifest import Manifest
from .receipts import read_receipt
from .rows import Array
from .segments import SegmentLog
from .shard import ShardReader

_REMEMBERED = 1 << 16
"""Places of this many keys are remembered: who asks for the values of a key asks for its mask next."""


@dataclass(frozen=True, slots=True)
class Places:
    """Places of the rows of many keys: key ``i`` has row ``row[i]`` of shard ``shards[shard[i]]``.

    Attributes
    ----------
    shards
        Ids of the shards, in hex.
    shard, row
        ``[len(keys)] int32``; both are -1 for a key that has no row.
    """

    shards: tuple[str, ...]
    shard: Array
    row: Array


def _checked_keys(keys: Sequence[str] | pa.Array) -> pa.Array:
    """Return keys as ``large_binary``; raise as ``check_key`` does if one of them is not acceptable."""
    try:
        raw = pa.array(keys, pa.string()).cast(pa.large_binary())
    except (UnicodeEncodeError, pa.ArrowInvalid):  # not valid Unicode, which ``check_key`` says better
        return pa.array([layout.check_key(key) for key in keys], pa.large_binary())
    lengths = pc.min_max(pc.binary_length(raw)).as_py()
    shortest, longest = lengths["min"], lengths["max"]
    if len(raw) and (shortest == 0 or longest > layout.MAX_KEY_BYTES or pc.any(pc.match_substring(raw, "\0")).as_py()):
        return pa.array([layout.check_key(key) for key in raw.cast(pa.string()).to_pylist()], pa.large_binary())
    return raw


Bring = Callable[[Sequence[Holding]], None]
"""Sees to it that files of a store are there, which may lie elsewhere until they are asked for."""


class FeatureFiles:
    """The open files of one feature under one spec, in one process."""

    def __init__(self, root: Root, name: str, spec_digest: str, manifest: Manifest, bring: Bring | None = None) -> None:
        entry = manifest.spec_entry(name, spec_digest)
        self.name = name
        self.spec_digest = spec_digest
        self.rows = entry.rows
        self.index = SegmentLog(root, entry.index, schemas.INDEX)
        self.shards = SegmentLog(root, entry.shards, schemas.SHARDS)
        self._root = StorePath.of(root)
        self._bring = bring
        self._directory = layout.feature_directory(root, name, spec_digest)
        self._readers: dict[bytes, ShardReader] = {}
        self._located: dict[str, tuple[ShardReader, int]] = {}

    def reader(self, shard: bytes) -> ShardReader:
        """Return a shard, opened on first use."""
        if shard not in self._readers:
            path = self._directory / f"{shard.hex()}.h5"
            if self._bring is not None and (record := self.shards.get(shard)) is not None:
                self._bring(shard_holdings(self._root, self.name, self.spec_digest, shard, record))
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
        reader = self.reader(shard)
        reader.check_row(row)
        place = self._located[key] = (reader, row)
        return place

    def places(self, keys: Sequence[str] | pa.Array) -> Places:
        """Find the rows of many keys in one pass over the index, without opening a shard."""
        index = self.index.table()
        positions = pc.index_in(_checked_keys(keys), value_set=index.column("key").combine_chunks())
        shard = index.column("shard").combine_chunks().take(positions).dictionary_encode()
        return Places(
            tuple(identity.hex() for identity in shard.dictionary.to_pylist()),
            shard.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32),
            index.column("row").combine_chunks().take(positions).fill_null(-1).to_numpy(zero_copy_only=False),
        )

    def numerics(self) -> list[str]:
        """Return the distinct numerics of the shards that have a live row, as JSON, sorted."""
        texts: list[str] = self.shards.distinct("numerics")
        if len(texts) < 2:  # else shards whose rows were all replaced do not count
            return texts
        shards = self.shards.table()
        used = self.index.table().column("shard").unique()
        shards = shards.filter(pc.is_in(shards.column("key").cast(pa.binary(16)), value_set=used))
        return sorted(shards.column("numerics").unique().to_pylist())

    def close(self) -> None:
        """Close all shards."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._located.clear()
