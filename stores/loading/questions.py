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
from ..joins import rows_of_split, splits_of
from ..store import Store
from ..wording import available, first_few, plural

_NODES = 8  # of a published question graph; docs/facts/cra.md section 4.2
_EMBED = "list the text encoder under option_embeddings in the dataset's file, and run jobs/refresh.py in the checkout"


@dataclass(frozen=True, slots=True)
class Questions:
    """The N questions of one split of one dataset in table order (part, then row).

    Attributes
    ----------
    ids, video_ids, texts, options, answers, types, modalities
        Lists of N values.
    answer_index
        ``[N] int64``; -1 if unknown.
    spans
        N lists of (start, end) in seconds.
    duration
        ``[N] float64`` in seconds; NaN if unknown.
    """

    dataset: str
    split: str
    ids: list[str]
    video_ids: list[str]
    texts: list[str]
    options: list[list[str]]
    answers: list[str | None]
    answer_index: torch.Tensor
    types: list[str]
    modalities: list[str | None]
    spans: list[list[tuple[float, float]]]
    duration: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)


def load_questions(store: Store, split: str, dataset: str | None = None) -> Questions:
    """Read the questions of one split.

    Raises
    ------
    StoreError
        If there are none, or if several datasets have this split and ``dataset`` is None.
    """
    table = store.table("questions")
    pairs = splits_of(table)
    datasets = [of_dataset for of_dataset, own in pairs if own == split]
    if dataset is None and len(datasets) > 1:
        raise StoreError(f"{store.path}: split {split!r} is in {', '.join(datasets)}; name one with dataset=")
    dataset = dataset or next(iter(datasets), "")
    kept = rows_of_split(table, dataset, split)
    if kept.num_rows == 0:
        known = ["/".join(pair) for pair in pairs]
        wanted = f"{dataset}/{split}" if dataset else split
        raise StoreError(f"{store.path}: no questions of {wanted!r} in version {store.version} ({available(known)})")
    spans = kept.column("spans").to_pylist()
    return Questions(
        dataset=dataset,
        split=split,
        ids=kept.column("question_id").to_pylist(),
        video_ids=kept.column("video_id").to_pylist(),
        texts=kept.column("question").to_pylist(),
        options=[options or [] for options in kept.column("options").to_pylist()],
        answers=kept.column("answer").to_pylist(),
        answer_index=torch.from_numpy(_numbers(kept, "answer_index", -1).astype(np.int64)),
        types=[question_type or "" for question_type in kept.column("type").to_pylist()],
        modalities=kept.column("modality").to_pylist(),
        spans=[[(start, end) for start, end in row or []] for row in spans],
        duration=torch.from_numpy(_numbers(kept, "duration", float("nan")).astype(np.float64)),
    )


def _numbers(table: pa.Table, name: str, unknown: float) -> Array:
    """Return a numeric column, with ``unknown`` for nulls."""
    column = table.column(name)
    if pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    return np.array(column.fill_null(unknown).to_numpy())


def load_nodes(store: Store, questions: Questions, allow_missing: bool = False) -> list[list[str]]:
    """Return the 8 node texts of each question's graph.

    With ``allow_missing``, the nodes of a question whose text no parser can take are empty strings.

    Raises
    ------
    StoreError
        If a question has no graph.
    """
    table = rows_of_split(store.table("graphs"), questions.dataset, questions.split)
    nodes = dict(zip(table.column("question_id").to_pylist(), table.column("nodes").to_pylist(), strict=True))
    absent = [question for question in questions.ids if question not in nodes]
    _refuse(store, "graph", "question", absent, "parse its split first")
    if not allow_missing:
        without = [question for question in questions.ids if nodes[question] is None]
        _refuse(store, "graph", "question", without, "their texts cannot be parsed; to train, allow missing ones")
    return [nodes[question] or [""] * _NODES for question in questions.ids]


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
    rows = [[text] if isinstance(text, str) else list(text) for text in texts]
    unique = sorted({text for row in rows for text in row})
    table = _embeddings(store, encoder)
    positions = pc.index_in(pa.array(unique, pa.string()), value_set=table.column("text").combine_chunks())
    absent = [text for text, at in zip(unique, positions.fill_null(-1).to_numpy(), strict=True) if at < 0]
    _refuse(store, "embedding", "text", absent, f"{_EMBED} first")
    vectors = table.column("vector").combine_chunks().take(positions)
    width = vectors.type.list_size
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    number = {text: index for index, text in enumerate(unique)}
    at = torch.tensor([[number[text] for text in row] for row in rows], dtype=torch.int64)
    single = bool(texts) and isinstance(texts[0], str)
    return TextVectors(torch.from_numpy(flat.reshape(-1, width)), at[:, 0] if single else at)


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
