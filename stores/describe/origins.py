"""Which file a row was computed from: found by what the store knows of its sources, proven by its bytes.

A row is named by its cache key, which is the digest of the file's content id, of the clip's bounds and of the spec
(``docs/format.md`` section 8.5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from ..format import ShardReader, schemas
from ..format.segments import SegmentLog
from ..store import Store

MOST_DIGESTS = 2_000_000
"""Digests that are computed to find the sources of clips, whose names depend on their bounds: a few seconds."""
_Bounds = tuple[float | None, float | None]
_WHOLE: _Bounds = (None, None)


@dataclass(frozen=True, slots=True)
class RowName:
    """What names the content of one row: its cache key, the spec, and the bounds that its clip may have been given."""

    spec_digest: str
    cache_key: bytes
    bounds: tuple[_Bounds, ...]

    @classmethod
    def find(cls, store: Store, features: Iterable[str], key: str) -> Self | None:
        """Return the name of the row of the first of the features that has one for the key; None if none has."""
        for feature in features:
            if (feature, key) in store:
                reader, row = locate(store, feature, key)
                start, seconds = reader.clip(row)
                # The bounds as they were given: a clip may have either, both or none.
                ends = (None, start + seconds, round(start + seconds, 3), round(start + seconds, 6))
                bounds = tuple((first, last) for first in dict.fromkeys((None, start)) for last in dict.fromkeys(ends))
                return cls(store.spec_digest(feature), reader.cache_key(row), bounds)
        return None

    def is_from(self, content_id: str) -> bool:
        """Return whether the row was computed from bytes of this SHA-256."""
        return any(cache_key(content_id, bounds, self.spec_digest) == self.cache_key for bounds in self.bounds)


@dataclass(frozen=True, slots=True)
class Origin:
    """A source as the store knows it: its URI, and size and SHA-256 of the bytes that were read from it."""

    uri: str
    size: int
    content_id: str


def locate(store: Store, feature: str, key: str) -> tuple[ShardReader, int]:
    """Return the shard that holds a row, and its position there.

    Raises
    ------
    MissingKeyError
        If the feature has no row of the key.
    """
    path, row = store.place(feature, key)
    return store.shard(feature, PurePath(path).stem), row


def cache_key(content_id: str, bounds: _Bounds, spec_digest: str) -> bytes:
    """Return the name of the row that a spec computes from some bytes between two seconds; 32 bytes."""
    shown = ", ".join("null" if bound is None else repr(float(bound)) for bound in bounds)
    return hashlib.sha256(f'["{content_id}", {shown}, "{spec_digest}"]'.encode()).digest()


def find_origins(store: Store, keys: Sequence[str], features: Sequence[str] = ()) -> dict[str, list[Origin]]:
    """Return the sources from which the rows of some keys were computed, in the order of their URIs' bytes.

    A key whose bytes the store does not know, as that of imported rows, has none. All whole videos are found in one
    pass over the sources; clips are looked up one by one as long as this takes at most ``MOST_DIGESTS`` digests.

    Parameters
    ----------
    store
        The store.
    keys
        Video keys.
    features
        The features whose rows say which file it is, in this order; after them, all others of the store.
    """
    order = [*dict.fromkeys([*features, *store.features])]
    names = {key: name for key in keys if (name := RowName.find(store, order, key)) is not None}
    if not names:
        return {}
    table = SegmentLog(store.path, store.manifest.sources, schemas.SOURCES).table()
    contents = [content for content in table.column("content_id").unique().to_pylist() if content]
    found = dict(_content_of(names, contents))
    matching = table.filter(
        pc.is_in(table.column("content_id"), value_set=pa.array(sorted({*found.values()}), pa.string()))
    )
    origins: dict[str, list[Origin]] = {}
    for record in matching.to_pylist():
        origin = Origin(record["key"].decode("utf-8", "surrogateescape"), record["size"], record["content_id"])
        origins.setdefault(origin.content_id, []).append(origin)
    return {key: origins[content] for key, content in found.items()}


def _content_of(names: dict[str, RowName], contents: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each key whose content is known, with it."""
    wanted: dict[tuple[str, bytes], list[str]] = {}
    for key, name in names.items():
        wanted.setdefault((name.spec_digest, name.cache_key), []).append(key)
    specs = sorted({name.spec_digest for name in names.values()})
    found = set()
    for content in contents:
        for spec in specs:
            for key in wanted.get((spec, cache_key(content, _WHOLE, spec)), ()):
                found.add(key)
                yield key, content
    left = MOST_DIGESTS
    for key, name in names.items():
        if key in found:
            continue
        left -= len(contents) * len(name.bounds)
        if left < 0:
            return
        if (content_id := next(filter(name.is_from, contents), None)) is not None:
            yield key, content_id
