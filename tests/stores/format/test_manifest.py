"""Creating, opening and publishing versions; filesystems that misbehave."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stores import Store
from stores.commit import create_store
from stores.errors import StoreDamageError, StoreFormatError, StoreNotFoundError, UnsupportedFilesystemError
from stores.format import durable, layout
from stores.format.manifest import Manifest, load, publish, versions
from tests._helpers.building import commit_rows, row, row_digests, store_with


def with_table_free_change(latest: Manifest) -> Manifest:
    return latest.model_copy(update={"created_at": ""})  # any successor will do


def test_create_is_idempotent(tmp_path: Path) -> None:
    root = store_with(tmp_path / "new" / "store", "a")
    assert create_store(root) == root
    with Store.create(root) as store:
        assert store.keys("demo") == ["a"]
    assert versions(root) == [0, 1]


def test_open_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no store here"):
        Store.open(tmp_path)
    with pytest.raises(StoreNotFoundError, match="no store here"):
        Store.open(tmp_path / "none")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreFormatError, match=r"not a store and not empty \(contains 'notes.txt'\)"):
        create_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ('{"format": "reelstore", "format_version": 4}', "format 4 is newer than format 3"),
        ('{"format": "reelstore", "format_version": 0}', "0 is not a format version"),
        ('{"format": "reelstore"}', "None is not a format version"),
        ('{"format": "zarr", "format_version": 1}', "not a reelstore store"),
        ("[]", "not a reelstore store"),
        ("{", "cannot be read"),
    ],
)
def test_other_identities_are_refused_by_name(tmp_path: Path, identity: str, message: str) -> None:
    root = store_with(tmp_path / "store")
    (root / "store.json").write_text(identity)
    for opening in (Store.open, create_store):
        with pytest.raises(StoreFormatError, match=message):
            opening(root)


def test_a_newer_manifest_is_refused_by_name(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    record = json.loads(load(root).model_dump_json()) | {"format_version": 7, "version": 1, "unheard_of": True}
    (root / "versions" / "0000000001.json").write_bytes(layout.seal(json.dumps(record).encode()))
    with pytest.raises(StoreFormatError, match=r"0000000001\.json: format 7 is newer"):
        Store.open(root)
    assert Store.open(root, version=0).version == 0


def test_an_unknown_field_is_damage(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    record = json.loads(load(root).model_dump_json()) | {"unheard_of": True}
    (root / "versions" / "0000000001.json").write_bytes(layout.seal(json.dumps(record).encode()))
    with pytest.raises(StoreDamageError, match="unheard_of"):
        Store.open(root)


def test_a_missing_version_is_named_with_those_that_exist(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    with pytest.raises(StoreNotFoundError, match=r"0000000009\.json: no such version \(available: 0…1\)"):
        Store.open(root, version=9)


def test_the_loser_of_a_race_builds_again_on_the_winner(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    seen: list[int] = []

    def build(latest: Manifest) -> Manifest:
        seen.append(latest.version)
        if len(seen) < 3:
            commit_rows(root, [row(f"rival{len(seen)}")])
        return with_table_free_change(latest)

    assert publish(root, build).version == 4
    assert seen == [1, 2, 3]
    assert set(row_digests(root)) == {("demo", key) for key in ("a", "rival1", "rival2")}
    assert not [name for name in os.listdir(root / "versions") if name.startswith(".")]


def test_publishing_nothing_makes_no_version(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    assert publish(root, lambda latest: None) == load(root)
    assert versions(root) == [0, 1]


def refuse(number: int) -> Callable[..., None]:
    def link(*arguments: Any, **named: Any) -> None:
        raise OSError(number, os.strerror(number))

    return link


def test_nfs_reports_eexist_for_a_link_that_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = store_with(tmp_path / "store", "a")
    real = os.link

    def link(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise OSError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert commit_rows(root, [row("b")]).version == 2
    assert versions(root) == [0, 1, 2]  # and not a second time as version 3
    assert set(row_digests(root)) == {("demo", "a"), ("demo", "b")}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_renameat2_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "link", refuse(number))
    root = store_with(tmp_path / "store", "a")
    attempts: list[int] = []

    def build(latest: Manifest) -> Manifest:
        attempts.append(latest.version)
        if len(attempts) == 1:
            commit_rows(root, [row("rival")])
        return with_table_free_change(latest)

    assert publish(root, build).version == 3  # RENAME_NOREPLACE lost to the rival's version 2
    assert attempts == [1, 2]
    assert not [name for name in os.listdir(root / "versions") if name.startswith(".")]


def test_with_neither_links_nor_renameat2_the_store_is_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        renameat2 = staticmethod(lambda *arguments: -1)

    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr(durable.ctypes, "CDLL", lambda *arguments, **options: Libc)
    monkeypatch.setattr(durable.ctypes, "get_errno", lambda: errno.EINVAL)
    with pytest.raises(UnsupportedFilesystemError, match=r"neither hard links nor renameat2"):
        create_store(tmp_path / "store")
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_link_that_fails_otherwise_is_an_error_and_leaves_no_nonce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store_with(tmp_path / "store", "a")
    monkeypatch.setattr(os, "link", refuse(errno.EIO))
    with pytest.raises(Exception, match=r"0000000002\.json: cannot publish"):
        commit_rows(root, [row("b")])
    assert sorted(os.listdir(root / "versions")) == ["0000000000.json", "0000000001.json"]


WRITERS, COMMITS = 8, 4


def write_some(root: Path, writer: int, barrier: Any) -> None:
    barrier.wait()
    create_store(root)
    for number in range(COMMITS):
        commit_rows(root, [row(f"w{writer}-{number}"), row(f"shared-{number}")])


def test_eight_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WRITERS)
    root = tmp_path / "store"
    workers = [context.Process(target=write_some, args=(root, writer, barrier)) for writer in range(WRITERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * WRITERS
    own = {("demo", f"w{writer}-{number}") for writer in range(WRITERS) for number in range(COMMITS)}
    assert set(row_digests(root)) == own | {("demo", f"shared-{number}") for number in range(COMMITS)}
    assert load(root).features["demo"].specs[load(root).features["demo"].current].rows == len(row_digests(root))
    assert versions(root) == list(range(WRITERS * COMMITS + 1))  # every commit is one version, none is skipped
