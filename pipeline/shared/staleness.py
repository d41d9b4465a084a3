"""Tells which dictionaries no longer match what they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
    return differences(stored, current_members(store, spec).digests)


def stored_digests(store: Store, dictionary: StoredDictionary) -> dict[str, str] | None:
    """Return key to digest of the members that a dictionary was made of; None if their table is lost."""
    if dictionary.members not in store.tables or dictionary.part not in store.parts(dictionary.members):
        return None
    members = store.table(dictionary.members, dictionary.part)
    return dict(zip(members.column("key").to_pylist(), members.column("digest").to_pylist(), strict=True))


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """List the keys that were added, changed or removed between two mappings of key to digest, sorted by key."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            lines.append(f"removed {key}")
        elif key not in before:
            lines.append(f"added {key}")
        elif before[key] != after[key]:
            lines.append(f"changed {key}")
    return lines
