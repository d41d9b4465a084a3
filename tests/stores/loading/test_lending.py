"""Batches from the workers of a DataLoader: in memory that is used again, and never while anybody may read it."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import pickle
import random
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from stores.loading import VideoDataset, View, identity
from stores.loading.batches import VideoBatch
from tests._helpers.building import SPEC, commit_rows, row, store_with
from tests._helpers.question_worlds import put_questions, question

SHAPE = (96, 64)
KEYS = [f"video{number:02d}" for number in range(24)]
BATCHES = [[first, first + 1] for first in range(0, len(KEYS), 2)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with rows that are large enough to be lent, each unlike all others."""
    root = store_with(tmp_path_factory.mktemp("lending") / "store")
    rows = [row(key, steps=6, step_shape=SHAPE) for key in KEYS]
    commit_rows(root, rows, spec={**SPEC, "step_shape": list(SHAPE), "steps": 6})
    put_questions(root, "nextgqa", "train", [question(key, 0) for key in KEYS])
    return root


def expected(positions: list[int]) -> np.ndarray:
    """Return the values of rows by position."""
    return np.stack([row(KEYS[position], steps=6, step_shape=SHAPE).values for position in positions])


def videos(root: Path) -> VideoDataset:
    """Open the videos as they are stored."""
    return VideoDataset(root, "train", {"demo": View("demo", dtype=None)})


def loader(dataset: Any, batches: Any = BATCHES, workers: int = 2, method: str = "fork") -> DataLoader[Any]:
    """Load batches in workers that stay."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=True,
        collate_fn=identity,
        multiprocessing_context=multiprocessing.get_context(method),
    )


def is_borrowed(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in memory that a worker lent."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return "memfd:reelstore-batch" in line
    return False


def files_of_workers() -> int:
    """Count the blocks that the workers of this process have open."""
    found: set[int] = set()
    for worker in multiprocessing.active_children():
        for descriptor in Path(f"/proc/{worker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # just closed
                if "memfd:reelstore-batch" in str(descriptor.readlink()):
                    found.add(descriptor.stat().st_ino)  # a loan on its way has a descriptor of its own
    return len(found)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_are_lent_and_right_however_long_each_is_held(root: Path, method: str) -> None:
    choose = random.Random(7)
    workers = loader(videos(root), workers=2 if method == "fork" else 1, method=method)
    held: list[tuple[list[int], torch.Tensor]] = []
    for _ in range(4 if method == "fork" else 2):
        for positions, batch in zip(BATCHES, workers, strict=True):
            assert is_borrowed(batch.features["demo"])
            part = batch.features["demo"][choose.randrange(2) :]  # a view keeps the whole batch
            held.append((positions[-len(part) :], part))
            choose.shuffle(held)
            del held[choose.randrange(1, 8) :], batch, part
            for kept, values in held:
                np.testing.assert_array_equal(values, expected(kept))


def test_blocks_are_used_again(root: Path) -> None:
    workers = loader(videos(root))
    for _ in range(5):
        for _batch in workers:
            pass
    assert 2 <= files_of_workers() <= 2 * 5  # 60 batches in two workers, each with two to send and one being used


def test_a_loader_that_is_kept_whole_is_right_and_its_memory_is_given_up_afterwards(root: Path) -> None:
    workers = loader(videos(root), BATCHES * 4, workers=1)
    batches = list(workers)
    assert files_of_workers() >= len(batches)
    for positions, batch in zip(BATCHES * 4, batches, strict=True):
        np.testing.assert_array_equal(batch.features["demo"], expected(positions))
    del batches, batch
    for _batch in workers:
        pass
    assert files_of_workers() < 12


def test_an_epoch_that_is_left_early_costs_no_block(root: Path) -> None:
    workers = loader(videos(root))
    for _ in range(8):
        for positions, batch in zip(BATCHES, workers, strict=False):
            np.testing.assert_array_equal(batch.features["demo"], expected(positions))
            break
    assert files_of_workers() <= 2 * 6


def _read_after(pipe: Connection, values: torch.Tensor) -> None:
    pipe.recv()
    pipe.send(values.clone().numpy())


@pytest.mark.parametrize("way", ["forked", "sent"])
def test_a_batch_that_another_process_has_too_is_not_overwritten(root: Path, way: str) -> None:
    """The trainer is done with the batch, and the workers go on; the other process reads it afterwards."""
    workers = loader(videos(root))
    epoch = iter(workers)
    values = next(epoch).features["demo"]
    context = multiprocessing.get_context("fork" if way == "forked" else "spawn")
    ours, theirs = context.Pipe()
    other: Any = context.Process(target=_read_after, args=(theirs, values))
    other.start()
    del values
    for _ in range(3):
        for _batch in workers:
            pass
    ours.send("read it")
    np.testing.assert_array_equal(ours.recv(), expected(BATCHES[0]))
    other.join()


def test_forks_while_a_batch_is_in_use_cost_no_more_than_that_batch(root: Path) -> None:
    """As when an evaluation starts workers of its own in the middle of training."""
    workers = loader(videos(root), workers=1)
    for _ in range(3):
        for _batch in workers:
            child = multiprocessing.get_context("fork").Process(target=int)
            child.start()
            child.join()
    assert files_of_workers() <= 12  # of 36 forks


class Pickling(Dataset[Any]):
    """Does to batches in a worker what a user's own dataset may do."""

    def __init__(self, dataset: VideoDataset, way: str) -> None:
        self.dataset, self.way = dataset, way

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, items: list[int]) -> Any:
        batch = self.dataset.__getitems__(items)
        if self.way == "bytes":
            return pickle.dumps(batch)
        if self.way == "deepcopy":
            return copy.deepcopy(batch)
        if self.way == "copy":
            return copy.copy(batch)
        if self.way == "tensor":
            return batch.features["demo"]
        if self.way == "slice":
            batch.features["demo"] = batch.features["demo"][:, 1:]
            return batch
        return [batch, batch]


@pytest.mark.parametrize("way", ["bytes", "deepcopy", "copy", "tensor", "slice", "twice"])
def test_batches_may_be_copied_cut_and_pickled_in_a_worker(root: Path, way: str) -> None:
    held = []
    for _ in range(2):
        for positions, got in zip(BATCHES, loader(Pickling(videos(root), way)), strict=True):
            batches = got if isinstance(got, list) else [pickle.loads(got) if way == "bytes" else got]
            held += [
                (positions, batch.features["demo"] if isinstance(batch, VideoBatch) else batch) for batch in batches
            ]
    for positions, values in held:
        wanted = expected(positions)
        np.testing.assert_array_equal(values, wanted[:, 1:] if way == "slice" else wanted)


def test_the_small_tensors_of_a_batch_travel_by_value(root: Path) -> None:
    """Each loan costs a file descriptor and a connection."""
    for batch in loader(videos(root), workers=1):
        small = [*batch.valid.values(), *batch.times.values(), batch.answer_index, batch.q_mask]
        assert not any(is_borrowed(tensor) or tensor.is_shared() for tensor in small)


def test_a_worker_that_forks_shares_no_block_with_its_child(root: Path) -> None:
    got = next(iter(DataLoader(Forking(videos(root)), batch_sampler=[[0]], num_workers=1, collate_fn=identity)))
    assert got == {"same": True, "child": True, "held": True}


class Forking(Dataset[Any]):
    """Forks in a worker, and gathers in parent and child."""

    def __init__(self, dataset: VideoDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, items: list[int]) -> dict[str, bool]:
        self.dataset.__getitems__([0, 1])  # leaves a free block
        held = self.dataset.__getitems__([6, 7]).features["demo"]
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        child = os.fork()
        if not child:
            values = self.dataset.__getitems__([2, 3]).features["demo"]
            theirs.send(bool((values.numpy() == expected([2, 3])).all()))
            theirs.recv()  # the parent has dropped the batch that both had, and filled two more
            theirs.send(bool((held.numpy() == expected([6, 7])).all()))
            os._exit(0)
        del held
        assert ours.poll(30)
        values = self.dataset.__getitems__([4, 5]).features["demo"]
        right = bool((values.numpy() == expected([4, 5])).all())
        more = self.dataset.__getitems__([8, 9]).features["demo"]
        answer = {"same": right, "child": ours.recv()}
        ours.send("go on")
        answer["held"] = ours.recv() and len(more) == 2
        os.waitpid(child, 0)
        return answer
