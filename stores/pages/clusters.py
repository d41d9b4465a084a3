"""Dictionaries: their clusters with the questions or frames nearest to the centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..describe.dictionaries import describe_dictionary, stored_dictionaries
from ..store import Store

_COLUMNS = {"cluster", "count", "empty"}
NEAREST = 4
"""Members shown of a cluster."""
PICTURED = 12
"""Clusters of a visual dictionary, the largest, whose nearest frames are shown as pictures."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A second of a video."""

    key: str
    time_s: float


def describe(store: Store) -> list[dict[str, Any]]:
    """Return the dictionaries of a store: what the pages show of each, its clusters the largest first.

    A table of that name which another program wrote, without the columns of a dictionary, is left out.
    """
    found = []
    for stored in stored_dictionaries(store):
        if not _COLUMNS.issubset(store.table(stored.table, stored.part).column_names):
            continue
        described = describe_dictionary(store, stored, nearest=NEAREST)
        clusters = sorted(described["clusters"], key=lambda cluster: (-cluster["count"], cluster["cluster"]))
        sizes = [cluster["count"] for cluster in clusters]
        found.append(
            {
                "kind": stored.kind,
                "name": stored.name,
                "spec": stored.spec,
                "stale": described["stale"],
                "members": described["members"],
                "clusters": clusters,
                "empty": sum(cluster["empty"] for cluster in clusters),
                "sizes": sizes,
                "feature": stored.spec.get("feature"),
            }
        )
    return found


def moments(dictionaries: Sequence[dict[str, Any]]) -> list[Moment]:
    """Return the frames that are shown of visual dictionaries, each once, in the order of the pages."""
    return list(
        dict.fromkeys(
            Moment(member["video_id"], member["time_s"])
            for dictionary in dictionaries
            if dictionary["kind"] == "visual"
            for cluster in dictionary["clusters"][:PICTURED]
            for member in cluster["nearest"]
        )
    )
