"""Confounder dictionaries as a person or an exporter wants to see them.

A dictionary is two tables: `<kind>_dictionary` (a row per cluster: cluster, center, mean, count, empty) and
`<kind>_dictionary_members` (a row per member: key, step, time_s, cluster, distance, digest).
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import MissingKeyError
from ..format.shard import read_spec
from ..store import Store

DictionaryKind = Literal["linguistic", "visual"]
KINDS: tuple[DictionaryKind, ...] = get_args(DictionaryKind)
MEMBERS = "_members"  # suffix of the table that lists a dictionary's members
RECORD = b"reelstore.record"  # metadata of the clusters: what their bytes depend on besides members and recipe


def dictionary_spec(store: Store, kind: str) -> dict[str, Any]:
    """The recipe of a dictionary.

    Raises
    ------
    MissingKeyError
        If the store has none of this kind.
    """
    name = f"{kind}_dictionary"
    if name not in store.tables:
        have = ", ".join(each for each in KINDS if f"{each}_dictionary" in store.tables) or "none"
        raise MissingKeyError(
            f"{store.path}: no {kind} dictionary in version {store.version} (there is: {have}); see jobs/cluster.py"
        )
    return read_spec(store.path, store.parts(name)[""].spec_digest)


def describe_dictionary(store: Store, kind: str, cluster: int | None = None, nearest: int = 5) -> dict[str, Any]:
    """A dictionary's recipe and, for each cluster, the members nearest to its centre.

    Parameters
    ----------
    kind : ``linguistic`` or ``visual``.
    cluster : this one only.
    nearest : members told of each cluster: question, answer and distance, or video, step, second and distance.

    Raises
    ------
    MissingKeyError
        If there is no such dictionary or cluster.
    """
    spec = dictionary_spec(store, kind)
    table = store.table(f"{kind}_dictionary").select(["cluster", "count", "empty"])
    if cluster is not None:
        if not 0 <= cluster < table.num_rows:
            last = table.num_rows - 1
            raise MissingKeyError(f"{store.path}: {kind} dictionary: no cluster {cluster} (there is 0…{last})")
        table = table.slice(cluster, 1)
    members = store.table(f"{kind}_dictionary_members")
    texts = _questions(store, spec["dataset"]) if kind == "linguistic" else {}
    clusters = []
    for row in table.to_pylist():
        near = _nearest(members, row["cluster"], nearest)
        clusters.append({**row, "nearest": [_member(each, kind, texts) for each in near]})
    record = (store.table(f"{kind}_dictionary").schema.metadata or {}).get(RECORD)
    return {
        "dictionary": kind,
        "version": store.version,
        "spec": spec,
        "record": json.loads(record) if record else {},
        "stale": list(store.stale(f"{kind}_dictionary")),
        "members": members.num_rows,
        "clusters": clusters,
    }


def _nearest(members: pa.Table, cluster: int, count: int) -> list[dict[str, Any]]:
    inside = members.filter(pc.equal(members.column("cluster"), cluster))
    order = [("distance", "ascending"), ("key", "ascending"), ("step", "ascending")]
    near: list[dict[str, Any]] = inside.sort_by(order).slice(0, count).to_pylist()
    return near


def _questions(store: Store, dataset: str) -> dict[str, tuple[str, str | None]]:
    """Question id to question and answer; what a later run removed is not there."""
    if "questions" not in store.tables:
        return {}
    table = store.table("questions")
    table = table.filter(pc.equal(table.column("dataset"), dataset))
    columns = [table.column(name).to_pylist() for name in ("question_id", "question", "answer")]
    return {key: (question, answer) for key, question, answer in zip(*columns, strict=True)}


def _member(member: dict[str, Any], kind: str, texts: dict[str, tuple[str, str | None]]) -> dict[str, Any]:
    told = {"distance": round(member["distance"], 6)}
    if kind == "visual":
        return {"video_id": member["key"], "step": member["step"], "time_s": member["time_s"], **told}
    question, answer = texts.get(member["key"], (None, None))
    return {"question_id": member["key"], "question": question, "answer": answer, **told}
