"""Datasets by question and by video, in this process and in workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from stores import Store, StoreError
from stores.commit import Changes, commit
from stores.loading import QuestionDataset, VideoDataset, View, identity, read_ahead
from stores.loading.buffers import Buffers
from stores.loading.gather import FeatureRows
from tests._helpers.building import SPEC, commit_rows, row, store_with
from tests._helpers.question_worlds import maps, put_questions, put_table, question, sound, world
from tests.conftest import ROOT
from tests.stores.test_store import kept_open, open_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return world(tmp_path / "store")


def same(left: Any, right: Any) -> bool:
    """Return whether two batches are equal, field by field."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left.nan_to_num(-1), right.nan_to_num(-1))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if hasattr(left, "__dataclass_fields__"):
        return all(same(getattr(left, name), getattr(right, name)) for name in left.__dataclass_fields__)
    return bool(left == right)


def test_stores_needs_no_torch() -> None:
    code = "import sys, stores, stores.upkeep.repairing, stores.exchange.files; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_batch_of_questions_joins_features_and_columns_by_key(root: Path) -> None:
    dataset = QuestionDataset(root, "train", {"visual": View("maps", dtype=None), "audio": View("sound")})
    assert len(dataset) == 8 and dataset.videos == ["a", "b", "c", "d"]
    batch = dataset.__getitems__([5, 0, 1])
    assert (batch.question_ids, batch.video_ids, len(batch)) == (["b_1", "a_0", "b_0"], ["b", "a", "b"], 3)
    for name, made in (("visual", maps), ("audio", sound)):
        for place, key in enumerate("bab"):
            np.testing.assert_array_equal(batch.features[name][place], made(key).values)
            np.testing.assert_array_equal(batch.times[name][place], made(key).time_s)
            np.testing.assert_array_equal(batch.valid[name][place], made(key).valid)
    assert batch.features["visual"].dtype == torch.float16
    assert batch.questions[1] == "what happens in a (0)?" and batch.options[1] == ["yes", "no"]
    assert (batch.answers, batch.answer_index.tolist()) == (["no"] * 3, [1] * 3)
    assert (batch.types, batch.modalities, batch.spans[0]) == (["CW"] * 3, [None] * 3, [(1.0, 2.5)])
    assert batch.duration.tolist() == [6.0] * 3 and batch.duration.dtype == torch.float64
    assert (batch.nodes, batch.embeddings) == (None, None)
    assert same(dataset[5], dataset.__getitems__([5])) and len(dataset[5]) == 1


def test_what_a_question_does_not_say_is_marked(root: Path) -> None:
    hidden = {"answer": None, "answer_index": None, "duration": None, "options": [], "spans": [], "type": None}
    put_questions(root, "nextgqa", "test", [question("a", 7, **hidden)])
    (batch,) = [QuestionDataset(root, "test", ["maps"])[0]]
    assert (batch.answers, batch.answer_index.tolist(), batch.options) == ([None], [-1], [[]])
    assert (batch.spans, batch.types) == ([[]], [""]) and bool(batch.duration.isnan())


def test_items_follow_the_table_by_part_then_row(root: Path) -> None:
    put_questions(root, "star", "train", [question("d", 5), question("a", 5)])
    put_questions(root, "star", "val", [question("b", 9)])
    with pytest.raises(StoreError, match=r"split 'train' is in nextgqa, star; name one with dataset="):
        QuestionDataset(root, "train", ["maps"])
    star = QuestionDataset(root, "train", ["maps"], dataset="star")
    assert star.questions.ids == ["d_5", "a_5"]
    np.testing.assert_array_equal(star[0].features["maps"][0], maps("d").values.astype(np.float32))
    with pytest.raises(
        StoreError, match=r"no questions of 'star/test' .*available: nextgqa/train, star/train, star/val"
    ):
        QuestionDataset(root, "test", ["maps"], dataset="star")


def test_videos_without_features_are_listed_or_allowed_as_zeros(root: Path) -> None:
    put_questions(root, "nextgqa", "val", [question(video, 0) for video in ("x", "a", "y", "x")])
    with pytest.raises(StoreError, match=r"feature 'maps' has no row for 2 of 3 videos: 'x', 'y'; .*allow_missing"):
        QuestionDataset(root, "val", ["maps"])
    dataset = QuestionDataset(root, "val", ["maps"], allow_missing=True)
    assert dataset.missing == {"maps": ["x", "y"]}
    batch = dataset.__getitems__([0, 1])
    assert batch.features["maps"].shape == (2, 6, 2, 2, 3)
    assert not batch.features["maps"][0].any() and not batch.valid["maps"][0].any() and batch.valid["maps"][1].any()
    alone = dataset.__getitems__([0])
    assert alone.features["maps"].shape == (1, 0, 2, 2, 3)
    video = VideoDataset(root, "val", ["maps"], allow_missing=True)[0]
    assert video.video_ids == ["x"] and video.question_ids == [["x_0", "x_0"]]


def test_graphs_and_embeddings_are_joined_by_question_and_by_text(root: Path) -> None:
    graph = {
        "question_id": ["a_0", "a_1", "b_0", "b_1", "c_0", "c_1", "d_0", "d_1", "a_0"],
        "dataset": ["nextgqa"] * 8 + ["star"],
        "split": ["train"] * 9,
        "nodes": [[f"n{at}{place % 3}" for place in range(8)] for at in range(8)] + [["wrong"] * 8],
    }
    with pytest.raises(StoreError, match="no table 'graphs'"):
        QuestionDataset(root, "train", ["maps"], graphs=True)
    put_table(root, "graphs", pa.table(graph), "nextgqa/train")
    questions = [f"what happens in {video} ({number})?" for number in range(2) for video in "abcd"]
    texts = sorted({*questions, *(node for nodes in graph["nodes"][:8] for node in nodes)})
    vectors = np.arange(len(texts) * 4, dtype=np.float32).reshape(-1, 4)

    def put_embeddings(part: str, texts: list[str], vectors: np.ndarray) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        put_table(root, "embeddings", pa.table({"text": texts, "vector": column}), part)

    put_embeddings("abc123", texts, vectors)
    dataset = QuestionDataset(root, "train", ["maps"], graphs=True, embeddings=["question", "nodes"])
    batch = dataset.__getitems__([4, 0])  # a_1, a_0
    assert batch.nodes == [graph["nodes"][1], graph["nodes"][0]]
    assert batch.embeddings is not None and batch.embeddings["nodes"].shape == (2, 8, 4)
    where = {text: vectors[at] for at, text in enumerate(texts)}
    np.testing.assert_array_equal(batch.embeddings["nodes"][0, 2], where["n12"])
    np.testing.assert_array_equal(batch.embeddings["question"][1], where["what happens in a (0)?"])
    put_embeddings("def456", texts[:-1], -vectors[:-1])
    with pytest.raises(StoreError, match=r"embeddings of several text encoders \(available: abc123, def456\)"):
        QuestionDataset(root, "train", ["maps"], embeddings=["question"])
    with pytest.raises(StoreError, match=r"no embedding for 1 text: 'what happens in d \(1\)\?'"):
        QuestionDataset(root, "train", ["maps"], embeddings=["question"], encoder="def")
    put_questions(root, "nextgqa", "val", [question("a", 9)])
    with pytest.raises(StoreError, match="no graph for 1 question: 'a_9'"):
        QuestionDataset(root, "val", ["maps"], graphs=True)


def music(root: Path) -> None:
    """Make train and test questions about the same videos, as MUSIC-AVQA splits them."""
    kinds = ("Audio", "Visual", "Audio-Visual")
    for split, numbers in (("train", (0, 1, 2, 3)), ("test", (4, 5))):
        rows = [
            question(video, number, modality=kinds[number % 3], answer=f"{split}{number}", answer_index=number)
            for number in numbers
            for video in "abcd"
            if (video, number) != ("c", 3)
        ]
        put_questions(root, "music_avqa", split, rows)


def test_a_video_comes_with_all_questions_of_its_split_and_no_other(root: Path) -> None:
    music(root)
    train = VideoDataset(root, "train", ["sound"], dataset="music_avqa")
    test = VideoDataset(root, "test", ["sound"], dataset="music_avqa")
    assert set(train.videos) == set(test.videos)  # every test video also occurs in train
    batch = train.__getitems__([2, (0, (3, 1))])
    assert batch.video_ids == ["c", "a"] and len(batch) == 2
    assert batch.question_ids == [["c_0", "c_1", "c_2"], ["a_3", "a_1", ""]]
    assert batch.questions[1][2] == "" and batch.answers[1] == ["train3", "train1", None]
    assert batch.modalities == [["Audio", "Visual", "Audio-Visual"], ["Audio", "Visual", None]]
    assert batch.answer_index.tolist() == [[0, 1, 2], [3, 1, -1]]
    assert batch.q_mask.tolist() == [[True] * 3, [True, True, False]]
    np.testing.assert_array_equal(batch.features["sound"][1], sound("a").values)
    everything = train.__getitems__(list(range(len(train))))
    shown = {question_id for row in everything.question_ids for question_id in row} - {""}
    held_out = set(test.questions.ids)
    assert shown == set(train.questions.ids) and len(shown) == 15
    assert len(held_out) == 8 and not shown & held_out
    assert not {answer for row in everything.answers for answer in row if answer} & set(test.questions.answers)
    assert same(train.__getitems__(list(np.array([2, 0]))), train.__getitems__([2, 0]))
    with pytest.raises(StoreError, match="distinct videos"):
        train.__getitems__([1, (1, (0,))])


@pytest.mark.parametrize("preload", [False, True, "ram", "cpu"])
def test_preloading_changes_no_batch(root: Path, preload: bool | str) -> None:
    views = {"maps": View("maps", steps=slice(None, None, 2), dtype=None), "ragged": View("ragged")}
    plain = QuestionDataset(root, "train", views)
    other = QuestionDataset(root, "train", views, preload=preload)
    for indices in ([0, 5, 5], [1], [7, 6, 5, 4, 3, 2, 1, 0]):
        assert same(plain.__getitems__(indices), other.__getitems__(indices))


def test_frames_of_other_videos_by_the_views_name(root: Path) -> None:
    dataset = VideoDataset(root, "train", {"visual": View("maps", dtype=None)})
    np.testing.assert_array_equal(dataset.frames("visual", [3], [-1])[0], maps("d").values[5])


def test_a_batch_that_is_held_is_never_overwritten(root: Path) -> None:
    commit_rows(
        root,
        [row(key, steps=6, step_shape=(96, 64)) for key in "abcd"],
        feature="large",
        spec={**SPEC, "name": "large", "steps": 6, "step_shape": [96, 64]},
    )
    dataset = VideoDataset(root, "train", {"large": View("large", dtype=None)})
    held = [dataset[index].features["large"][0, 1:] for index in range(4)]  # views of batches that are gone
    for key, part in zip("abcd", held, strict=True):
        np.testing.assert_array_equal(part, row(key, steps=6, step_shape=(96, 64)).values[1:])
    addresses = {part.untyped_storage().data_ptr() for part in held}
    assert len(addresses) == 4
    del part, held
    assert dataset[0].features["large"].untyped_storage().data_ptr() in addresses  # the memory is reused


@pytest.mark.parametrize("preload", ["disk", "cuda:99"])
def test_preloading_where_nothing_can_be_kept_is_refused(root: Path, preload: str) -> None:
    with pytest.raises(StoreError, match=rf"preload='{preload}': use True, 'ram' or a GPU"):
        QuestionDataset(root, "train", ["maps"], preload=preload)


def test_nothing_is_opened_before_the_first_batch(root: Path) -> None:
    dataset = QuestionDataset(root, "train", ["maps", "ragged"], allow_missing=True)
    assert kept_open(root) == set()
    copy = pickle.loads(pickle.dumps(dataset))
    assert kept_open(root) == set()
    assert same(copy.__getitems__([0, 1]), dataset.__getitems__([0, 1]))
    assert {Path(path).suffix for path in open_files(root)} >= {".h5"}
    assert not [
        fd for fd in os.listdir("/proc/self/fd") if f"{root}/features" in os.path.realpath(f"/proc/self/fd/{fd}")
    ]


@pytest.mark.parametrize(("method", "used_before"), [("fork", False), ("fork", True), ("spawn", True)])
def test_workers_give_the_same_batches(root: Path, method: str, used_before: bool) -> None:
    music(root)
    dataset = VideoDataset(root, "train", {"maps": View("maps"), "sound": View("sound", dtype=None)}, "music_avqa")
    items: list[list[Any]] = [[0, 1], [(2, (0,)), 3], [3, 0]]
    expected = [dataset.__getitems__(indices) for indices in items]
    if not used_before:
        dataset = pickle.loads(pickle.dumps(dataset))
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        dataset,
        batch_sampler=items,
        num_workers=2 if method == "fork" else 1,
        collate_fn=identity,
        multiprocessing_context=context,
    )
    got = list(loader)
    assert all(same(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_can_be_pickled(root: Path, dtype: str) -> None:
    batch = QuestionDataset(root, "train", [View("maps", dtype=dtype)]).__getitems__([3, 0])
    copy = pickle.loads(pickle.dumps(batch))
    assert same(copy, batch) and copy.features["maps"].dtype == getattr(torch, dtype)
    copy.times["maps"] += 1  # not a view of memory that cannot be written
    assert not same(copy, batch)


def test_rows_of_usual_and_other_lengths_mix_in_any_order(tmp_path: Path) -> None:
    """Times and masks of rows of the first length seen are kept side by side; others are not."""
    lengths = {"a": 2, "b": 2, "c": 5, "d": 2, "e": 0}
    root = store_with(tmp_path / "store")
    commit_rows(root, [row(key, steps=steps) for key, steps in lengths.items()])
    keys = [*lengths, "absent"]
    with Store.open(root) as store:
        for first in range(len(keys)):
            rows = FeatureRows(store, View("demo", dtype=None), keys)
            for videos in ([first], [0, 1], [3, 0, 1, 3], [2, 0], [2], [4], [5, 1], [], [1, 3]):
                got = rows.gather(videos, Buffers())
                steps = max((lengths.get(keys[video], 0) for video in videos), default=0)
                assert got.values.shape == (len(videos), steps, 4)
                for place, video in enumerate(videos):
                    stored = row(keys[video], steps=lengths.get(keys[video], 0))
                    count = len(stored.values)
                    np.testing.assert_array_equal(got.values[place, :count], stored.values)
                    np.testing.assert_array_equal(got.times[place, :count], stored.time_s)
                    np.testing.assert_array_equal(got.valid[place, :count], stored.valid)
                    assert not got.values[place, count:].any() and not got.valid[place, count:].any()
                    assert not got.times[place, count:].any()


def test_reading_ahead_keeps_order_and_errors(root: Path) -> None:
    dataset = QuestionDataset(root, "train", ["maps"])
    batches = [[number, (number + 3) % 8] for number in range(8)]
    expected = [dataset.__getitems__(indices) for indices in batches]
    for threads in (1, 3):
        got = list(read_ahead(dataset, batches, depth=3, threads=threads))
        assert all(same(one, other) for one, other in zip(got, expected, strict=True))
    ahead = read_ahead(dataset, [*batches[:2], [99]], depth=1)
    assert same(next(ahead), expected[0]) and same(next(ahead), expected[1])
    with pytest.raises(IndexError):
        next(ahead)


def test_batches_move_together(root: Path) -> None:
    batch = QuestionDataset(root, "train", ["maps"])[0].to("meta", non_blocking=True)
    assert batch.features["maps"].is_meta and batch.answer_index.is_meta and batch.duration.is_meta
    assert batch.question_ids == ["a_0"] and batch.embeddings is None
    if not torch.cuda.is_available():
        with pytest.raises(StoreError, match="pin=True needs a GPU"):
            QuestionDataset(root, "train", ["maps"], pin=True)


def test_caveats_are_told_once_when_a_dataset_is_made(root: Path) -> None:
    spec = {**SPEC, "random_weights": True}
    commit_rows(root, [row(key) for key in "abcd"], feature="demo", spec=spec)
    with pytest.warns(UserWarning, match="feature 'demo' was made with random weights") as caught:
        dataset = QuestionDataset(root, "train", ["demo", "maps"])
        dataset.__getitems__([0, 1])
    assert len(caught) == 1 and caught[0].filename == __file__


def test_a_name_pins_a_spec(root: Path) -> None:
    with Store.open(root) as store:
        old = store.features["sound"].spec_digest
    commit_rows(root, [row("a")], feature="sound", spec={**SPEC, "name": "sound"})
    dataset = QuestionDataset(root, "train", {"sound": View(f"sound@{old[:10]}", dtype=None)})
    np.testing.assert_array_equal(dataset[0].features["sound"][0], sound("a").values)
    with pytest.raises(StoreError, match="no row for 3 of 4"):
        QuestionDataset(root, "train", ["sound"])


def test_a_removed_question_part_leaves_the_next_version_only(root: Path) -> None:
    pinned = Store.open(root)
    commit(root, Changes(tables={"questions": {"nextgqa/train": None}}))
    assert len(QuestionDataset(pinned, "train", ["maps"])) == 8
    with pytest.raises(StoreError):
        QuestionDataset(root, "train", ["maps"])
