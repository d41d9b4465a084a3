"""Tells which dictionaries no longer match what they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shared.members import current_members
from stores import Store
from stores.commit import Changes, commit
from stores.describe import StoredDictionary, stored_dictionaries

_LISTED = 20  # changes that are named in the manifest, so that it stays small

Place = tuple[str, str]
"""A table and a part of it."""


def stale_members(store: Store) -> dict[Place, tuple[str, ...]]:
    """Return what changed since each dictionary was made, as ``added <key>``, ``changed <key>``, ``removed <key>``.

    A dictionary without an entry is up to date. The first 20 changes are named, the rest are counted.
    """
    stale = {}
    for dictionary in stored_dictionaries(store):
        if changes := dictionary_changes(store, dictionary):
            more = len(changes) - _LISTED
            listed = (*changes[:_LISTED], *([f"… and {more} more"] if more > 0 else []))
            stale[dictionary.table, dictionary.part] = listed
    return stale


def mark_stale(root: Path) -> dict[Place, tuple[str, ...]]:
    """Bring the latest manifest's list of stale dictionaries up to date and return it; commit only if it differs.

    Call this after anything that may have changed a question, a graph or a feature row. It looks again after its own
    commit, since another writer may have rebuilt a dictionary in between.
    """
    while True:
        with Store.open(root, lease=False) as store:
            stale = stale_members(store)
            differing: dict[Place, tuple[str, ...] | None] = {}
            for dictionary in stored_dictionaries(store):
                place = (dictionary.table, dictionary.part)
                if store.stale(*place) != stale.get(place, ()):
                    differing[place] = stale.get(place)
        if not differing:
            return stale
        commit(root, Changes(stale=differing))


def dictionary_changes(store: Store, dictionary: StoredDictionary) -> list[str]:
    """Return every difference between a dictionary's members and what they would be now; empty if there is none."""
    spec = dictionary.spec
    if spec["kind"] == "visual":
        info = store.features.get(spec["feature"])
        if info is None:
            return [f"feature {spec['feature']} is no longer in the store"]
        if info.spec_digest != spec["feature_spec"]:
            return [f"feature {spec['feature']} now has the spec {info.spec_digest[:8]}"]
    stored = stored_digests(store, dictionary)
    if stored is None:
        return ["the list of its members is lost"]
    return differences(stored, current_members(store, spec).table)


def stored_digests(store: Store, dictionary: StoredDictionary) -> pa.Table | None:
    """Return ``key`` and ``digest`` of the members that a dictionary was made of; None if their table is lost."""
    if dictionary.members not in store.tables or dictionary.part not in store.parts(dictionary.members):
        return None
    members = store.table(dictionary.members, dictionary.part).select(["key", "digest"])
    keys = members.column("key")  # sorted; a video stands there once per step
    is_first = np.ones(len(keys), np.bool_)
    is_first[1:] = pc.not_equal(keys.slice(1), keys.slice(0, max(len(keys) - 1, 0))).to_numpy()
    return members.filter(pa.array(is_first))


def differences(before: pa.Table, after: pa.Table) -> list[str]:
    """List the keys that were added, changed or removed between two tables of ``key`` and ``digest``, sorted by key.

    Each table has a key once; their order does not matter.
    """
    keys, digests = after.column("key").combine_chunks(), after.column("digest")
    place = pc.index_in(before.column("key"), keys)
    is_changed = pc.not_equal(before.column("digest"), digests.take(place))  # null for a key that is gone
    is_removed, is_added = pc.is_null(place), pc.invert(pc.is_in(keys, before.column("key").combine_chunks()))
    parts = (
        ("added", keys.filter(is_added)),
        ("changed", before.column("key").filter(is_changed)),
        ("removed", before.column("key").filter(is_removed)),
    )
    lines = pa.concat_tables(
        [pa.table({"key": found, "line": pc.binary_join_element_wise(what, found, " ")}) for what, found in parts]
    )
    listed: list[str] = lines.sort_by("key").column("line").to_pylist()
    return listed
