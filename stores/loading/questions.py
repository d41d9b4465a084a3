"""The questions of one split as plain columns, and what is joined to them: graphs and text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..errors import StoreError
from ..format.rows import Array
from ..joins import SPLIT_COLUMNS, splits_of
from ..store import Store
from ..wording import available, first_few, plural
from .columns import Column

_NODES = 8  # of a published question graph; docs/facts/cra.md section 4.2
_EMBED = "list the text encoder under option_embeddings in the dataset's file, and run jobs/refresh.py in the checkout"


@dataclass(frozen=True, slots=True)
class Questions:
    """The N questions of one split of one dataset in table order (part, then row).

    Attributes
    ----------
    ids, video_ids, texts, options, answers, types, modalities
        Sequences of N values, which are made on access.
    answer_index
        ``[N] int64``; -1 if unknown.
    spans
        N lists of (start, end) in seconds, made on access.
    duration
        ``[N] float64`` in seconds; NaN if unknown.
    subsets
        N names of parts of the split, or None; older stores have none.
    """

    dataset: str
    split: str
    ids: Column[str]
    video_ids: Column[str]
    texts: Column[str]
    options: Column[list[str]]
    answers: Column[str | None]
    answer_index: torch.Tensor
    types: Column[str]
    modalities: Column[str | None]
    spans: Column[list[tuple[float, float]]]
    duration: torch.Tensor
    subsets: Sequence[str | None] = ()

    def __len__(self) -> int:
        return len(self.ids)


_COLUMNS = (
    *("question_id", "video_id", "question", "options", "answer"),
    *("answer_index", "type", "modality", "spans", "duration", "subset"),
)


def load_questions(store: Store, split: str, dataset: str | None = None) -> Questions:
    """Read the questions of one split.

    Raises
    ------
    StoreError
        If there are none, or if several datasets have this split and ``dataset`` is None.
    """
    pairs = splits_of(store.table("questions", columns=SPLIT_COLUMNS))
    datasets = [of_dataset for of_dataset, own in pairs if own == split]
    if dataset is None and len(datasets) > 1:
        raise StoreError(f"{store.path}: split {split!r} is in {', '.join(datasets)}; name one with dataset=")
    dataset = dataset or next(iter(datasets), "")
    kept = store.table("questions", columns=_COLUMNS, where={"dataset": dataset, "split": split})
    if kept.num_rows == 0:
        known = ["/".join(pair) for pair in pairs]
        wanted = f"{dataset}/{split}" if dataset else split
        raise StoreError(f"{store.path}: no questions of {wanted!r} in version {store.version} ({available(known)})")
    return Questions(
        dataset=dataset,
        split=split,
        ids=Column(kept.column("question_id")),
        video_ids=Column(kept.column("video_id")),
        texts=Column(kept.column("question")),
        options=Column(kept.column("options"), null=list),
        answers=Column(kept.column("answer")),
        answer_index=torch.from_numpy(_numbers(kept, "answer_index", -1).astype(np.int64)),
        types=Column(kept.column("type"), null=str),
        modalities=Column(kept.column("modality")),
        spans=Column(kept.column("spans"), null=list, change=_pairs),
        duration=torch.from_numpy(_numbers(kept, "duration", float("nan")).astype(np.float64)),
        subsets=Column(kept.column("subset") if "subset" in kept.column_names else pa.nulls(kept.num_rows)),
    )


def _pairs(spans: list[list[float]]) -> list[tuple[float, float]]:
    return [(start, end) for start, end in spans]


def _numbers(table: pa.Table, name: str, unknown: float) -> Array:
    """Return a numeric column, with ``unknown`` for nulls."""
    column = table.column(name)
    if pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    return np.array(column.fill_null(unknown).to_numpy())


def load_nodes(store: Store, questions: Questions, allow_missing: bool = False) -> Column[list[str]]:
    """Return the 8 node texts of each question's graph.

    With ``allow_missing``, the nodes of a question whose text no parser can take are empty strings.

    Raises
    ------
    StoreError
        If a question has no graph.
    """
    where = {"dataset": questions.dataset, "split": questions.split}
    table = store.table("graphs", columns=("question_id", "nodes"), where=where)
    known = Column(table.column("question_id")).array
    at = pc.index_in(questions.ids.array.cast(known.type), value_set=known)
    absent = pc.indices_nonzero(pc.is_null(at)).to_pylist()
    _refuse(store, "graph", "question", questions.ids.take(absent), "parse its split first")
    nodes: Column[list[str]] = Column(table.column("nodes").take(at), null=_no_nodes)
    if not allow_missing:
        without = questions.ids.take(pc.indices_nonzero(pc.is_null(nodes.array)).to_pylist())
        _refuse(store, "graph", "question", without, "their texts cannot be parsed; to train, allow missing ones")
    return nodes


def _no_nodes() -> list[str]:
    return [""] * _NODES


@dataclass(frozen=True, slots=True)
class TextVectors:
    """Embeddings of the texts of N questions, one text or M texts per question.

    Attributes
    ----------
    vectors
        ``[U, D] float32``, one per unique text.
    at
        ``[N]`` or ``[N, M] int64``: positions in ``vectors``.
    """

    vectors: torch.Tensor
    at: torch.Tensor

    def take(self, questions: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of B questions (positions), ``[B, D]`` or ``[B, M, D]``."""
        return self.vectors[self.at[questions]]


def load_vectors(store: Store, texts: Sequence[str] | Sequence[Sequence[str]], encoder: str | None) -> TextVectors:
    """Return the embeddings of one text, or of M texts, per question.

    Parameters
    ----------
    store
        The store.
    texts
        N texts, or N lists of M texts.
    encoder
        Part of the ``embeddings`` table: a prefix of the text encoder's digest. May be None if there is only one.

    Raises
    ------
    StoreError
        If a text has no embedding, or ``encoder`` does not name exactly one text encoder.
    """
    flat, width = _flat(texts)
    unique = flat.unique()
    unique = unique.take(pc.sort_indices(unique))
    table = _embeddings(store, encoder)
    positions = pc.index_in(unique, value_set=table.column("text").combine_chunks().cast(unique.type))
    absent = unique.filter(pc.is_null(positions)).to_pylist()
    _refuse(store, "embedding", "text", absent, f"{_EMBED} first")
    vectors = table.column("vector").combine_chunks().take(positions)
    values = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    at = torch.from_numpy(pc.index_in(flat, value_set=unique).to_numpy(zero_copy_only=False).astype(np.int64))
    return TextVectors(
        torch.from_numpy(values.reshape(-1, vectors.type.list_size)), at if width is None else at.view(-1, width)
    )


def _flat(texts: Sequence[str] | Sequence[Sequence[str]]) -> tuple[pa.Array, int | None]:
    """Return all texts in one array, and how many of them belong to a question; None if it is one by itself."""
    stored = isinstance(texts, Column) and not texts.array.null_count
    column = pa.array(texts) if stored else pa.array(list(texts))
    if pa.types.is_null(column.type):
        return column.cast(pa.string()), None
    if not pa.types.is_list(column.type):
        return column, None
    flat = column.flatten()
    return flat, len(flat) // len(column)


def _embeddings(store: Store, encoder: str | None) -> pa.Table:
    """Return the part of the ``embeddings`` table that one text encoder made."""
    if "embeddings" not in store.tables:
        raise StoreError(f"{store.path}: no text embeddings in version {store.version}; {_EMBED} first")
    parts = [part for part in store.parts("embeddings") if part.startswith(encoder or "")]
    if len(parts) != 1:
        known = available(sorted(store.parts("embeddings")))
        problem = f"{encoder!r} does not name one text encoder" if encoder else "embeddings of several text encoders"
        raise StoreError(f"{store.path}: {problem} ({known}); name one with encoder= (when training: text.embeddings)")
    return store.table("embeddings", parts[0])


def _refuse(store: Store, what: str, item: str, absent: Sequence[str], remedy: str) -> None:
    """Raise if anything is absent."""
    if absent:
        shown = first_few([repr(text) for text in absent])
        raise StoreError(f"{store.path}: no {what} for {plural(len(absent), item)}: {shown}; {remedy}")
