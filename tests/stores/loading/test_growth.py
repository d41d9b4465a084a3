"""A store that grows, is refreshed and collected while a trainer reads a pinned version of it."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from stores import Store
from stores.commit import Changes, commit
from stores.loading import BatchSampler, ShuffleSampler, VideoDataset, View, identity
from stores.upkeep.compaction import compact
from stores.upkeep.gc import collect
from tests._helpers.building import commit_rows, row
from tests._helpers.question_worlds import MAPS, maps, put_questions, question, world


def refresh(root: Path, content: int) -> None:
    """Do what a refresh does: new rows, one video fewer, other questions; then compact, and gc without grace."""
    commit_rows(root, [row(key, content, steps=6, step_shape=(2, 2, 3)) for key in "abcd"], feature="maps", spec=MAPS)
    commit(root, Changes(removed=[("maps", "a")]))
    put_questions(root, "nextgqa", "train", [question("b", content)])
    compact(root)
    collect(root, grace_seconds=0)


def refresher(root: Path, orders: Any, done: Any) -> None:
    while (content := orders.get()) is not None:
        refresh(root, content)
        done.put(content)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_reads_its_pinned_version_whatever_others_commit_and_collect(tmp_path: Path, workers: int) -> None:
    root = world(tmp_path / "store")
    store = Store.open(root)
    dataset = VideoDataset(store, "train", {"maps": View("maps", dtype=None)})
    context = multiprocessing.get_context("fork")
    orders, done = context.Queue(), context.Queue()
    other = context.Process(target=refresher, args=(root, orders, done))
    other.start()
    loader = DataLoader(
        dataset,
        batch_sampler=BatchSampler(ShuffleSampler(len(dataset), seed=4), 1),
        collate_fn=identity,
        num_workers=workers,
        prefetch_factor=1 if workers else None,
    )
    for epoch in range(2):
        seen = []
        for step, batch in enumerate(loader):
            (video,) = batch.video_ids
            np.testing.assert_array_equal(batch.features["maps"][0].numpy(), maps(video).values)
            assert batch.question_ids[0] == [f"{video}_0", f"{video}_1"]
            seen.append(video)
            orders.put(10 * epoch + step + 1)
            done.get(timeout=60)
        assert sorted(seen) == ["a", "b", "c", "d"]
    orders.put(None)
    other.join(60)
    assert other.exitcode == 0
    latest = VideoDataset(root, "train", ["maps"])
    assert latest.videos == ["b"] and latest.questions.ids == ["b_14"]
    shards = len(list(root.rglob("*.h5")))
    store.close()
    collect(root, grace_seconds=0)
    assert len(list(root.rglob("*.h5"))) < shards  # the lease alone had kept the pinned version


def test_within_the_grace_no_lease_is_needed(tmp_path: Path) -> None:
    root = world(tmp_path / "store")
    store = Store.open(root, lease=False)
    dataset = VideoDataset(store, "train", {"maps": View("maps", dtype=None)})
    commit_rows(root, [row(key, 1, steps=6, step_shape=(2, 2, 3)) for key in "abcd"], feature="maps", spec=MAPS)
    assert collect(root).files == []
    batch = dataset.__getitems__([0, 3])
    np.testing.assert_array_equal(batch.features["maps"].numpy(), np.stack([maps("a").values, maps("d").values]))
