"""Samplers: which items come when, as a function of (seed, epoch, rank) alone, so that any step can be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import Sampler

from ..errors import StoreError
from ..format.rows import Array
from .datasets import VideoDataset

Uneven = Literal["pad", "drop"]


def _check_same(state: Mapping[str, Any], identity: Mapping[str, Any], *more: str) -> None:
    """Refuse a state that another kind of sampler gave, or one of another order."""
    if absent := [name for name in (*identity, *more) if name not in state]:
        raise StoreError(f"cannot resume: not the state of such a sampler, it has no {absent[0]!r}")
    for name, value in identity.items():
        if state[name] != value:
            raise StoreError(f"cannot resume: {name} was {state[name]!r} and is {value!r} now")


class ShuffleSampler(Sampler[int]):
    """The items of one rank in the order of one epoch.

    Every rank shuffles all items alike by (seed, epoch) and takes each ``world``-th, so the ranks share no
    item and have equally many.

    Parameters
    ----------
    items : how many items there are, or their indices.
    seed : together with the epoch it decides the order.
    shuffle : False keeps the items' own order.
    rank, world : this process among ``world`` of them.
    uneven : where ``world`` does not divide the items: ``"pad"`` gives the first items of the epoch once more,
        ``"drop"`` leaves the last ones out.
    shards : a shard number per item. The shards are shuffled, and items only among ``window`` shards at a
        time: a slow disk then reads a few files, not all of them. ``dataset.shards(name)`` tells them.
    window : how many shards are shuffled together.

    ``state_dict`` and ``load_state_dict`` resume within an epoch at the item after the last one given.
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
            raise StoreError(f"rank {rank} of {world} processes: ranks are 0 to {world - 1}")
        self._items = np.arange(items) if isinstance(items, int) else np.asarray(items, np.int64)
        if uneven not in ("pad", "drop"):
            raise StoreError(f"uneven={uneven!r}: it is 'pad' or 'drop'")
        if window < 1:
            raise StoreError(f"window={window}: at least one shard is shuffled at a time")
        if seed < 0:
            raise StoreError(f"seed={seed}: a seed is not negative")
        if shards is not None and len(shards) != len(self._items):
            raise StoreError(f"{len(shards)} shard numbers for {len(self._items)} items")
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
        """Items of this rank in a whole epoch."""
        total = len(self._items)
        return total // self.world if self.uneven == "drop" else -(-total // self.world)

    def order(self) -> Array:
        """``[len(self)] int64``: this rank's items of the whole epoch."""
        everyone = self._items[self._permutation()]
        share = len(self) * self.world
        if len(everyone):
            everyone = np.resize(everyone, share)  # repeats from the start, or leaves out the end
        return everyone[self.rank :: self.world]

    def _permutation(self) -> Array:
        count = len(self._items)
        if not self.shuffle:
            return np.arange(count)
        generator = np.random.default_rng((self.seed, self.epoch))
        if self._shards is None:
            return generator.permutation(count)
        shards, number = np.unique(self._shards, return_inverse=True)
        place = generator.permutation(len(shards))[number]  # of each item's shard among the shuffled shards
        return np.lexsort((generator.permutation(count), place // self._window))

    def __iter__(self) -> Iterator[int]:
        self.position, self._resume_at = self._resume_at, 0
        for item in self.order()[self.position :].tolist():
            self.position += 1
            yield item

    def state_dict(self) -> dict[str, Any]:
        """Where in which order this sampler is."""
        return {**self._identity(), "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the item that ``state`` was taken at.

        Raises
        ------
        StoreError
            If the state is of a sampler that gives another order.
        """
        _check_same(state, self._identity(), "epoch", "position")
        self.epoch = state["epoch"]
        self.position = self._resume_at = state["position"]

    def _identity(self) -> dict[str, Any]:
        identity = {name: getattr(self, name) for name in ("seed", "shuffle", "rank", "world", "uneven")}
        shards = b"" if self._shards is None else self._shards.tobytes() + str(self._window).encode()
        return {**identity, "items": hashlib.sha256(self._items.tobytes() + shards).hexdigest()}


class BatchSampler(Sampler[list[Any]]):
    """Batches of the items of a :class:`ShuffleSampler`, for ``DataLoader(batch_sampler=…)``.

    Loaders ask ahead, so a checkpoint says itself how many batches were *used*: ``state_dict(step)``, then
    ``load_state_dict``, or ``start(epoch, step)``.
    """

    def __init__(self, items: ShuffleSampler, batch_size: int, drop_last: bool = False) -> None:
        if batch_size < 1:
            raise StoreError(f"batch_size={batch_size}: a batch has at least one item")
        self.items, self.batch_size, self.drop_last = items, batch_size, drop_last
        self.step = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
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
        """Where this sampler is: after batch ``step`` of the epoch, by default after the last one given."""
        return {"items": self.items.state_dict(), **self._identity(), "step": self.step if step is None else step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batch after those that ``state`` counts.

        Raises
        ------
        StoreError
            If the state is of a sampler that gives other batches.
        """
        _check_same(state, self._identity(), "items", "step")
        self.items.load_state_dict(state["items"])
        self.step = self._resume_at = state["step"]

    def _identity(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "drop_last": self.drop_last}


class CollectiveSampler(BatchSampler):
    """Batches of distinct videos, each with a choice of its questions (collective question reasoning).

    A batch is a list of ``(video, questions)`` for :class:`VideoDataset`. The choice is without replacement and
    depends on (seed, epoch, video id) only, so it is the same whatever the batch size or the number of ranks.

    Parameters
    ----------
    dataset : the videos of one split; only questions of that split exist in it.
    batch_size : videos in a batch.
    n_max : at most so many questions of a video; None for all.
    quotas : at most so many questions of each modality, as ``{"Audio": 1, "Visual": 2, "Audio-Visual": 3}``;
        a modality that is not named gives none. Most videos cannot fill such quotas: batches are masked.
        Videos of which nothing is left are passed over.
    seed, shuffle, rank, world, uneven, shards, window : as in :class:`ShuffleSampler`; ``shards`` per video.
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
            raise StoreError(f"n_max={n_max}: at least one question of a video")
        if wrong := sorted(name for name, quota in (quotas or {}).items() if quota < 0):
            raise StoreError(f"quotas: {wrong[0]!r} has {(quotas or {})[wrong[0]]}; a quota is not negative")
        self.n_max = n_max
        self.quotas = None if quotas is None else dict(quotas)
        self._videos = dataset.videos
        self._modalities = [[dataset.questions.modalities[row] for row in rows] for rows in dataset.questions_of]
        eligible = [video for video, kinds in enumerate(self._modalities) if self._allowed(kinds)]
        if not eligible:
            raise StoreError(f"no video has a question within n_max={n_max}, quotas={quotas}")
        kept = None if shards is None else [shards[video] for video in eligible]
        super().__init__(ShuffleSampler(eligible, shards=kept, **order), batch_size, drop_last)

    def _allowed(self, kinds: Sequence[str | None]) -> int:
        """How many questions of a video may come at once."""
        most = len(kinds)
        if self.quotas is not None:
            most = sum(min(quota, kinds.count(kind)) for kind, quota in self.quotas.items())
        return most if self.n_max is None else min(most, self.n_max)

    def _item(self, item: int) -> tuple[int, tuple[int, ...]]:
        kinds = self._modalities[item]
        most = self._allowed(kinds)
        if most == len(kinds):
            return item, tuple(range(most))
        video = int.from_bytes(hashlib.blake2b(self._videos[item].encode(), digest_size=8).digest(), "little")
        left = {} if self.quotas is None else dict(self.quotas)
        chosen: list[int] = []
        for at in np.random.default_rng((self.items.seed, self.items.epoch, video)).permutation(len(kinds)).tolist():
            if self.quotas is not None:
                if left.get(kinds[at], 0) == 0:
                    continue
                left[kinds[at]] -= 1
            chosen.append(at)
        return item, tuple(sorted(chosen[:most]))

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "n_max": self.n_max, "quotas": self.quotas}
