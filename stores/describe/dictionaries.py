"""Confounder dictionaries, for a person or an exporter.

A dictionary is two tables. ``<kind>_dictionary`` has one row per cluster (cluster, center, mean, count, empty),
``<kind>_dictionary_members`` one row per member (key, step, time_s, cluster, distance, digest).
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict, final, get_args

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import MissingKeyError
from ..format.receipts import read_spec
from ..store import Store
from ..wording import available

DictionaryKind = Literal["linguistic", "visual"]
KINDS: tuple[DictionaryKind, ...] = get_args(DictionaryKind)
"""Kinds of dictionaries: ``linguistic`` (clusters of question graphs) and ``visual`` (clusters of frames)."""
MEMBERS = "_members"
"""Suffix of the table that lists the members of a dictionary."""
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
    version: int
    spec: dict[str, Any]
    record: dict[str, Any]
    stale: list[str]
    members: int
    clusters: list[ClusterDescription]


def dictionary_spec(store: Store, kind: str) -> dict[str, Any]:
    """Return the spec of a dictionary.

    Raises
    ------
    MissingKeyError
        If the store has no dictionary of this kind.
    """
    name = f"{kind}_dictionary"
    if name not in store.tables:
        present = [kind for kind in KINDS if f"{kind}_dictionary" in store.tables]
        raise MissingKeyError(
            f"{store.path}: no {kind} dictionary in version {store.version} ({available(present)}); "
            "make one with jobs/cluster.py in the checkout"
        )
    return read_spec(store.path, store.parts(name)[""].spec_digest)


def describe_dictionary(store: Store, kind: str, cluster: int | None = None, nearest: int = 5) -> DictionaryDescription:
    """Describe a dictionary: its spec and, for each cluster, the members nearest to its centre.

    Parameters
    ----------
    store
        The store.
    kind
        ``linguistic`` or ``visual``.
    cluster
        Describe this cluster only.
    nearest
        Number of members per cluster.

    Raises
    ------
    MissingKeyError
        If there is no such dictionary or cluster.
    """
    spec = dictionary_spec(store, kind)
    table = store.table(f"{kind}_dictionary")
    clusters = table.select(["cluster", "count", "empty"])
    if cluster is not None:
        if not 0 <= cluster < table.num_rows:
            last = table.num_rows - 1
            raise MissingKeyError(f"{store.path}: {kind} dictionary: no cluster {cluster} (available: 0…{last})")
        clusters = clusters.slice(cluster, 1)
    members = store.table(f"{kind}_dictionary{MEMBERS}")
    questions = _questions(store, spec["dataset"]) if kind == "linguistic" else {}
    descriptions: list[ClusterDescription] = []
    for row in clusters.to_pylist():
        records = _nearest(members, row["cluster"], nearest)
        shown = (
            [_visual(record) for record in records]
            if kind == "visual"
            else [_linguistic(record, questions) for record in records]
        )
        descriptions.append({"cluster": row["cluster"], "count": row["count"], "empty": row["empty"], "nearest": shown})
    record = (table.schema.metadata or {}).get(RECORD)
    return {
        "dictionary": kind,
        "version": store.version,
        "spec": spec,
        "record": json.loads(record) if record else {},
        "stale": list(store.stale(f"{kind}_dictionary")),
        "members": members.num_rows,
        "clusters": descriptions,
    }


def _nearest(members: pa.Table, cluster: int, count: int) -> list[dict[str, Any]]:
    inside = members.filter(pc.equal(members.column("cluster"), cluster))
    order = [("distance", "ascending"), ("key", "ascending"), ("step", "ascending")]
    records: list[dict[str, Any]] = inside.sort_by(order).slice(0, count).to_pylist()
    return records


def _questions(store: Store, dataset: str) -> dict[str, tuple[str, str | None]]:
    """Return (question, answer) by question id, for the questions that are still in the store."""
    if "questions" not in store.tables:
        return {}
    table = store.table("questions")
    table = table.filter(pc.equal(table.column("dataset"), dataset))
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
