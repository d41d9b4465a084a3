"""Finds what a confounder dictionary is made of now: the graphs or feature rows of one dataset's training split.

The table ``questions`` alone says what belongs to a split: a graph or a feature row enters only if a question of that
split refers to it. Members are columns, since there may be millions of them, and what they are compared with is.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.shared.errors import SourceError
from settings.messages import available
from stores import Store
from stores.format import ShardReader
from stores.joins import splits_of

_AT_ONCE = 1 << 16  # graphs whose node strings are Python objects at the same time


@dataclass(frozen=True, slots=True)
class Members:
    """Members and what is missing, both sorted by key.

    Attributes
    ----------
    table
        One row per member: ``key`` (question id or video id, string), ``digest`` of what it contributes, its node
        strings or its feature row (string), and ``vectors``, how many vectors these are (int64).
    missing
        ``key``, and the ``reason`` why it has no graph or no row (strings).
    shared
        Visual: videos that questions of other splits refer to as well.
    """

    table: pa.Table
    missing: pa.Table
    shared: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def vectors(self) -> int:
        """Number of vectors of all members."""
        return int(pc.sum(self.table.column("vectors"), min_count=0).as_py())


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
    wanted = _sorted_distinct(_of_split(store, "questions", "question_id", dataset, split))
    place = _last_place(wanted, _of_split(store, "graphs", "question_id", dataset, split))
    digests = _nodes_digests(_of_split(store, "graphs", "nodes", dataset, split)).take(place)
    is_member = pc.is_valid(digests)
    missing = pc.invert(is_member)
    reason = pc.if_else(pc.is_valid(place), "its text cannot be parsed", "no graph")
    keys = wanted.filter(is_member)
    vectors = pa.array(np.ones(len(keys), np.int64))
    table = pa.table({"key": keys, "digest": digests.filter(is_member), "vectors": vectors})
    return Members(table, pa.table({"key": wanted.filter(missing), "reason": reason.filter(missing)}))


def graph_nodes(store: Store, dataset: str, split: str, questions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the node strings of some questions' graphs, in the order of the questions; lists of strings."""
    place = _last_place(questions, _of_split(store, "graphs", "question_id", dataset, split))
    return _of_split(store, "graphs", "nodes", dataset, split).take(place)


def visual_members(store: Store, feature: str, dataset: str, split: str) -> Members:
    """Return the rows of a feature (under its current spec) for the videos of a split's questions."""
    wanted = _sorted_distinct(_of_split(store, "questions", "video_id", dataset, split))
    splits = splits_of(store.table("questions")) if "questions" in store.tables else []
    others = [own_split for own_dataset, own_split in splits if own_dataset == dataset and own_split != split]
    in_others = [pc.is_in(wanted, _of_split(store, "questions", "video_id", dataset, other)) for other in others]
    shared = wanted.filter(functools.reduce(pc.or_, in_others, pa.repeat(False, len(wanted))))
    digests = np.zeros((len(wanted), 32), np.uint8)
    vectors = np.full(len(wanted), -1, np.int64)  # without a row
    for reader, positions, rows in rows_by_shard(store, feature, wanted):
        digests[positions] = reader.column("row_digest")[rows]
        first, end = spans(reader, rows)
        before = np.concatenate([[0], np.cumsum(reader.steps("valid"), dtype=np.int64)])
        vectors[positions] = before[end] - before[first]
    is_member = vectors > 0
    table = pa.table(
        {
            "key": wanted.filter(pa.array(is_member)),
            "digest": _hexadecimal(digests[is_member]),
            "vectors": pa.array(vectors[is_member]),
        }
    )
    missing = wanted.filter(pa.array(~is_member))
    failures = store.failures()
    failures = failures.filter(pc.equal(failures.column("feature"), feature))
    failed = pc.binary_join_element_wise(failures.column("class"), failures.column("message"), ": ").combine_chunks()
    reason = pc.coalesce(pc.take(failed, _last_place(missing, failures.column("video_id"))), "no row")
    reason = pc.if_else(pa.array(vectors[~is_member] == 0), "every step is padding", reason)
    return Members(table, pa.table({"key": missing, "reason": reason}), tuple(shared.to_pylist()))


def current_members(store: Store, spec: Mapping[str, Any]) -> Members:
    """Return the members that a dictionary with this spec would be made of now."""
    if spec["kind"] == "linguistic":
        return linguistic_members(store, spec["dataset"], spec["split"])
    return visual_members(store, spec["feature"], spec["dataset"], spec["split"])


def rows_by_shard(
    store: Store, feature: str, keys: pa.Array
) -> Iterator[tuple[ShardReader, NDArray[np.int64], NDArray[np.int32]]]:
    """Yield each shard that holds rows of some keys, with the positions of these keys and their rows in the shard.

    Keys without a row, and features that are not in the store, yield nothing.
    """
    if feature not in store.features:
        return
    places = store.places(feature, keys)
    order = np.argsort(places.shard, kind="stable")
    starts = np.searchsorted(places.shard[order], np.arange(len(places.shards) + 1))
    for shard, identity in enumerate(places.shards):
        positions = order[starts[shard] : starts[shard + 1]]
        yield store.shard(feature, identity), positions, places.row[positions]


def spans(reader: ShardReader, rows: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first step of rows of a shard within ``reader.steps``, and the one after their last."""
    if reader.receipt.ragged:
        offset = reader.column("offset")
        return offset[rows], offset[rows + 1]
    length = reader.receipt.datasets["values"].shape[1]
    first = rows.astype(np.int64) * length
    return first, first + length


def _of_split(store: Store, table: str, column: str, dataset: str, split: str) -> pa.ChunkedArray:
    """Return one column of the rows of a split."""
    if table not in store.tables:
        return pa.chunked_array([], pa.string())
    return store.table(table, columns=[column], where={"dataset": dataset, "split": split}).column(column)


def _sorted_distinct(column: pa.ChunkedArray) -> pa.Array:
    """Return each string once, sorted by its UTF-8 bytes, which is the order of code points."""
    distinct = column.unique()
    return distinct.take(pc.sort_indices(distinct))


def _last_place(wanted: pa.Array, keys: pa.ChunkedArray) -> pa.Array:
    """Return where each wanted key stands last among some keys, null if nowhere."""
    backwards = keys.take(pa.array(np.arange(len(keys) - 1, -1, -1)))
    return pc.subtract(len(keys) - 1, pc.index_in(wanted, backwards).cast(pa.int64()))


def _nodes_digests(nodes: pa.ChunkedArray) -> pa.Array:
    """Return the digest of each list of node strings, null for one that is null."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    digests = (
        None if texts is None else hashlib.sha256(encode(texts).encode()).hexdigest()
        for start in range(0, len(nodes), _AT_ONCE)
        for texts in nodes.slice(start, _AT_ONCE).to_pylist()
    )
    return pa.array(digests, pa.string(), size=len(nodes))


def _hexadecimal(digests: NDArray[np.uint8]) -> pa.Array:
    """Return digests ``[n, 32] uint8`` as strings of 64 hexadecimal digits."""
    text = pa.py_buffer(digests.tobytes().hex().encode())
    offsets = np.arange(len(digests) + 1, dtype=np.int32) * (2 * digests.shape[1])
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), text)
