"""Samplers whose order depends on (seed, epoch, rank) alone, so that training can resume at any step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Sampler

from ..errors import StoreError
from ..format.rows import Array
from .datasets import VideoDataset

Uneven = Literal["pad", "drop"]
"""What to do if the number of ranks does not divide the number of items."""


def _check_same(state: Mapping[str, Any], identity: Mapping[str, Any], *more: str) -> None:
    """Raise if a state comes from another kind of sampler, or from one with another order."""
    if absent := [name for name in (*identity, *more) if name not in state]:
        raise StoreError(f"cannot resume: the state belongs to another kind of sampler, it has no {absent[0]!r}")
    for name, value in identity.items():
        if state[name] != value:
            raise StoreError(f"cannot resume: {name} was {state[name]!r} and is {value!r} now")


class ShuffleSampler(Sampler[int]):
    """The items of one rank in the order of one epoch.

    Every rank shuffles all items in the same way, by (seed, epoch), and takes every ``world``-th of them. So ranks
    share no item (except for padding) and have equally many. ``state_dict`` and ``load_state_dict`` resume within an
    epoch, at the item after the last one given.

    Parameters
    ----------
    items
        Number of items, or their indices.
    seed
        Determines the order, together with the epoch.
    shuffle
        False keeps the items' own order.
    rank, world
        Number of this process, and of all processes.
    uneven
        If ``world`` does not divide the number of items, ``"pad"`` repeats the first items of the epoch and ``"drop"``
        leaves out the last ones.
    shards
        A shard number per item, as ``dataset.shards(name)`` returns. Shards are shuffled, and items only within
        ``window`` shards at a time, so that a slow disk reads a few files at a time instead of all of them.
    window
        Number of shards whose items are shuffled together.

    Raises
    ------
    StoreError
        If a parameter is out of range.
    """

    def __init__(
        self,
        items: int | Sequence[int],
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        uneven: Uneven = "pad",
        shards: Sequence[int] | None = None,
        window: int = 16,
    ) -> None:
        if not 0 <= rank < world:
            raise StoreError(f"rank={rank} of {world} processes: must be from 0 to {world - 1}")
        self._items = np.arange(items) if isinstance(items, int) else np.asarray(items, np.int64)
        if uneven not in ("pad", "drop"):
            raise StoreError(f"uneven={uneven!r}: must be 'pad' or 'drop'")
        if window < 1:
            raise StoreError(f"window={window}: must be at least 1")
        if seed < 0:
            raise StoreError(f"seed={seed}: must not be negative")
        if shards is not None and len(shards) != len(self._items):
            raise StoreError(
                f"shards: {len(shards)} shard numbers for {len(self._items)} items; one per item is needed"
            )
        self.seed, self.shuffle, self.rank, self.world, self.uneven = seed, shuffle, rank, world, uneven
        self._shards = None if shards is None else np.asarray(shards, np.int64)
        self._window = window
        self.epoch = 0
        self.position = 0
        self._resume_at = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self.position, self._resume_at = epoch, 0, 0

    def __len__(self) -> int:
        """Return the number of items of this rank in a whole epoch."""
        total = len(self._items)
        return total // self.world if self.uneven == "drop" else -(-total // self.world)

    def order(self) -> Array:
        """Return this rank's items of the whole epoch in order, ``[len(self)] int64``."""
        everyone = self._items[self._permutation()]
        share = len(self) * self.world
        if len(everyone):
            everyone = np.resize(everyone, share)  # repeats the start, or drops the end
        return everyone[self.rank :: self.world]

    def _permutation(self) -> Array:
        """Return the order of all items in this epoch, as positions."""
        count = len(self._items)
        if not self.shuffle:
            return np.arange(count)
        generator = np.random.default_rng((self.seed, self.epoch))
        if self._shards is None:
            return generator.permutation(count)
        shards, number = np.unique(self._shards, return_inverse=True)
        place = generator.permutation(len(shards))[number]  # rank of each item's shard in the shuffled order
        return np.lexsort((generator.permutation(count), place // self._window))

    def __iter__(self) -> Iterator[int]:
        self.position, self._resume_at = self._resume_at, 0
        for item in self.order()[self.position :].tolist():
            self.position += 1
            yield item

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch, and what identifies the order."""
        return {**self._identity(), "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the item at which ``state`` was taken.

        Raises
        ------
        StoreError
            If the state comes from a sampler with another order.
        """
        _check_same(state, self._identity(), "epoch", "position")
        self.epoch = state["epoch"]
        self.position = self._resume_at = state["position"]

    def _identity(self) -> dict[str, Any]:
        identity = {name: getattr(self, name) for name in ("seed", "shuffle", "rank", "world", "uneven")}
        shards = b"" if self._shards is None else self._shards.tobytes() + str(self._window).encode()
        return {**identity, "items": hashlib.sha256(self._items.tobytes() + shards).hexdigest()}


class BatchSampler(Sampler[list[Any]]):
    """Batches of the items of a ``ShuffleSampler``, for ``DataLoader(batch_sampler=…)``.

    A loader asks for batches ahead of their use, so the trainer has to say how many batches were *used*:
    ``state_dict(step)`` for a checkpoint, then ``load_state_dict`` or ``start(epoch, step)``.

    Parameters
    ----------
    items
        The items of this rank.
    batch_size
        Number of items in a batch.
    drop_last
        Leave out a last batch with fewer items.

    Raises
    ------
    StoreError
        If ``batch_size`` is less than 1.
    """

    def __init__(self, items: ShuffleSampler, batch_size: int, drop_last: bool = False) -> None:
        if batch_size < 1:
            raise StoreError(f"batch_size={batch_size}: must be at least 1")
        self.items, self.batch_size, self.drop_last = items, batch_size, drop_last
        self.step = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        count = len(self.items)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.start(epoch, 0)

    def start(self, epoch: int, step: int) -> None:
        """Go to batch ``step`` of an epoch."""
        self.items.set_epoch(epoch)
        self.step = self._resume_at = step

    def __iter__(self) -> Iterator[list[Any]]:
        order = self.items.order().tolist()
        first, self._resume_at = self._resume_at, 0
        for step in range(first, len(self)):
            self.step = step + 1
            yield [self._item(item) for item in order[step * self.batch_size : (step + 1) * self.batch_size]]

    def _item(self, item: int) -> Any:
        return item

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """Return the state after batch ``step`` of the epoch, by default after the last batch given."""
        return {"items": self.items.state_dict(), **self._identity(), "step": self.step if step is None else step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the batches that ``state`` counts.

        Raises
        ------
        StoreError
            If the state comes from a sampler with other batches.
        """
        _check_same(state, self._identity(), "items", "step")
        self.items.load_state_dict(state["items"])
        self.step = self._resume_at = state["step"]

    def _identity(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "drop_last": self.drop_last}


class CollectiveSampler(BatchSampler):
    """Batches of distinct videos, each with a choice of its questions (collective question reasoning).

    A batch is a list of ``(video, questions)`` for ``VideoDataset``. Questions are chosen without replacement, by
    (seed, epoch, video id) only, so the choice depends neither on the batch size nor on the number of ranks.

    Parameters
    ----------
    dataset
        The videos of one split, with the questions of that split only.
    batch_size
        Number of videos in a batch.
    n_max
        Largest number of questions per video; None for all.
    quotas
        Largest number of questions per video and modality, such as ``{"Audio": 1, "Visual": 2, "Audio-Visual": 3}``.
        A modality without a quota gives no question. Most videos cannot fill such quotas, so batches are masked. Videos
        without any question left are skipped.
    drop_last
        Leave out a last batch with fewer videos.
    shards
        A shard number per video, as in ``ShuffleSampler``.
    **order
        ``seed``, ``shuffle``, ``rank``, ``world``, ``uneven`` and ``window``, as in ``ShuffleSampler``.

    Raises
    ------
    StoreError
        If a parameter is out of range, or no video has a question left.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        batch_size: int,
        n_max: int | None = None,
        quotas: Mapping[str, int] | None = None,
        drop_last: bool = False,
        shards: Sequence[int] | None = None,
        **order: Any,
    ) -> None:
        if n_max is not None and n_max < 1:
            raise StoreError(f"n_max={n_max}: must be at least 1")
        for modality, quota in sorted((quotas or {}).items()):
            if quota < 0:
                raise StoreError(f"quotas: {modality!r} has {quota}; a quota must not be negative")
        self.n_max = n_max
        self.quotas = None if quotas is None else dict(quotas)
        self._dataset = dataset
        eligible = self._eligible()
        if not eligible:
            raise StoreError(f"no video has a question within n_max={n_max}, quotas={quotas}")
        kept = None if shards is None else [shards[video] for video in eligible]
        super().__init__(ShuffleSampler(eligible, shards=kept, **order), batch_size, drop_last)

    def _eligible(self) -> list[int]:
        """Return the videos that may give a question, ascending."""
        if self.quotas is None:
            return list(range(len(self._dataset)))
        known = self._dataset.questions.modalities.array.cast(pa.string())
        allowed = [modality for modality, quota in self.quotas.items() if quota]
        rows = pc.is_in(known, value_set=pa.array(allowed, known.type)).to_numpy(zero_copy_only=False)
        videos: list[int] = np.unique(self._dataset.video_of[rows]).tolist()
        return videos

    def _allowed(self, modalities: Sequence[str | None]) -> int:
        """Return how many questions a video may give, from the modalities of its questions."""
        most = len(modalities)
        if self.quotas is not None:
            most = sum(min(quota, modalities.count(modality)) for modality, quota in self.quotas.items())
        return most if self.n_max is None else min(most, self.n_max)

    def _item(self, item: int) -> tuple[int, tuple[int, ...]]:
        modalities = self._dataset.questions.modalities.take(self._dataset.questions_of[item])
        most = self._allowed(modalities)
        if most == len(modalities):
            return item, tuple(range(most))
        video = int.from_bytes(hashlib.blake2b(self._dataset.videos[item].encode(), digest_size=8).digest(), "little")
        left = {} if self.quotas is None else dict(self.quotas)
        chosen: list[int] = []
        generator = np.random.default_rng((self.items.seed, self.items.epoch, video))
        for at in generator.permutation(len(modalities)).tolist():
            if self.quotas is not None:
                if left.get(modalities[at], 0) == 0:
                    continue
                left[modalities[at]] -= 1
            chosen.append(at)
        return item, tuple(sorted(chosen[:most]))

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "n_max": self.n_max, "quotas": self.quotas}
