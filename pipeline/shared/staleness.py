"""Tells which derived tables no longer match what they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.shared.members import current_members
from stores import Store
from stores.commit import Changes, commit
from stores.describe import KINDS, MEMBERS, dictionary_spec

DICTIONARIES = tuple(f"{kind}_dictionary" for kind in KINDS)
_LISTED = 20  # changes that are named in the manifest, so that it stays small


def stale_members(store: Store) -> dict[str, tuple[str, ...]]:
    """Return what changed since each dictionary was made, as ``added <key>``, ``changed <key>``, ``removed <key>``.

    A dictionary without an entry is up to date. The first 20 changes are named, the rest are counted.
    """
    stale = {}
    for name in DICTIONARIES:
        if name in store.tables and (changes := dictionary_changes(store, name)):
            more = len(changes) - _LISTED
            stale[name] = (*changes[:_LISTED], *([f"… and {more} more"] if more > 0 else []))
    return stale


def mark_stale(root: Path) -> dict[str, tuple[str, ...]]:
    """Bring the latest manifest's list of stale dictionaries up to date and return it; commit only if it differs.

    Call this after anything that may have changed a question, a graph or a feature row. It looks again after its own
    commit, since another writer may have rebuilt the dictionary in between.
    """
    while True:
        with Store.open(root, lease=False) as store:
            stale = stale_members(store)
            present = [name for name in DICTIONARIES if name in store.tables]
            differing: dict[str, tuple[str, ...] | None] = {
                name: stale.get(name) for name in present if store.stale(name) != stale.get(name, ())
            }
        if not differing:
            return stale
        commit(root, Changes(stale=differing))


def dictionary_changes(store: Store, name: str) -> list[str]:
    """Return every difference between a dictionary's members and what they would be now; empty if there is none."""
    spec = dictionary_spec(store, name.removesuffix("_dictionary"))
    if spec["kind"] == "visual":
        info = store.features.get(spec["feature"])
        if info is None:
            return [f"feature {spec['feature']} is no longer in the store"]
        if info.spec_digest != spec["feature_spec"]:
            return [f"feature {spec['feature']} now has the spec {info.spec_digest[:8]}"]
    return differences(stored_digests(store, name), current_members(store, spec).digests)


def stored_digests(store: Store, name: str) -> dict[str, str]:
    """Return key to digest of the members that a dictionary was made of."""
    members = store.table(name + MEMBERS)
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
