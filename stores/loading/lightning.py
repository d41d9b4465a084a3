"""A store's questions as a ``LightningDataModule`` (``pip install 'reelstore[lightning]'``)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from ..store import Store
from .batches import QuestionBatch
from .datasets import Features, QuestionDataset
from .samplers import ShuffleSampler

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule


def _lightning() -> Any:
    """Return the package that the program uses: ``lightning``, or its older name ``pytorch_lightning``."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    names.sort(key=lambda name: name not in sys.modules)
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise  # it is there, and something that it needs is not
    raise ImportError("reelstore.loading.lightning needs Lightning: pip install 'reelstore[lightning]'")


if not TYPE_CHECKING:
    LightningDataModule = _lightning().LightningDataModule


class StoreDataModule(LightningDataModule):
    """The splits of a dataset as loaders of ``QuestionBatch``.

    The training split is shuffled by (seed, epoch) alone. On several devices Lightning divides every loader among them,
    as it does by default (``Trainer(use_distributed_sampler=True)``).

    Parameters
    ----------
    store
        A pinned ``Store``, or the path of one, whose latest version is then pinned.
    features
        As of ``QuestionDataset``.
    dataset
        Dataset in the questions table; required if several datasets of the store have a split.
    train, val, test
        Names of the splits; None for a split that is not there.
    batch_size
        Questions in a batch of one device.
    seed
        Determines the order of the training split, together with the epoch.
    workers
        Processes that gather batches; 0 gathers in this one.
    options
        Further parameters of ``QuestionDataset``: ``preload``, ``graphs``, ``embeddings``, ``encoder``,
        ``allow_missing``, ``pin``.
    """

    def __init__(
        self,
        store: Store | str | Path,
        features: Features,
        dataset: str | None = None,
        train: str | None = "train",
        val: str | None = "val",
        test: str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.store = store if isinstance(store, Store) else Store.open(store)
        self.features, self.dataset, self.options = features, dataset, options
        self.splits = {"train": train, "val": val, "test": test}
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self._made: dict[str, QuestionDataset] = {}

    def questions(self, split: str) -> QuestionDataset:
        """Return the questions of a split; they are opened once.

        Raises
        ------
        StoreError
            If there are no such questions, or one of their videos is missing.
        """
        if split not in self._made:
            self._made[split] = QuestionDataset(self.store, split, self.features, self.dataset, **self.options)
        return self._made[split]

    def train_dataloader(self) -> DataLoader[QuestionBatch] | Sequence[Any]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[QuestionBatch] | Sequence[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[QuestionBatch] | Sequence[Any]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[QuestionBatch] | Sequence[Any]:
        return self._loader("test")

    def _loader(self, name: str, shuffle: bool = False) -> DataLoader[QuestionBatch] | Sequence[Any]:
        split = self.splits[name]
        if split is None:
            return ()
        questions = self.questions(split)
        sampler = ShuffleSampler(len(questions), self.seed, shuffle=shuffle)
        return DataLoader(
            questions,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
