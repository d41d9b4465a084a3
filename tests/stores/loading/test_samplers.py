"""Samplers: orders that depend on (seed, epoch, rank) alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stores import StoreError
from stores.loading import BatchSampler, CollectiveSampler, ShuffleSampler, VideoDataset, identity
from tests._helpers.question_worlds import put_questions, question, world
from tests.conftest import ROOT


def epoch(sampler: Any, number: int) -> list[Any]:
    sampler.set_epoch(number)
    return list(sampler)


@given(
    count=st.integers(0, 60),
    world_size=st.integers(1, 7),
    uneven=st.sampled_from(["pad", "drop"]),
    seed=st.integers(0, 5),
    number=st.integers(0, 3),
)
def test_ranks_share_an_epoch_evenly(count: int, world_size: int, uneven: Any, seed: int, number: int) -> None:
    ranks = [ShuffleSampler(count, seed=seed, rank=rank, world=world_size, uneven=uneven) for rank in range(world_size)]
    shares = [epoch(sampler, number) for sampler in ranks]
    assert {len(share) for share in shares} == {len(ranks[0])}
    together = [item for share in shares for item in share]
    if uneven == "drop":
        assert len(together) == len(set(together)) == count // world_size * world_size
    else:
        assert set(together) == set(range(count))
        assert len(together) - count < world_size or count == 0
    if count >= world_size:
        assert all(len(set(share)) == len(share) for share in shares)


def test_order_follows_seed_and_epoch() -> None:
    sampler = ShuffleSampler(1000, seed=3)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(1000)) and first != second
    assert epoch(ShuffleSampler(1000, seed=3), 1) == second
    assert epoch(ShuffleSampler(1000, seed=4), 1) != second
    assert epoch(ShuffleSampler(5, shuffle=False), 7) == [0, 1, 2, 3, 4]
    assert epoch(ShuffleSampler([30, 10, 20], shuffle=False), 0) == [30, 10, 20]


def test_an_order_is_uniform() -> None:
    """Every item comes first about equally often: chi-squared over 2,000 epochs of 10 items, 99.99 % quantile 33.7."""
    sampler = ShuffleSampler(10, seed=1)
    counts = np.bincount([epoch(sampler, number)[0] for number in range(2000)], minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 33.7


def test_a_window_reads_a_few_shards_at_a_time() -> None:
    shards = [item % 20 for item in range(400)]  # 20 shards of 20 items
    order = epoch(ShuffleSampler(400, seed=2, shards=shards, window=4), 5)
    assert sorted(order) == list(range(400))
    blocks = [{shards[item] for item in order[start : start + 80]} for start in range(0, 400, 80)]
    assert [len(block) for block in blocks] == [4] * 5 and len(set.union(*blocks)) == 20
    assert [shards[item] for item in order[:80]] != sorted(shards[item] for item in order[:80])
    other = epoch(ShuffleSampler(400, seed=2, shards=shards, window=4), 6)
    assert {shards[item] for item in other[:80]} != blocks[0]


@settings(max_examples=50)
@given(
    count=st.integers(1, 40),
    size=st.integers(1, 9),
    drop_last=st.booleans(),
    used=st.integers(0, 50),
    rank=st.integers(0, 1),
)
def test_training_resumes_at_any_step(count: int, size: int, drop_last: bool, used: int, rank: int) -> None:
    def made() -> BatchSampler:
        return BatchSampler(ShuffleSampler(count, seed=9, rank=rank, world=2), size, drop_last)

    whole = epoch(made(), 4)
    assert len(whole) == len(made()) and all(len(batch) == size for batch in whole[:-1])
    used = min(used, len(whole))
    running = made()
    running.set_epoch(4)
    for _, _ in zip(range(used), running, strict=False):
        pass
    for state in (running.state_dict(used), json.loads(json.dumps(running.state_dict(used)))):
        resumed = made()
        resumed.load_state_dict(state)
        assert list(resumed) == whole[used:]
        assert list(resumed) == whole  # the same epoch once more, from its start
    started = made()
    started.start(4, used)
    assert list(started) == whole[used:]


def test_a_sampler_counts_what_it_gave() -> None:
    sampler = BatchSampler(ShuffleSampler(20), 4)
    batches = iter(sampler)
    taken = [next(batches), next(batches)]
    assert sampler.state_dict()["step"] == 2
    resumed = BatchSampler(ShuffleSampler(20), 4)
    resumed.load_state_dict(sampler.state_dict())
    assert taken + list(resumed) == list(BatchSampler(ShuffleSampler(20), 4))
    single = ShuffleSampler(20)
    items = iter(single)
    seen = [next(items) for _ in range(7)]
    other = ShuffleSampler(20)
    other.load_state_dict(single.state_dict())
    assert seen + list(other) == list(ShuffleSampler(20))


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (BatchSampler(ShuffleSampler(20, seed=1), 4), "seed was 0 and is 1"),
        (BatchSampler(ShuffleSampler(21), 4), "items was"),
        (BatchSampler(ShuffleSampler(20), 5), "batch_size was 4 and is 5"),
        (BatchSampler(ShuffleSampler(20, world=2), 4), "world was 1 and is 2"),
        (BatchSampler(ShuffleSampler(20, shards=[0] * 20), 4), "items was"),
    ],
)
def test_another_order_is_not_resumed(other: BatchSampler, names: str) -> None:
    with pytest.raises(StoreError, match=f"cannot resume: {names}"):
        other.load_state_dict(BatchSampler(ShuffleSampler(20), 4).state_dict())


def test_the_state_of_another_kind_of_sampler_is_not_resumed() -> None:
    with pytest.raises(StoreError, match="the state belongs to another kind of sampler, it has no 'batch_size'"):
        BatchSampler(ShuffleSampler(20), 4).load_state_dict(ShuffleSampler(20).state_dict())
    with pytest.raises(StoreError, match="it has no 'seed'"):
        ShuffleSampler(20).load_state_dict(BatchSampler(ShuffleSampler(20), 4).state_dict())


@pytest.mark.parametrize(
    "made",
    [
        lambda: ShuffleSampler(3, rank=2, world=2),
        lambda: ShuffleSampler(3, uneven="repeat"),  # type: ignore[arg-type]  # wrong on purpose
        lambda: ShuffleSampler(3, shards=[1]),
        lambda: ShuffleSampler(3, shards=[1, 1, 2], window=0),
        lambda: ShuffleSampler(3, seed=-1),
        lambda: BatchSampler(ShuffleSampler(3), 0),
    ],
)
def test_what_makes_no_order_is_refused(made: Any) -> None:
    with pytest.raises(StoreError):
        made()


KINDS = {"p": "Audio,Visual,Visual,Audio-Visual,Audio-Visual,Audio-Visual", "q": "Audio,Audio", "r": "Audio-Visual"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    root = world(tmp_path_factory.mktemp("samplers") / "store")
    rows = [
        question(video, number, modality=kind)
        for video, kinds in KINDS.items()
        for number, kind in enumerate(kinds.split(","))
    ]
    rows += [question(f"more{number}", 0, modality="Visual") for number in range(6)]
    put_questions(root, "music_avqa", "train", rows)
    return VideoDataset(root, "train", [], "music_avqa")


def choices(videos: VideoDataset, number: int, **made: Any) -> dict[str, tuple[str | None, ...]]:
    sampler = CollectiveSampler(videos, 2, **made)
    items = [item for batch in epoch(sampler, number) for item in batch]
    return {
        videos.videos[video]: tuple(videos.questions.modalities[videos.questions_of[video][at]] for at in chosen)
        for video, chosen in items
    }


def test_all_questions_by_default(videos: VideoDataset) -> None:
    got = choices(videos, 0)
    assert {video: len(kinds) for video, kinds in got.items()} == {
        **{video: len(kinds.split(",")) for video, kinds in KINDS.items()},
        **{f"more{number}": 1 for number in range(6)},
    }


def test_a_cap_chooses_without_replacement(videos: VideoDataset) -> None:
    sampler = CollectiveSampler(videos, 4, n_max=3, seed=5)
    chosen = [dict(item for batch in epoch(sampler, number) for item in batch)[0] for number in range(200)]
    assert all(len(set(choice)) == 3 and list(choice) == sorted(choice) for choice in chosen)
    assert set().union(*chosen) == set(range(6)) and len(set(chosen)) > 10
    counts = np.bincount(np.concatenate(chosen), minlength=6)
    assert counts.min() > 60  # of 100 expected


def test_quotas_hold_by_modality_and_pass_over_videos_without(videos: VideoDataset) -> None:
    quotas = {"Audio": 1, "Audio-Visual": 2}
    for number in range(20):
        got = choices(videos, number, quotas=quotas)
        assert got == {"p": ("Audio", "Audio-Visual", "Audio-Visual"), "q": ("Audio",), "r": ("Audio-Visual",)}
        capped = choices(videos, number, quotas=quotas, n_max=2)
        assert len(capped["p"]) == 2 and capped["p"].count("Audio") <= 1
    for wrong in ({"n_max": 0}, {"n_max": -1}, {"quotas": {"Audio": -1}}):
        with pytest.raises(StoreError, match=next(iter(wrong))):
            CollectiveSampler(videos, 2, **wrong)
    with pytest.raises(StoreError, match="no video has a question"):
        CollectiveSampler(videos, 2, quotas={"Smell": 1})


def test_the_choice_is_the_videos_own(videos: VideoDataset) -> None:
    """Batch size, rank and other videos do not change which questions of a video an epoch uses."""

    def by_video(batch_size: int, **order: Any) -> dict[int, tuple[int, ...]]:
        return dict(
            item
            for batch in epoch(CollectiveSampler(videos, batch_size, n_max=2, seed=7, **order), 3)
            for item in batch
        )

    alone = by_video(1)
    assert by_video(4) == alone
    assert {**by_video(2, rank=0, world=2), **by_video(2, rank=1, world=2)} == alone
    assert by_video(3, shards=[0, 1, 2] * 3, window=1) == alone
    code = (
        "import numpy as np, hashlib; video = int.from_bytes(hashlib.blake2b(b'p', digest_size=8).digest(), 'little');"
        "print(tuple(sorted(np.random.default_rng((7, 3, video)).permutation(6)[:2].tolist())))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == str(alone[0])


def test_batches_of_distinct_videos_reach_a_loader(videos: VideoDataset) -> None:
    sampler = CollectiveSampler(videos, 4, n_max=2, seed=1)
    loader = DataLoader(videos, batch_sampler=sampler, collate_fn=identity)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert sorted(video for batch in batches for video in batch.video_ids) == sorted(videos.videos)
    assert all(len(row) <= 2 for batch in batches for row in batch.question_ids)
    resumed = CollectiveSampler(videos, 4, n_max=2, seed=1)
    resumed.load_state_dict(sampler.state_dict(1))
    assert [batch.question_ids for batch in DataLoader(videos, batch_sampler=resumed, collate_fn=identity)] == [
        batch.question_ids for batch in batches[1:]
    ]
    with pytest.raises(StoreError, match="n_max was 2 and is 3"):
        CollectiveSampler(videos, 4, n_max=3, seed=1).load_state_dict(sampler.state_dict())
