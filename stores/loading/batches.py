"""Batches that a dataset gives a trainer: plain lists and tensors, joined by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import StoreError
from .lending import Parcel, block_of

_SMALL = 1 << 18
"""Below this number of bytes, a worker sends a tensor's bytes in its message instead of a file descriptor."""

TensorMap = Callable[[torch.Tensor], torch.Tensor]


def _apply(value: Any, change: TensorMap) -> Any:
    """Apply ``change`` to a tensor, or to the tensors of a dict; return other values unchanged."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _apply(part, change) for name, part in value.items()}
    return value


def _restored(value: Any) -> Any:
    """Return the tensors that ``_packed`` was given."""
    if isinstance(value, Parcel):
        return value.tensor
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return {name: _restored(part) for name, part in value.items()} if isinstance(value, dict) else value


def _packed(tensor: torch.Tensor) -> Any:
    """Return a tensor of a worker's block as a parcel, a small tensor as an array, any other tensor unchanged."""
    if not tensor.is_cpu:
        return tensor
    if block_of(tensor) is not None:
        return Parcel(tensor)
    known = tensor.dtype != torch.bfloat16  # which numpy lacks
    shared = tensor.is_shared()  # type: ignore[no-untyped-call]  # torch leaves it out
    return tensor.numpy() if tensor.nbytes < _SMALL and known and not shared else tensor


def _part(value: Any, row: int) -> Any:
    """Return one row of a field of a batch, with the first axis kept."""
    if isinstance(value, dict):
        return {name: _part(part, row) for name, part in value.items()}
    return None if value is None else value[row : row + 1]


def _joined(values: Sequence[Any], blank: Any) -> Any:
    """Return a field of several batches as one: tensors are padded along their second axis with ``blank``."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _joined([value[name] for value in values], blank) for name in first}
    if isinstance(first, torch.Tensor):
        if first.ndim > 1:
            width = max(value.shape[1] for value in values)
            pads = [(0, 0) * (value.ndim - 2) + (0, width - value.shape[1]) for value in values]
            values = [F.pad(value, pad, value=blank) for value, pad in zip(values, pads, strict=True)]
        return torch.cat(list(values))
    return None if first is None else [item for value in values for item in value]


def require_distinct(videos: Sequence[Any]) -> None:
    """Raise StoreError if a video is twice in a batch of videos."""
    if len(set(videos)) < len(videos):
        raise StoreError("a batch of VideoDataset needs distinct videos, but its sampler gave one of them twice")


class Batch:
    """Mix-in for dataclasses whose tensors move together.

    A batch is what ``DataLoader`` gives without a ``collate_fn``: see ``stores/loading/collating.py``.
    """

    _blanks: ClassVar[Mapping[str, Any]] = {}
    """Names of the fields whose second axis is padded with something else than 0, and with what."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the memory of a worker's blocks as loans, and small tensors by value.

        PyTorch shares the memory of each tensor that a worker sends. That takes a file descriptor and a connection for
        each of them, which cost more than the rest of a batch of CLIP rows.
        """
        return {name: _apply(value, _packed) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _restored(value) for name, value in state.items()})

    def __getitem__(self, row: int) -> Self:
        """Return a batch of one row; as of a list, ``batch[-1]`` is the last."""
        row = range(len(self))[row]
        return type(self)(**{field.name: _part(getattr(self, field.name), row) for field in fields(self)})  # type: ignore[arg-type]  # a mix-in of dataclasses is one

    def __len__(self) -> int:
        raise NotImplementedError

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Return several batches as one, in their order; shorter ones are padded as in a batch of the dataset."""
        joined = {}
        for each in fields(cls):  # type: ignore[arg-type]  # a mix-in of dataclasses is one
            joined[each.name] = _joined([getattr(batch, each.name) for batch in batches], cls._blanks.get(each.name, 0))
        return cls(**joined)

    def _map(self, change: TensorMap) -> Self:
        return type(self)(**{field.name: _apply(getattr(self, field.name), change) for field in fields(self)})  # type: ignore[arg-type]  # a mix-in of dataclasses is one

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the batch with its tensors on ``device``; ``non_blocking`` as in ``torch.Tensor.to``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the batch with its tensors page-locked (a ``DataLoader`` with ``pin_memory=True`` calls this)."""
        return self._map(lambda tensor: tensor.pin_memory() if tensor.is_cpu else tensor)


@dataclass
class QuestionBatch(Batch):
    """B questions, each with the features of its video.

    Attributes
    ----------
    question_ids, video_ids, questions, types
        Lists of B strings.
    features
        By name of the view, ``[B, T, *step]`` in the view's dtype. T is the largest number of steps in the batch.
    valid
        By the same names, ``[B, T] bool``: False where a step is padding.
    times
        By the same names, ``[B, T] float64``: seconds from the start of the clip or video; 0 in padding added here.
    options
        B lists of option texts; empty if a question is open.
    answers
        B answer texts; None if hidden.
    answer_index
        ``[B] int64``; -1 if unknown.
    modalities
        B of ``Audio``, ``Visual``, ``Audio-Visual`` or None.
    spans
        B lists of (start, end) in seconds; empty if unknown.
    duration
        ``[B] float64`` in seconds; NaN if unknown.
    nodes
        B lists with the 8 node texts of the question's graph, if the dataset was made with ``graphs=True``.
    embeddings
        Text embeddings as float32, if the dataset was made with them: ``question`` ``[B, D]``, ``nodes`` ``[B, 8, D]``.
    """

    question_ids: list[str]
    video_ids: list[str]
    features: dict[str, torch.Tensor]
    valid: dict[str, torch.Tensor]
    times: dict[str, torch.Tensor]
    questions: list[str]
    options: list[list[str]]
    answers: list[str | None]
    answer_index: torch.Tensor
    types: list[str]
    modalities: list[str | None]
    spans: list[list[tuple[float, float]]]
    duration: torch.Tensor
    nodes: list[list[str]] | None = None
    embeddings: dict[str, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.question_ids)


_NO_QUESTION: Mapping[str, Any] = {
    "question_ids": "",
    "questions": "",
    "answers": None,
    "types": "",
    "modalities": None,
    "options": [],
}
"""What stands in the lists of a video in place of a question."""


@dataclass
class VideoBatch(Batch):
    """B distinct videos, each with up to N questions; N is the largest number of questions of a video in the batch.

    Attributes
    ----------
    video_ids
        B distinct strings.
    features, valid, times
        As in ``QuestionBatch``.
    question_ids, questions, types
        B lists of N strings; ``""`` in padding.
    answers, modalities
        B lists of N strings; None in padding or if unknown.
    answer_index
        ``[B, N] int64``; -1 in padding or if unknown.
    q_mask
        ``[B, N] bool``: False in padding.
    options
        B lists of N lists of option texts; empty in padding and if a question is open.
    """

    video_ids: list[str]
    features: dict[str, torch.Tensor]
    valid: dict[str, torch.Tensor]
    times: dict[str, torch.Tensor]
    question_ids: list[list[str]]
    questions: list[list[str]]
    answers: list[list[str | None]]
    types: list[list[str]]
    modalities: list[list[str | None]]
    answer_index: torch.Tensor
    q_mask: torch.Tensor
    options: list[list[list[str]]] = field(default_factory=list)

    _blanks: ClassVar[Mapping[str, Any]] = {"answer_index": -1}

    def __len__(self) -> int:
        return len(self.video_ids)

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Return several batches of other videos as one.

        Raises
        ------
        StoreError
            If two of them have a video in common.
        """
        joined = super().join(batches)
        require_distinct(joined.video_ids)
        width = joined.q_mask.shape[1]
        for name, blank in _NO_QUESTION.items():
            rows = getattr(joined, name)
            setattr(joined, name, [[*row, *[blank] * (width - len(row))] for row in rows])
        return joined
