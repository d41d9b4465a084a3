"""Views: which bytes are read, and what becomes of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.residency import make_cold, resident_pages
from stores import Store, StoreError
from stores.commit import create_store
from stores.format.rows import Array
from stores.loading import View
from stores.loading.buffers import Buffers
from stores.loading.gather import FeatureRows
from stores.loading.resident import ResidentRows
from stores.loading.views import as_views, runs
from tests._helpers.building import commit_rows, row
from tests._helpers.question_worlds import LENGTHS, maps, ragged, world

KEYS = ["a", "b", "c", "d"]
STEPS = [None, slice(None, None, 2), slice(4), slice(None, None, -1), slice(9, 2), 3, -1, [5, 0, 0, -2], []]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(world(tmp_path_factory.mktemp("views") / "store"))


def chosen(array: Array, steps: object) -> Array:
    """Select the same steps with numpy."""
    if isinstance(steps, int):
        steps = [steps]
    return array if steps is None else array[np.array(steps, int) if isinstance(steps, list) else steps]


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("resident", [False, True])
def test_a_view_is_what_numpy_indexing_gives(store: Store, steps: object, dtype: str | None, resident: bool) -> None:
    rows: FeatureRows | ResidentRows = FeatureRows(store, View("maps", steps=steps, dtype=dtype), KEYS)  # type: ignore[arg-type]  # parametrized texts
    if resident:
        rows = ResidentRows(rows, "cpu")  # type: ignore[arg-type]  # still FeatureRows here
    got = rows.gather([2, 0, 2], Buffers())
    wanted = [maps(key) for key in ("c", "a", "c")]
    expected = torch.from_numpy(np.stack([chosen(row.values, steps) for row in wanted]))
    assert got.values.dtype == (torch.float16 if dtype is None else getattr(torch, dtype))
    assert torch.equal(got.values, expected.to(got.values.dtype))
    assert torch.equal(got.times, torch.from_numpy(np.stack([chosen(row.time_s, steps) for row in wanted])))
    assert torch.equal(got.valid, torch.from_numpy(np.stack([chosen(row.valid, steps) for row in wanted])))
    assert (got.times.dtype, got.valid.dtype) == (torch.float64, torch.bool)


@pytest.mark.parametrize("steps", [None, slice(None, None, 2), [4, 1]], ids=str)
def test_pooling_is_the_mean_over_a_steps_axes_but_the_last(store: Store, steps: object) -> None:
    rows = FeatureRows(store, View("maps", steps=steps, pool="mean", dtype=None), KEYS)  # type: ignore[arg-type]  # parametrized texts
    got = rows.gather([1], Buffers()).values[0]
    expected = chosen(maps("b").values, steps).astype(np.float64).mean(axis=(1, 2))
    assert got.dtype == torch.float16
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3, atol=1e-3)
    vectors = FeatureRows(store, View("sound", pool="mean"), KEYS).gather([1], Buffers()).values
    assert torch.equal(vectors, FeatureRows(store, View("sound"), KEYS).gather([1], Buffers()).values)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_ragged_rows_are_padded_to_the_longest_of_the_batch(store: Store, dtype: str | None, resident: bool) -> None:
    rows: FeatureRows | ResidentRows = FeatureRows(store, View("ragged", dtype=dtype), KEYS)
    if resident:
        rows = ResidentRows(rows, "cpu")  # type: ignore[arg-type]  # still FeatureRows here
    got = rows.gather([0, 1, 3], Buffers())  # T = 2, 0, 3
    assert got.values.shape == (3, 3, 4)
    for place, key in enumerate("abd"):
        length, expected = LENGTHS[key], ragged(key)
        np.testing.assert_array_equal(got.values[place, :length].numpy(), expected.values)
        np.testing.assert_array_equal(got.valid[place, :length].numpy(), expected.valid)
        np.testing.assert_array_equal(got.times[place, :length].numpy(), expected.time_s)
        assert not got.values[place, length:].any() and not got.valid[place, length:].any()
        assert not got.times[place, length:].any()


def test_the_last_step_of_ragged_rows_is_each_rows_own(store: Store) -> None:
    got = FeatureRows(store, View("ragged", steps=-1), KEYS).gather([0, 2], Buffers()).values
    assert torch.equal(got[:, 0], torch.from_numpy(np.stack([ragged(key).values[-1] for key in "ac"])).float())


def test_a_step_that_a_row_lacks_is_refused_by_key(store: Store) -> None:
    rows = FeatureRows(store, View("ragged", steps=[0, 4]), KEYS)
    rows.gather([2], Buffers())
    with pytest.raises(StoreError, match=r"feature 'ragged': key 'd' has 3 steps, no step 4"):
        rows.gather([2, 3], Buffers())


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("pool", [None, "mean"])
def test_frames_of_other_videos(store: Store, resident: bool, pool: str | None) -> None:
    rows: FeatureRows | ResidentRows = FeatureRows(store, View("maps", pool=pool), KEYS)
    if resident:
        rows = ResidentRows(rows, "cpu")  # type: ignore[arg-type]  # still FeatureRows here
    got = rows.frames([3, 0, 3], [0, 5, -1], Buffers()).numpy()
    expected = np.stack([maps("d").values[0], maps("a").values[5], maps("d").values[5]]).astype(np.float32)
    np.testing.assert_allclose(got, expected.mean(axis=(1, 2)) if pool else expected, rtol=1e-6)
    with pytest.raises(StoreError, match="key 'b' has 6 steps, no step 6"):
        rows.frames([0, 1], [0, 6], Buffers())


@pytest.mark.parametrize("made", [{"pool": "max"}, {"dtype": "int8"}, {"dtype": "half"}])
def test_views_that_mean_nothing_are_refused(made: dict[str, str]) -> None:
    with pytest.raises(StoreError, match=r"view of 'clip'.*" + next(iter(made))):
        View("clip", **made)  # type: ignore[arg-type]  # wrong on purpose


def test_names_of_views() -> None:
    assert View("clip", steps=np.int64(3)) == View("clip", steps=3)  # type: ignore[arg-type]  # numpy's integers are accepted, too
    with pytest.raises(StoreError, match=r"in a list, \['clip'\]"):
        as_views("clip")
    assert as_views(["clip", View("swin", pool="mean")]) == {"clip": View("clip"), "swin": View("swin", pool="mean")}
    with pytest.raises(StoreError, match="two views of one feature need names"):
        as_views(["clip", View("clip", steps=0)])


@given(st.integers(1, 30), st.lists(st.integers(0, 29), max_size=8), st.integers(0, 3))
def test_runs_cover_what_is_wanted_and_bridge_small_gaps_only(length: int, steps: list[int], gap: int) -> None:
    wanted = sorted({step for step in steps if step < length})
    covered = [list(range(first, first + count)) for first, count in runs(wanted, length, gap)]
    flat = [step for run in covered for step in run]
    assert set(wanted) <= set(flat) and flat == sorted(set(flat))
    for run in covered:
        inside = [step for step in wanted if step in run]
        assert (run[0], run[-1]) == (inside[0], inside[-1])
        assert all(after - before <= gap + 1 for before, after in pairwise(inside))


SWIN = {"name": "swin", "steps": 12, "step_shape": [7, 7, 1024], "dtype": "float16"}
FRAME = 7 * 7 * 1024 * 2


@pytest.fixture
def cold(tmp_path: Path) -> tuple[FeatureRows, Store, Path]:
    """A shard of Swin-B maps without a page in the page cache, opened by a store and by a view of one frame."""
    root = create_store(tmp_path / "store")
    commit_rows(root, [row(key, steps=12, step_shape=(7, 7, 1024)) for key in KEYS], feature="swin", spec=SWIN)
    store = Store.open(root)
    (path,) = root.rglob("*.h5")
    store.shard("swin", path.stem)
    if not make_cold(path):
        pytest.skip("this filesystem cannot make a file cold")
    return FeatureRows(store, View("swin", steps=5, dtype=None), KEYS), store, path


def pages(nbytes: int) -> int:
    return -(-nbytes // 4096)


def test_a_frame_touches_two_pages_more_than_its_bytes_at_most(cold: tuple[FeatureRows, Store, Path]) -> None:
    rows, store, path = cold
    store.step("swin", "c", 7).sum()
    assert resident_pages(path) <= pages(FRAME) + 2
    assert make_cold(path) or True  # its mapped pages stay; the counts below come on top of them
    before = resident_pages(path)
    got = rows.frames([0, 1], [3, 9], Buffers())
    assert torch.equal(got[1], torch.from_numpy(row("b", steps=12, step_shape=(7, 7, 1024)).values[9]))
    assert resident_pages(path) - before <= 2 * (pages(FRAME) + 2)


def test_a_view_touches_its_steps_mask_and_times_only(cold: tuple[FeatureRows, Store, Path]) -> None:
    rows, store, path = cold
    rows.gather([2], Buffers())
    one_step = pages(FRAME) + pages(8 * 12) + pages(12)
    assert resident_pages(path) <= one_step + 2
    strided = FeatureRows(store, View("swin", steps=slice(None, None, 6), dtype="float32"), KEYS)
    before = resident_pages(path)
    strided.gather([3], Buffers())
    assert resident_pages(path) - before <= 2 * (pages(FRAME) + 2)
