"""Map-style datasets over a pinned store: by question, and by video with its questions of one split."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from ..errors import StoreError
from ..store import Store
from ..wording import available, first_few
from .batches import QuestionBatch, VideoBatch, require_distinct
from .buffers import Buffers
from .columns import Column, Groups, Rows
from .gather import FeatureRows, Gathered
from .questions import TextVectors, load_nodes, load_questions, load_vectors
from .resident import ResidentRows
from .views import View, as_views

_Batch = TypeVar("_Batch")

Features = Mapping[str, View] | Sequence[str | View]
"""Views by their names in a batch, or a list of views and of features (all steps, float32)."""
VideoItem = int | np.integer[Any] | tuple[int, Sequence[int]]
"""A video by position, with all its questions or with some of them."""


class FeatureTable:
    """Views of a list of videos, gathered together by position in that list."""

    def __init__(
        self,
        store: Store,
        videos: Sequence[str],
        features: Features,
        preload: bool | str,
        pin: bool,
        allow_missing: bool,
    ) -> None:
        if pin and not torch.cuda.is_available():
            raise StoreError("pin=True needs a GPU: page-locked memory only speeds up copies to one")
        device = _device(preload)
        self.buffers = Buffers(pin)
        self.rows: dict[str, FeatureRows | ResidentRows] = {}
        for name, view in as_views(features).items():
            rows = FeatureRows(store, view, videos)
            if rows.missing and not allow_missing:
                shown = first_few([repr(video) for video in rows.missing])
                raise StoreError(
                    f"{store.path}: feature {view.name!r} has no row for {len(rows.missing)} of {len(videos)} videos: "
                    f"{shown}; extract them, or pass allow_missing=True"
                )
            with Store(store.path, store.manifest) as index:  # its files are closed again
                for caveat in index.caveats(view.name).values():
                    warnings.warn(caveat, stacklevel=4)
            self.rows[name] = rows
        if device:
            self.keep(device)

    @property
    def resident_bytes(self) -> int:
        """How many bytes ``keep`` takes for values."""
        wholes = [rows.whole() for rows in self.rows.values() if isinstance(rows, FeatureRows)]
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in wholes)

    def keep(self, device: str) -> None:
        """Read all rows now, and keep them on a device (``cpu`` is the memory)."""
        for name, rows in self.rows.items():
            if isinstance(rows, FeatureRows):
                self.rows[name] = ResidentRows(rows, device)

    def gather(self, videos: Sequence[int]) -> tuple[dict[str, torch.Tensor], ...]:
        """Return (features, valid, times), each by the views' names."""
        gathered: dict[str, Gathered] = {name: rows.gather(videos, self.buffers) for name, rows in self.rows.items()}
        return (
            {name: rows.values for name, rows in gathered.items()},
            {name: rows.valid for name, rows in gathered.items()},
            {name: rows.times for name, rows in gathered.items()},
        )


def _device(preload: bool | str) -> str | None:
    """Return the device that keeps the rows for a value of ``preload``; None if they stay in their files."""
    if preload in (True, False, "ram"):
        return "cpu" if preload else None
    try:
        return str(torch.empty(0, device=preload).device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"preload={preload!r}: use True, 'ram' or a GPU such as 'cuda:0' ({reason})") from error


def _counted(positions: Sequence[int], count: int) -> list[int]:
    """Return positions in a list of ``count`` items, counted from its start; negative ones count from its end."""
    return [range(count)[position] for position in positions] if min(positions, default=0) < 0 else list(positions)


class _StoreDataset(Dataset[Any]):
    """What both datasets share: the questions of a split, their videos, and views of these videos."""

    def __init__(
        self,
        store: Store | str | Path,
        split: str,
        features: Features,
        dataset: str | None,
        preload: bool | str,
        pin: bool,
        allow_missing: bool,
    ) -> None:
        self.store = store if isinstance(store, Store) else Store.open(store)
        self.questions = load_questions(self.store, split, dataset)
        videos = self.questions.video_ids.array.dictionary_encode()  # in the order in which they first occur
        self.videos: Column[str] = Column(videos.dictionary)
        self.video_of: npt.NDArray[np.int32] = videos.indices.to_numpy()
        """``[N] int32``: the position in ``videos`` of each question's video."""
        self.table = FeatureTable(self.store, self.videos, features, preload, pin, allow_missing)

    @property
    def missing(self) -> dict[str, list[str]]:
        """Videos without a row, by view. Their values are zeros and their masks False."""
        return {name: list(rows.missing) for name, rows in self.table.rows.items()}

    def first_present(self, name: str) -> int:
        """Return the position in ``self.videos`` of the first video that has a row for view ``name``.

        Raises
        ------
        StoreError
            If no video has one.
        """
        first = next((video for video, shard in enumerate(self._shard_of_videos(name)) if shard >= 0), None)
        if first is None:
            raise StoreError(f"{self.store.path}: no video of this split has a row for {name!r}; extract them")
        return first

    def frames(self, name: str, videos: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
        """Return ``[K, *step]``: step ``steps[k]`` of video ``videos[k]``, pooled and cast as view ``name`` says.

        Videos are positions in ``self.videos``. Only these steps are read, so negatives from other videos cost one
        frame each.

        Raises
        ------
        StoreError
            If a video has no row, or its row no such step.
        """
        return self.table.rows[name].frames(videos, steps, self.table.buffers)

    def _shard_of_videos(self, name: str) -> list[int]:
        """Return for each video the number of the shard that has its row; -1 if it has no row."""
        return list(self.table.rows[name].shard_of)


class QuestionDataset(_StoreDataset):
    """The questions of one split, each with the features of its video.

    Item ``i`` is row ``i`` of the split in the ``questions`` table (by part, then row). ``dataset[i]`` is a batch of
    one. ``__getitems__`` gathers a whole batch, and a ``DataLoader`` calls it by itself: ``DataLoader(dataset, 8)``
    gives batches of 8. No shard is opened before the first batch. The dataset can be pickled, and is safe under fork
    and spawn.

    Parameters
    ----------
    store
        A pinned ``Store``, or the path of one, whose latest version is then pinned.
    split
        Split in the questions table.
    features
        Views by their names in the batch, or a list of views and of features (all steps, float32).
    dataset
        Dataset in the questions table; required if several datasets of the store have this split.
    preload
        True or ``"ram"`` keeps every feature in memory, ``"cuda:0"`` on that GPU. Rows are then read at construction.
    pin
        Gather into page-locked memory, for ``batch.to(device, non_blocking=True)``.
    graphs
        Include the node texts of each question's graph.
    embeddings
        Include stored embeddings of these texts: ``"question"``, ``"nodes"``.
    encoder
        Text encoder of the embeddings (a prefix of its digest); required if the store has several.
    allow_missing
        For videos without a row, return zeros and a mask of False instead of raising an error.

    Raises
    ------
    StoreError
        If there are no such questions, or one of their videos, graphs or embeddings is missing.
    """

    def __init__(
        self,
        store: Store | str | Path,
        split: str,
        features: Features,
        dataset: str | None = None,
        preload: bool | str = False,
        pin: bool = False,
        graphs: bool = False,
        embeddings: Sequence[str] = (),
        encoder: str | None = None,
        allow_missing: bool = False,
    ) -> None:
        super().__init__(store, split, features, dataset, preload, pin, allow_missing)
        read = self.questions
        self._rows = Rows(
            *(read.ids, read.video_ids, read.texts, read.options),
            *(read.answers, read.types, read.modalities, read.spans),
        )
        nodes = load_nodes(self.store, self.questions, allow_missing) if graphs or "nodes" in embeddings else None
        self._nodes = nodes if graphs else None
        texts = {"question": self.questions.texts, "nodes": nodes}
        if unknown := sorted(set(embeddings) - set(texts)):
            raise StoreError(f"embeddings={unknown[0]!r}: unknown ({available(texts)})")
        self._vectors: dict[str, TextVectors] = {
            name: load_vectors(self.store, texts[name] or [], encoder) for name in embeddings
        }

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> QuestionBatch:
        return self.__getitems__([index])

    def shards(self, name: str) -> list[int]:
        """Return for each question the number of the shard with view ``name`` of its video, for ``ShuffleSampler``."""
        shards: list[int] = np.asarray(self._shard_of_videos(name))[self.video_of].tolist()
        return shards

    def __getitems__(self, indices: Sequence[int]) -> QuestionBatch:
        questions = self.questions
        indices = _counted(indices, len(self))
        features, valid, times = self.table.gather(self.video_of[indices].tolist())
        chosen = torch.tensor(indices, dtype=torch.int64)
        ids, video_ids, texts, options, answers, types, modalities, spans = self._rows.take(indices)
        return QuestionBatch(
            question_ids=ids,
            video_ids=video_ids,
            features=features,
            valid=valid,
            times=times,
            questions=texts,
            options=options,
            answers=answers,
            answer_index=questions.answer_index[chosen],
            types=types,
            modalities=modalities,
            spans=spans,
            duration=questions.duration[chosen],
            nodes=None if self._nodes is None else self._nodes.take(indices),
            embeddings={name: vectors.take(chosen) for name, vectors in self._vectors.items()} or None,
        )


class VideoDataset(_StoreDataset):
    """The videos of one split, each with its questions *of that split*.

    A video of MUSIC-AVQA has questions in several splits. Those of other splits never appear here, so a collective
    batch for training cannot see a test question. Item ``v`` is ``self.videos[v]`` (in order of first question) with
    all its questions. Item ``(v, questions)`` is the same video with some of them, by position in
    ``self.questions_of[v]``, as ``CollectiveSampler`` gives them.

    Parameters and errors are those of ``QuestionDataset``.
    """

    def __init__(
        self,
        store: Store | str | Path,
        split: str,
        features: Features,
        dataset: str | None = None,
        preload: bool | str = False,
        pin: bool = False,
        allow_missing: bool = False,
    ) -> None:
        super().__init__(store, split, features, dataset, preload, pin, allow_missing)
        read = self.questions
        self._rows = Rows(read.ids, read.texts, read.answers, read.types, read.modalities, read.options)
        self.questions_of = Groups(self.video_of, len(self.videos))
        """Rows of ``self.questions``, by video."""

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: VideoItem) -> VideoBatch:
        return self.__getitems__([item])

    def shards(self, name: str) -> list[int]:
        """Return for each video the number of the shard with its row of view ``name``, for ``ShuffleSampler``."""
        return self._shard_of_videos(name)

    def __getitems__(self, items: Sequence[VideoItem]) -> VideoBatch:
        pairs = [item if isinstance(item, tuple) else (int(item), None) for item in items]
        videos = _counted([video for video, _ in pairs], len(self))
        require_distinct(videos)
        chosen = [
            rows if some is None else [rows[at] for at in some]
            for rows, some in ((self.questions_of[video], some) for video, (_, some) in zip(videos, pairs, strict=True))
        ]
        features, valid, times = self.table.gather(videos)
        width = max(map(len, chosen), default=0)
        mask = np.array([[at < len(rows) for at in range(width)] for rows in chosen], bool).reshape(len(items), width)
        answer_index = torch.full(mask.shape, -1, dtype=torch.int64)
        q_mask = torch.from_numpy(mask)
        answer_index[q_mask] = self.questions.answer_index[
            torch.tensor([row for rows in chosen for row in rows], dtype=torch.int64)
        ]

        ends = np.cumsum([0, *map(len, chosen)]).tolist()

        def padded(column: list[Any], blank: Any) -> list[list[Any]]:
            return [column[start:end] + [blank] * (width - end + start) for start, end in pairwise(ends)]

        ids, texts, answers, types, modalities, options = self._rows.take([row for rows in chosen for row in rows])
        return VideoBatch(
            video_ids=self.videos.take(videos),
            features=features,
            valid=valid,
            times=times,
            question_ids=padded(ids, ""),
            questions=padded(texts, ""),
            answers=padded(answers, None),
            types=padded(types, ""),
            modalities=padded(modalities, None),
            answer_index=answer_index,
            q_mask=q_mask,
            options=padded(options, []),
        )


def identity(batch: _Batch) -> _Batch:
    """Return a batch unchanged.

    A ``DataLoader`` needs no ``collate_fn`` for the datasets of this package; this is one that leaves out what its own
    does, for code that was written with it.
    """
    return batch
