"""A shared store that is opened where it lies."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from stores import Store
from stores.errors import SharingError, StoreDamageError, StoreNotFoundError
from stores.format.manifest import load, newest_version
from stores.loading import QuestionDataset
from stores.sharing import cache_folder, is_address, open_place, push
from tests._helpers.building import commit_rows, flip, row, row_digests
from tests._helpers.question_worlds import MAPS, maps


@pytest.fixture
def shared(made: Path, address: str) -> str:
    push(made, load(made), open_place(address))
    return address


def shards(address: str) -> list[Path]:
    return sorted((cache_folder(address) / "features").rglob("*.h5"))


def test_rows_and_tables_are_those_of_the_store(made: Path, shared: str) -> None:
    with Store.open(made) as store, Store.open(shared) as remote:
        assert remote.version == store.version
        assert shards(shared) == []
        np.testing.assert_array_equal(remote.row("maps", "a"), store.row("maps", "a"))
        assert len(shards(shared)) == 1  # the other shard was not asked for
        assert remote.table("questions").equals(store.table("questions"))
        assert remote.failures().equals(store.failures())
        assert {name: remote.keys(name) for name in remote.features} == {
            name: store.keys(name) for name in store.features
        }
        digests = {(name, key): remote.digest(name, key) for name in remote.features for key in remote.keys(name)}
        assert digests == row_digests(made)


def test_it_travels_to_other_processes(made: Path, shared: str) -> None:
    with Store.open(made) as store, Store.open(shared) as remote:
        there = pickle.loads(pickle.dumps(remote))
        np.testing.assert_array_equal(there.row("maps", "c"), store.row("maps", "c"))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            rows = pool.starmap(remote.row, [("sound", key) for key in "abcd"])
        np.testing.assert_array_equal(np.stack(rows), store.read("sound", list("abcd")))


def test_it_is_trained_on(made: Path, shared: str) -> None:
    batches = []
    for path in (made, shared):
        with Store.open(path) as store:
            questions = QuestionDataset(store, "train", ["maps", "sound"])
            loader = DataLoader(questions, batch_size=2, num_workers=1)
            batches.append([batch.features["maps"] for batch in loader])
    assert len(batches[0]) == 1
    assert all((one == other).all() for one, other in zip(*batches, strict=True))


def test_a_new_version_is_seen_and_a_pinned_one_needs_no_network(
    made: Path, folder_address: str, tmp_path: Path
) -> None:
    root = shutil.copytree(made, tmp_path / "store")
    push(root, load(root), open_place(folder_address))
    first = newest_version(root)
    with Store.open(folder_address) as store:
        store.row("maps", "a")
    commit_rows(root, [maps("new")], feature="maps", spec=MAPS)
    push(root, load(root), open_place(folder_address))
    with Store.open(folder_address) as store:
        assert store.version == first + 1
        assert len(store.row("maps", "new")) == 6
    shutil.rmtree(tmp_path / "place")
    with Store.open(folder_address, version=first) as store:
        assert len(store.row("maps", "a")) == 6
        with pytest.raises(SharingError, match="not there"):
            store.row("maps", "c")
    with pytest.raises(StoreNotFoundError, match="no store was published here"):
        Store.open(folder_address)


def test_damage_is_said_and_not_kept(made: Path, folder_address: str, tmp_path: Path) -> None:
    push(made, load(made), open_place(folder_address))
    for path in (tmp_path / "place" / "features").rglob("*.h5"):
        flip(path, 8 * 2000)
    with Store.open(folder_address) as store, pytest.raises(StoreDamageError, match="do not match the digest"):
        store.row("maps", "a")
    assert shards(folder_address) == []


def test_a_place_that_was_made_anew_is_read_anew(made: Path, folder_address: str, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "one")
    other = shutil.copytree(made, tmp_path / "other")
    commit_rows(root, [row("one")])
    commit_rows(other, [row("other")])
    push(root, load(root), open_place(folder_address))
    with Store.open(folder_address) as store:
        assert "one" in store.keys("demo")
    shutil.rmtree(tmp_path / "place")
    push(other, load(other), open_place(folder_address))
    with Store.open(folder_address) as store:
        assert "other" in store.keys("demo")


def test_nothing_is_left_of_an_address_without_a_store(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/nothing"
    with pytest.raises(StoreNotFoundError, match="no store was published here"):
        Store.open(address)
    assert not cache_folder(address).exists()


def test_paths_are_no_addresses(tmp_path: Path) -> None:
    assert not is_address(str(tmp_path))
    assert not is_address(tmp_path)
    assert is_address("s3://bucket/x")
    assert cache_folder("s3://user:secret@bucket/x") == cache_folder("s3://bucket/x/")
    assert "secret" not in str(cache_folder("s3://user:secret@bucket/x"))
    assert cache_folder("s3://bucket/..").name.startswith("store-")
