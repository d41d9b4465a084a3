"""Datasets in other people's loops: a plain ``DataLoader``, wrappers around a dataset, Lightning."""

from __future__ import annotations

import importlib
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from stores import Store, StoreError
from stores.loading import QuestionBatch, QuestionDataset, VideoBatch, VideoDataset, View
from tests._helpers.question_worlds import put_questions, question, world
from tests.stores.loading.test_datasets import same

VIEWS = {"visual": View("maps", dtype=None), "ragged": View("ragged")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = world(tmp_path_factory.mktemp("loaders") / "store")
    put_questions(made, "nextgqa", "val", [question(video, 7) for video in "abc"])
    return made


@pytest.fixture(scope="module")
def dataset(root: Path) -> QuestionDataset:
    return QuestionDataset(root, "train", VIEWS)


def test_a_plain_loader_gives_batches(dataset: QuestionDataset) -> None:
    batches = list(DataLoader(dataset, batch_size=3))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert all(isinstance(batch, QuestionBatch) for batch in batches)
    assert same(batches[1], dataset.__getitems__([3, 4, 5]))
    shuffled = DataLoader(dataset, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))
    (batch,) = shuffled
    assert sorted(batch.question_ids) == sorted(dataset.questions.ids) != batch.question_ids
    (one,) = DataLoader(Subset(dataset, [5]), batch_size=None)
    assert same(one, dataset[5])


def test_a_plain_loader_gives_batches_from_workers(dataset: QuestionDataset) -> None:
    loader: Any = DataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="fork")
    assert [batch.question_ids for batch in loader] == [
        dataset.__getitems__(rows).question_ids for rows in (range(5), range(5, 8))
    ]


def test_items_that_a_wrapper_asks_for_singly_are_joined_as_the_dataset_joins_them(
    dataset: QuestionDataset,
) -> None:
    """``ConcatDataset`` knows no whole batches; rows of 2, 0 and 5 steps are padded."""
    twice: Any = ConcatDataset([dataset, dataset])
    for batch, rows in zip(DataLoader(twice, batch_size=4), ([0, 1, 2, 3], [4, 5, 6, 7]), strict=False):
        assert same(batch, dataset.__getitems__(rows))


def test_videos_are_joined_with_as_many_places_as_the_fullest_has(root: Path) -> None:
    put_questions(root, "nextgqa", "some", [question("a", 0), question("c", 1), question("c", 2, options=["x", "y"])])
    videos = VideoDataset(root, "some", VIEWS)
    (batch,) = DataLoader(videos, batch_size=2)
    assert isinstance(batch, VideoBatch) and same(batch, videos.__getitems__([0, 1]))
    singles = [videos[0], videos[1]]
    assert same(VideoBatch.join(singles), batch)
    assert singles[0].question_ids == [["a_0"]]  # what is joined stays as it was
    with pytest.raises(StoreError, match="needs distinct videos"):
        VideoBatch.join([videos[0], videos[0]])


def test_a_batch_is_a_sequence_of_batches_of_one(dataset: QuestionDataset) -> None:
    batch = dataset.__getitems__([2, 0, 5])
    assert [one.question_ids for one in batch] == [["c_0"], ["a_0"], ["b_1"]]
    assert batch[-1].features["visual"].shape == (1, 6, 2, 2, 3) and batch[-1].answers == ["no"]
    with pytest.raises(IndexError):
        batch[3]
    assert same(QuestionBatch.join([batch[0], batch[1], batch[2]]), batch)


@pytest.fixture(scope="module")
def lightning() -> Any:
    return pytest.importorskip("lightning.pytorch")


def fitted(lightning: Any, root: Path, out: Path, epochs: int) -> tuple[list[list[str]], list[float]]:
    """Fit for some epochs; return the questions of each training batch, and the losses of validation."""
    from stores.loading.lightning import StoreDataModule

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(12, 2)
            self.asked: list[list[str]] = []
            self.losses: list[float] = []

        def _loss(self, batch: QuestionBatch) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(
                self.layer(batch.features["visual"].float().mean(1).flatten(1)), batch.answer_index
            )

        def training_step(self, batch: QuestionBatch, index: int) -> torch.Tensor:
            self.asked.append(batch.question_ids)
            return self._loss(batch)

        def validation_step(self, batch: QuestionBatch, index: int) -> None:
            self.losses.append(float(self._loss(batch)))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    model = Model()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=out,
    )
    trainer.fit(model, datamodule=StoreDataModule(root, VIEWS, batch_size=3, seed=5))
    return model.asked, model.losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning has much to say about loaders without workers
def test_lightning_fits_from_a_store(lightning: Any, root: Path, tmp_path: Path) -> None:
    asked, losses = fitted(lightning, root, tmp_path, epochs=2)
    first, second = asked[:3], asked[3:]
    everyone = sorted(QuestionDataset(root, "train", VIEWS).questions.ids)
    assert [len(batch) for batch in first] == [3, 3, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == everyone
    assert first != second  # each epoch has an order of its own
    assert len(losses) == 2 and losses[1] < losses[0]
    again, _ = fitted(lightning, root, tmp_path, epochs=1)
    assert again == first  # by the seed and the epoch alone


@pytest.mark.slow
def test_a_data_module_names_what_is_wrong(lightning: Any, root: Path) -> None:
    from stores.loading.lightning import StoreDataModule

    module = StoreDataModule(Store.open(root), VIEWS, val=None, test="nowhere")
    assert module.val_dataloader() == ()
    with pytest.raises(StoreError, match="no questions of 'nowhere'"):
        module.test_dataloader()
    assert module.questions("train") is module.questions("train")


def test_without_lightning_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stores.loading.lightning", raising=False)
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs Lightning: pip install 'reelstore\[lightning\]'"):
        importlib.import_module("stores.loading.lightning")
