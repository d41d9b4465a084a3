"""Compaction changes the places of rows, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.store import app
from stores import Store
from stores.commit import Changes, commit, place_shard
from stores.errors import StoreDamageError, StoreError
from stores.upkeep.compaction import compact
from stores.upkeep.gc import collect
from stores.upkeep.verification import verify
from tests._helpers.building import (
    NUMERICS,
    commit_rows,
    files_under,
    flip,
    row,
    row_digests,
    staged_is_empty,
    store_with,
    write_shard,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that grew by single videos: twelve shards of one row."""
    root = store_with(tmp_path / "store")
    for index in range(12):
        commit_rows(root, [row(f"video {index}")])
    return root


def shards(root: Path) -> set[str]:
    with Store.open(root, lease=False) as store:
        return {store.place(name, key)[0] for name in store.features for key in store.keys(name)}


def test_single_rows_become_one_shard_and_read_the_same(root: Path) -> None:
    before = row_digests(root)
    outcome = compact(root)
    assert (outcome.shards_before, outcome.shards_after, outcome.rows) == (12, 1, 12)
    assert outcome.bytes_after < outcome.bytes_before / 5
    assert row_digests(root) == before and len(shards(root)) == 1
    assert verify(root, deep=True).ok and staged_is_empty(root)
    with Store.open(root) as store:
        np.testing.assert_array_equal(store.row("demo", "video 3"), row("video 3").values)


def test_a_plan_says_what_is_merged_and_writes_nothing(root: Path) -> None:
    before = files_under(root)
    plan = compact(root, shard_rows=5, plan_only=True)
    assert files_under(root) == before and plan.bytes_after == 0
    shown = CliRunner().invoke(app, ["compact", str(root), "--plan"])
    assert shown.exit_code == 0 and "would merge 12 rows of 12 shards" in shown.output and "into 1" in shown.output
    assert files_under(root) == before
    outcome = compact(root, shard_rows=5)
    for name in ("shards_before", "shards_after", "rows", "bytes_before"):
        assert getattr(plan, name) == getattr(outcome, name)
    assert plan.shards_after == 3


def test_a_second_time_there_is_nothing_to_do(root: Path) -> None:
    first = compact(root)
    assert compact(root).rows == 0 and compact(root).version == first.version
    commit_rows(root, [row("one more")])
    assert compact(root).rows == 13


def test_shards_are_closed_when_full(root: Path) -> None:
    assert compact(root, shard_rows=5).shards_after == 3
    assert compact(root, shard_rows=5).rows == 0


def test_the_result_does_not_depend_on_the_order_of_arrival(root: Path, tmp_path: Path) -> None:
    other = store_with(tmp_path / "other")
    for index in reversed(range(12)):
        commit_rows(other, [row(f"video {index}")])
    digests = []
    for folder in (root, other):
        compact(folder)
        (shard,) = shards(folder)
        digests.append(
            json.loads((folder / shard).with_suffix(".json").read_bytes().split(b',"seal"')[0] + b"}")["sha256"]
        )
    assert digests[0] == digests[1]


def test_a_pinned_reader_is_not_disturbed_and_gc_frees_the_old_files(root: Path) -> None:
    pinned = Store.open(root)
    old = shards(root)
    compact(root)
    collect(root, grace_seconds=0)
    assert all((root / shard).exists() for shard in old)
    np.testing.assert_array_equal(pinned.row("demo", "video 7"), row("video 7").values)
    pinned.close()
    collect(root, grace_seconds=0)
    assert not any((root / shard).exists() for shard in old)
    assert verify(root, deep=True).ok


def test_dead_rows_go_and_aliases_numerics_and_ragged_rows_stay(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    receipt = write_shard(root, [row("a"), row("b"), row("c")])
    placed = place_shard(root, receipt, {"a": ["alias of a"]})
    commit(root, Changes(placed=placed, shards=[receipt], current={"demo": receipt.spec_digest}))
    commit(root, Changes(removed=[("demo", "b"), ("demo", "c")]))
    commit_rows(root, [row("d")], numerics={**NUMERICS, "threads": 2})
    commit_rows(root, [row("e")], numerics={**NUMERICS, "threads": 2})
    for key, steps in (("long", 5), ("short", 1)):
        commit_rows(root, [row(key, steps=steps)], feature="ragged")
    before = row_digests(root)
    outcome = compact(root)
    assert (outcome.shards_before, outcome.shards_after, outcome.rows) == (5, 3, 5)
    assert row_digests(root) == before
    with Store.open(root) as store:
        assert store.place("demo", "a") == store.place("demo", "alias of a") != store.place("demo", "d")
        assert len(store.numerics("demo")) == 2
        assert store.row("ragged", "long").shape == (5, 4)
    assert verify(root, deep=True).ok


def test_rows_of_another_form_get_a_shard_of_their_own(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    for key, dtype, width in (("a", "<f2", 4), ("b", "<f4", 4), ("c", "<f2", 4), ("d", "<f4", 4), ("e", "<f2", 5)):
        commit_rows(root, [row(key, dtype=dtype, step_shape=(width,))])
    before = row_digests(root)
    outcome = compact(root)
    assert (outcome.shards_before, outcome.shards_after, outcome.rows) == (4, 2, 4)
    assert row_digests(root) == before and verify(root, deep=True).ok


def test_a_row_that_another_writer_moved_meanwhile_stays_moved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stores.upkeep import compaction as module

    def late(root: Path, changes: Changes) -> object:
        commit_rows(root, [row("video 1", content=9)])
        commit(root, Changes(removed=[("demo", "video 2")]))
        return commit(root, changes)

    monkeypatch.setattr(module, "commit", late)
    compact(root)
    with Store.open(root) as store:
        np.testing.assert_array_equal(store.row("demo", "video 1"), row("video 1", content=9).values)
        assert "video 2" not in store.keys("demo") and len(store.keys("demo")) == 11
    assert verify(root, deep=True).ok


def sizes(root: Path) -> list[int]:
    """Return the number of rows of each shard that a key needs."""
    with Store.open(root, lease=False) as store:
        places = [store.place("demo", key)[0] for key in store.keys("demo")]
    return sorted(places.count(place) for place in set(places))


@pytest.mark.parametrize(("above", "classes"), [(1, 4), (3, 2), (20, 1)])
def test_a_store_that_grows_by_single_videos_keeps_few_shards(tmp_path: Path, above: int, classes: int) -> None:
    root = store_with(tmp_path / "store")
    copied = 0
    for index in range(70):
        commit_rows(root, [row(f"video {index * 37 % 70}")])
        outcome = compact(root, shard_rows=24, above=above)
        copied += outcome.rows
        small = [size for size in sizes(root) if size < 12]
        assert len(small) <= above * classes  # 1 + floor(log(11) / log(above + 1)) classes
        for size_class in range(classes):
            low, high = (above + 1) ** size_class, (above + 1) ** (size_class + 1)
            assert sum(low <= size < high for size in small) <= above
    assert 0 < copied <= 70 * (classes + 1)
    assert sum(sizes(root)) == 70 and len(sizes(root)) <= above * classes + 70 // 12
    with Store.open(root) as store:
        assert all(np.array_equal(store.row("demo", key), row(key).values) for key in store.keys("demo"))
    assert verify(root, deep=True).ok and staged_is_empty(root)


def test_below_the_threshold_nothing_is_rewritten(root: Path) -> None:
    before = shards(root)
    for above in (12, 64):
        assert compact(root, above=above).rows == 0
    assert shards(root) == before
    planned = compact(root, above=11, plan_only=True)
    assert (planned.shards_before, planned.rows, planned.shards_after) == (12, 12, 1) and shards(root) == before
    assert compact(root, above=11).shards_after == 1


def test_large_shards_are_not_rewritten_for_small_ones(root: Path) -> None:
    compact(root)
    (large,) = shards(root)
    for index in range(4):
        commit_rows(root, [row(f"late {index}")])
    assert compact(root, above=3).rows == 4
    assert large in shards(root) and sizes(root) == [4, 12]


def test_a_threshold_below_one_is_refused(root: Path) -> None:
    with pytest.raises(StoreError, match="above=0: the number of small shards that may stay is at least 1"):
        compact(root, above=0)


def test_damage_is_not_copied(root: Path) -> None:
    with Store.open(root, lease=False) as store:
        shard, at = store.place("demo", "video 4")
        values = store.row("demo", "video 4").tobytes()
    data = (root / shard).read_bytes()
    flip(root / shard, 8 * data.index(values) + 3)
    with pytest.raises(StoreDamageError, match="'video 4' is damaged"):
        compact(root)
    assert staged_is_empty(root) and at == 0
