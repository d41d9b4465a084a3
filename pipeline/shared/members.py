"""Finds what a confounder dictionary is made of now: the graphs or feature rows of one dataset's training split.

The table ``questions`` alone says what belongs to a split: a graph or a feature row enters only if a question of that
split refers to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.shared.errors import SourceError
from settings.messages import available
from stores import Store
from stores.joins import rows_of_split, splits_of


@dataclass(frozen=True, slots=True)
class Members:
    """Members by key, sorted, and what is missing.

    Attributes
    ----------
    digests
        Key (question id or video id) to the digest of what it contributes: its node strings, or its feature row.
    missing
        Key to the reason why it has no graph or no row.
    nodes
        Linguistic: key to its node strings.
    shared
        Visual: videos that questions of other splits refer to as well.
    """

    digests: Mapping[str, str]
    missing: Mapping[str, str]
    nodes: Mapping[str, tuple[str, ...]]
    shared: tuple[str, ...] = ()


def datasets(store: Store, split: str) -> list[str]:
    """Return the datasets with questions of a split, sorted."""
    if "questions" not in store.tables:
        return []
    return [dataset for dataset, own_split in splits_of(store.table("questions")) if own_split == split]


def choose_dataset(store: Store, split: str, name: str | None) -> str:
    """Return the dataset to use: the one that is named, or the only one with questions of the split.

    Raises
    ------
    SourceError
        If it has no question in the split, or several datasets have some and none is named.
    """
    names = datasets(store, split)
    if name is None and len(names) == 1:
        return names[0]
    if not names:
        raise SourceError(f"{store.path}: no questions of split {split!r}; run jobs/parse.py first")
    if name is None:
        listed = ", ".join(names)
        raise SourceError(f"{store.path}: questions of split {split!r} belong to {listed}; name one with --dataset")
    if name not in names:
        raise SourceError(f"{store.path}: dataset {name!r} has no questions of split {split!r} ({available(names)})")
    return name


def linguistic_members(store: Store, dataset: str, split: str) -> Members:
    """Return the graphs of a split's questions."""
    wanted = sorted(rows_of_split(_questions(store), dataset, split).column("question_id").to_pylist())
    nodes = _graph_nodes(store, dataset, split)
    present = {key: texts for key in wanted if (texts := nodes.get(key)) is not None}
    reasons = {key: "its text cannot be parsed" if key in nodes else "no graph" for key in wanted}
    return Members(
        digests={key: _nodes_digest(texts) for key, texts in present.items()},
        missing={key: reason for key, reason in reasons.items() if key not in present},
        nodes=present,
    )


def visual_members(store: Store, feature: str, dataset: str, split: str) -> Members:
    """Return the rows of a feature (under its current spec) for the videos of a split's questions."""
    questions = _questions(store)
    wanted = sorted(rows_of_split(questions, dataset, split).column("video_id").unique().to_pylist())
    elsewhere: set[str] = set()
    for other in splits_of(questions):
        if other[0] == dataset and other[1] != split:
            elsewhere.update(rows_of_split(questions, *other).column("video_id").unique().to_pylist())
    missing = {
        record["video_id"]: f"{record['class']}: {record['message']}"
        for record in store.failures().to_pylist()
        if record["feature"] == feature
    }
    present = []
    for key in wanted:
        if feature not in store.features or (feature, key) not in store:
            missing.setdefault(key, "no row")
        elif not store.valid(feature, key).any():
            missing[key] = "every step is padding"
        else:
            present.append(key)
    return Members(
        digests={key: store.digest(feature, key) for key in present},
        missing={key: missing[key] for key in sorted(set(wanted) - set(present))},
        nodes={},
        shared=tuple(key for key in wanted if key in elsewhere),
    )


def current_members(store: Store, spec: Mapping[str, Any]) -> Members:
    """Return the members that a dictionary with this spec would be made of now."""
    if spec["kind"] == "linguistic":
        return linguistic_members(store, spec["dataset"], spec["split"])
    return visual_members(store, spec["feature"], spec["dataset"], spec["split"])


def _questions(store: Store) -> pa.Table:
    columns = ["question_id", "video_id", "dataset", "split"]
    if "questions" not in store.tables:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    return store.table("questions").select(columns)


def _graph_nodes(store: Store, dataset: str, split: str) -> dict[str, tuple[str, ...] | None]:
    """Return the node strings of a split's questions; None for a question whose text cannot be parsed."""
    if "graphs" not in store.tables:
        return {}
    table = rows_of_split(store.table("graphs"), dataset, split)
    keys: Iterable[str] = table.column("question_id").to_pylist()
    columns = zip(keys, table.column("nodes").to_pylist(), strict=True)
    return {key: None if nodes is None else tuple(nodes) for key, nodes in columns}


def _nodes_digest(nodes: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(nodes, ensure_ascii=False).encode()).hexdigest()
