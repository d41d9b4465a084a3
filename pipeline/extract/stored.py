"""Reads what a store holds of a feature as columns, and compares it with the videos of a source."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.extract.carrying import OlderRow, differs_in_rules_alone, rows_of
from pipeline.extract.contents import Contents, Mask, Positions, as_mask
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_keys
from pipeline.extract.sources import Sources
from pipeline.extract.sources.columns import decoded, encoded_column
from stores.commit import Failure
from stores.format import Manifest, SegmentLog, feature_directory, schemas
from stores.format.segments import whole_column


@dataclass(frozen=True, slots=True)
class Selection:
    """What is stored for some keys under a feature's wanted spec, as Python objects.

    Attributes
    ----------
    feature
        The feature.
    rows
        Key to (cache key, shard).
    places
        Cache key to (shard, row), for shards that exist.
    shards
        Those of ``rows`` and ``places`` that exist.
    older
        Keys with rows under another spec.
    carriable
        By key, rows under specs that differ in rules and policies alone.
    failures
        By key.
    """

    feature: Feature
    rows: dict[str, tuple[bytes, bytes]]
    places: dict[bytes, tuple[bytes, int]]
    shards: set[bytes]
    older: set[str]
    carriable: dict[str, list[OlderRow]]
    failures: dict[str, Failure]


class StoredFeature:
    """What a version of a store holds of one feature.

    Parameters
    ----------
    root, manifest
        The store, and its version.
    feature
        The feature, with its wanted spec.
    """

    def __init__(self, root: Path, manifest: Manifest, feature: Feature) -> None:
        self.feature = feature
        self._root = root
        self._index = _index(root, manifest, feature.name, feature.spec_digest)
        directory = feature_directory(root, feature.name, feature.spec_digest)
        present = {name for name in directory.listing() if name.endswith(".h5")}
        named = self._index.column("shard").unique().to_pylist()
        self._shards = {shard for shard in named if f"{shard.hex()}.h5" in present}
        self._lost = pa.array(sorted(shard for shard in named if shard not in self._shards), pa.binary(16))
        stored = manifest.feature(feature.name)
        self._older = {
            spec_digest: _index(root, manifest, feature.name, spec_digest)
            for spec_digest in sorted(stored.specs if stored else {})
            if spec_digest != feature.spec_digest
        }
        failures = SegmentLog(root, manifest.failures, schemas.FAILURES).table()
        ours = pc.and_(
            pc.equal(failures.column("feature"), feature.name), pc.equal(failures.column("spec"), feature.spec_digest)
        )
        self.failures = {
            record["video_id"]: Failure.from_record(record) for record in failures.filter(ours).to_pylist()
        }
        self._failed = encoded_column(list(self.failures))

    @property
    def keys(self) -> pa.Array:
        """The keys with rows, sorted: large binary array."""
        return whole_column(self._index, "key")

    def are_known(self, keys: pa.Array, rows: Positions) -> Mask:
        """Return which keys have a row under any spec, or a failure; ``rows`` says where the index has them, or -1."""
        known = (rows >= 0) | as_mask(pc.is_in(keys, value_set=self._failed))
        for index in self._older.values():
            here = index.column("key").filter(pc.is_in(index.column("key"), value_set=keys))
            known |= as_mask(pc.is_in(keys, value_set=here.combine_chunks()))
        return known

    def are_stored(self, items: Sources, contents: Contents, rows: Positions) -> Mask:
        """Return which videos have the row that their content asks for, in a shard that is there, and no failure."""
        stored = (rows >= 0) & as_mask(contents.content_id.is_valid())
        if contents.unreadable:
            stored[list(contents.unreadable)] = False
        positions = pa.array(np.flatnonzero(stored))
        start_s, end_s = (items.column(name).take(positions) for name in ("start_s", "end_s"))
        wanted = cache_keys(contents.content_id.take(positions), start_s, end_s, self.feature.spec_digest)
        places = pa.array(rows[stored])
        present = pc.equal(whole_column(self._index, "cache_key").take(places), wanted)
        if len(self._lost):
            shards = whole_column(self._index, "shard").take(places)
            present = pc.and_(present, pc.invert(pc.is_in(shards, value_set=self._lost)))
        stored[stored] = as_mask(present)
        if len(self._failed):
            stored &= ~as_mask(pc.is_in(items.column("key"), value_set=self._failed))
        return stored

    def select(self, keys: pa.Array, rows: Positions, cache_keys: Collection[bytes]) -> Selection:
        """Return what is stored for some keys, and where rows with some cache keys lie.

        Parameters
        ----------
        keys
            Large binary array.
        rows
            Where the index has them, or -1.
        cache_keys
            Those that are wanted for these keys.
        """
        records = self._index.take(pa.array(rows[rows >= 0])).to_pylist()
        wanted = pa.array(sorted(set(cache_keys)), pa.binary(32))
        copies = self._index.filter(pc.is_in(self._index.column("cache_key"), value_set=wanted)).to_pylist()
        older: set[str] = set()
        carriable: dict[str, list[OlderRow]] = {}
        for spec_digest, index in self._older.items():
            here = index.filter(pc.is_in(index.column("key"), value_set=keys))
            older.update(map(decoded, here.column("key").to_pylist()))
            if here.num_rows and differs_in_rules_alone(self._root, spec_digest, self.feature):
                for key, row in rows_of(self._root, self.feature.name, spec_digest, here):
                    carriable.setdefault(key, []).append(row)
        return Selection(
            feature=self.feature,
            rows={decoded(record["key"]): (record["cache_key"], record["shard"]) for record in records},
            places={
                record["cache_key"]: (record["shard"], record["row"])
                for record in copies
                if record["shard"] in self._shards
            },
            shards=self._shards,
            older=older,
            carriable=carriable,
            failures=self.failures,
        )

    def keys_without(self, rows: Positions) -> pa.Array:
        """Return the keys whose rows are not among these."""
        left = np.ones(len(self.keys), bool)
        left[rows[rows >= 0]] = False
        return self.keys.filter(pa.array(left))

    def failures_outside(self, items: Sources) -> list[str]:
        """Return the keys with failures that are not among the videos of a source."""
        keys = items.column("key")
        present = set(map(decoded, keys.filter(pc.is_in(keys, value_set=self._failed)).to_pylist()))
        return [key for key in self.failures if key not in present]


def find_rows(keys: pa.Array, stored: list[StoredFeature]) -> list[Positions]:
    """Return for each feature where its index has these keys, or -1; features of one store often have the same keys."""
    found: list[tuple[pa.Array, Positions]] = []
    for feature in stored:
        same = next((rows for known, rows in found if known.equals(feature.keys)), None)
        if same is None and feature.keys.equals(keys):
            same = np.arange(len(keys))
        if same is None:
            same = np.asarray(pc.index_in(keys, value_set=feature.keys).fill_null(-1)).astype(np.int64)
        found.append((feature.keys, same))
    return [rows for _, rows in found]


def _index(root: Path, manifest: Manifest, feature: str, spec_digest: str) -> pa.Table:
    return SegmentLog(root, manifest.spec_entry(feature, spec_digest).index, schemas.INDEX).table()
