"""Confounder dictionaries, for a person or an exporter.

A dictionary is one part of two tables, named by what it is made of: ``<dataset>/<split>``, and ``/<feature>`` if it
is visual. In ``<kind>_dictionary`` the part has one row per cluster (cluster, center, mean, count, empty), in
``<kind>_dictionary_members`` one row per member (key, step, time_s, cluster, distance, digest). The first release had
one dictionary of each kind, in the part ``""``; what a dictionary is made of is therefore read from its spec.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import MissingKeyError
from ..format.layout import MEMBERS
from ..format.receipts import read_spec
from ..joins import rows_of_split
from ..store import Store
from ..wording import available

DictionaryKind = Literal["linguistic", "visual"]
KINDS: tuple[DictionaryKind, ...] = get_args(DictionaryKind)
"""Kinds of dictionaries: ``linguistic`` (clusters of question graphs) and ``visual`` (clusters of frames)."""
RECORD = b"reelstore.record"
"""Metadata key of the table of clusters: what its bytes depend on besides the members and the spec."""


@final
class VisualMember(TypedDict):
    """A step of a video in a cluster."""

    video_id: str
    step: int
    time_s: float
    distance: float


@final
class LinguisticMember(TypedDict):
    """A question in a cluster. ``question`` is None if a later run removed it."""

    question_id: str
    question: str | None
    answer: str | None
    distance: float


class ClusterDescription(TypedDict):
    """A cluster, and the members nearest to its centre."""

    cluster: int
    count: int
    empty: bool
    nearest: list[VisualMember] | list[LinguisticMember]


class DictionaryDescription(TypedDict):
    """A dictionary. ``stale`` lists the inputs that have changed since it was built."""

    dictionary: str
    part: str
    version: int
    spec: dict[str, Any]
    record: dict[str, Any]
    stale: list[str]
    members: int
    clusters: list[ClusterDescription]


@dataclass(frozen=True, slots=True)
class StoredDictionary:
    """A dictionary of a store.

    Attributes
    ----------
    kind
        ``linguistic`` or ``visual``.
    part
        The part of its two tables.
    spec
        Its complete spec.
    """

    kind: DictionaryKind
    part: str
    spec: Mapping[str, Any]

    @property
    def table(self) -> str:
        """Name of the table of its clusters."""
        return f"{self.kind}_dictionary"

    @property
    def members(self) -> str:
        """Name of the table of its members."""
        return self.table + MEMBERS

    @property
    def name(self) -> str:
        """What it is made of, ``<dataset>/<split>`` and ``/<feature>`` if it is visual."""
        return dictionary_name(self.spec["dataset"], self.spec["split"], self.spec.get("feature"))

    def __str__(self) -> str:
        return f"the {self.kind} dictionary {self.name}"


def dictionary_name(dataset: str, split: str, feature: str | None) -> str:
    """Return the name of the part that holds a dictionary."""
    return "/".join([dataset, split, *([feature] if feature is not None else [])])


def stored_dictionaries(store: Store, kind: str | None = None) -> list[StoredDictionary]:
    """Return the dictionaries of a store, or those of one kind, by kind and name."""
    return [
        StoredDictionary(known, part, read_spec(store.path, entry.spec_digest))
        for known in KINDS
        if kind in (None, known) and f"{known}_dictionary" in store.tables
        for part, entry in store.parts(f"{known}_dictionary").items()
    ]


def find_dictionary(store: Store, kind: str, name: str | None = None) -> StoredDictionary:
    """Return the dictionary of a kind that has this name, or the only one if no name is given.

    Raises
    ------
    MissingKeyError
        If there is none, or no name is given and there are several.
    """
    stored = stored_dictionaries(store, kind)
    found = [one for one in stored if name in (None, one.name)]
    if len(found) == 1:
        return found[0]
    listed = available([one.name for one in stored])
    if found:
        raise MissingKeyError(
            f"{store.path}: several {kind} dictionaries in version {store.version} ({listed}); name one"
        )
    what = f"{kind} dictionary" if name is None else f"{kind} dictionary {name!r}"
    raise MissingKeyError(
        f"{store.path}: no {what} in version {store.version} ({listed}); make one with jobs/cluster.py in the checkout"
    )


def describe_dictionary(
    store: Store, dictionary: StoredDictionary, cluster: int | None = None, nearest: int = 5
) -> DictionaryDescription:
    """Describe a dictionary: its spec and, for each cluster, the members nearest to its centre.

    Parameters
    ----------
    store
        The store.
    dictionary
        The dictionary, from ``find_dictionary``.
    cluster
        Describe this cluster only.
    nearest
        Number of members per cluster.

    Raises
    ------
    MissingKeyError
        If there is no such cluster.
    """
    kind, spec = dictionary.kind, dictionary.spec
    table = store.table(dictionary.table, dictionary.part)
    clusters = table.select(["cluster", "count", "empty"])
    if cluster is not None:
        if not 0 <= cluster < table.num_rows:
            last = table.num_rows - 1
            raise MissingKeyError(f"{store.path}: {kind} dictionary: no cluster {cluster} (available: 0…{last})")
        clusters = clusters.slice(cluster, 1)
    members = store.table(dictionary.members, dictionary.part)
    rows = clusters.to_pylist()
    records = _nearest(members, [row["cluster"] for row in rows], nearest)
    keys = [record["key"] for listed in records for record in listed] if kind == "linguistic" else []
    questions = _questions(store, spec["dataset"], spec["split"], keys) if keys else {}
    descriptions: list[ClusterDescription] = []
    for row, listed in zip(rows, records, strict=True):
        shown = (
            [_visual(record) for record in listed]
            if kind == "visual"
            else [_linguistic(record, questions) for record in listed]
        )
        descriptions.append({"cluster": row["cluster"], "count": row["count"], "empty": row["empty"], "nearest": shown})
    record = (table.schema.metadata or {}).get(RECORD)
    return {
        "dictionary": kind,
        "part": dictionary.part,
        "version": store.version,
        "spec": dict(spec),
        "record": json.loads(record) if record else {},
        "stale": list(store.stale(dictionary.table, dictionary.part)),
        "members": members.num_rows,
        "clusters": descriptions,
    }


def _nearest(members: pa.Table, clusters: Sequence[int], count: int) -> list[list[dict[str, Any]]]:
    """Return the members nearest to the centres of some clusters, those of one distance by key and step."""
    cluster, distance = members.column("cluster").to_numpy(), members.column("distance").to_numpy()
    order = np.lexsort((distance, cluster))  # stable, and the table is sorted by key and step
    ordered = cluster[order]
    first, last = np.searchsorted(ordered, clusters, "left"), np.searchsorted(ordered, clusters, "right")
    last = np.minimum(last, first + count)
    picked = [order[start:end] for start, end in zip(first.tolist(), last.tolist(), strict=True)]
    shown = members.select(["key", "step", "time_s", "distance"])
    records = iter(shown.take(pa.array(np.concatenate([*picked, order[:0]]))).to_pylist())
    return [list(itertools.islice(records, len(places))) for places in picked]


def _questions(store: Store, dataset: str, split: str, keys: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Return (question, answer) by question id, for those questions of a split that are still in the store."""
    if "questions" not in store.tables:
        return {}
    table = rows_of_split(store.table("questions"), dataset, split)
    table = table.filter(pc.is_in(table.column("question_id"), pa.array(keys, pa.string())))
    columns = [table.column(name).to_pylist() for name in ("question_id", "question", "answer")]
    return {key: (question, answer) for key, question, answer in zip(*columns, strict=True)}


def _visual(record: dict[str, Any]) -> VisualMember:
    return {
        "video_id": record["key"],
        "step": record["step"],
        "time_s": record["time_s"],
        "distance": round(record["distance"], 6),
    }


def _linguistic(record: dict[str, Any], questions: dict[str, tuple[str, str | None]]) -> LinguisticMember:
    question, answer = questions.get(record["key"], (None, None))
    return {
        "question_id": record["key"],
        "question": question,
        "answer": answer,
        "distance": round(record["distance"], 6),
    }
