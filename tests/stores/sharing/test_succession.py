"""Which version may follow which: nobody's version is replaced, and of two at once one is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from stores.errors import SharingError, StoreDamageError
from stores.format import layout
from stores.format.manifest import load, newest_version
from stores.sharing import Transfer, open_place, pull
from stores.sharing import push as push_to
from stores.sharing.places import Place
from stores.sharing.versions import at, newest
from stores.upkeep import collect
from tests._helpers.building import commit_rows, row, row_digests, store_with
from tests._helpers.shared import Dead, Dying, objects


def push(root: Path, place: Place, **more: Any) -> Transfer:
    return push_to(root, load(root), place, **more)


def pulled(address: str, folder: Path) -> Path:
    pull(open_place(address), folder)
    return folder


@pytest.fixture
def two(made: Path, address: str, tmp_path: Path) -> tuple[Path, Path]:
    """Two stores of two people who pulled the same version, and went on from it: one by a version, one by two."""
    push(made, open_place(address))
    here, there = (pulled(address, tmp_path / name) for name in ("here", "there"))
    commit_rows(here, [row("mine")])
    for key in ("yours", "yours too"):
        commit_rows(there, [row(key)])
    return here, there


def test_who_comes_second_is_told(address: str, two: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = two
    push(here, open_place(address))
    before = objects(open_place(address))
    with pytest.raises(SharingError, match=r"holds version \d+, which is not that of .*there"):
        push(there, open_place(address))
    assert objects(open_place(address)) == before
    with pytest.raises(SharingError, match="which did not come from"):
        pull(open_place(address), there)
    assert row_digests(pulled(address, tmp_path / "seen")) == row_digests(here)


def test_of_two_at_the_same_time_one_is_told(address: str, two: tuple[Path, Path], tmp_path: Path) -> None:
    """Both saw the same version; theirs have different numbers, so that no name of a version would collide."""
    here, there = two
    real = open_place(address)

    class Slow(Dying):
        """While its user sends the last file, the other one publishes."""

        def create(self, name: str, data: bytes) -> bool:
            if name.startswith("after/"):
                push(here, open_place(address))
            return super().create(name, data)

    with pytest.raises(SharingError, match="at the same time"):
        push(there, Slow(address, 10**6, False))
    assert newest_version(there) > newest_version(here)
    held = newest(real)
    assert held is not None
    assert held.manifest.encode() == load(here).encode()
    assert row_digests(pulled(address, tmp_path / "seen")) == row_digests(here)
    with pytest.raises(FileNotFoundError):
        at(real, newest_version(there))


def test_what_one_published_before_dying_is_there(made: Path, address: str, tmp_path: Path) -> None:
    """The succession is the moment of publication: who comes next finishes the copy for readers."""
    root = shutil.copytree(made, tmp_path / "store")
    push(root, open_place(address))
    commit_rows(root, [row("new")])

    class Short(Dying):
        def create(self, name: str, data: bytes) -> bool:
            if name.startswith("versions/"):
                raise Dead
            return super().create(name, data)

    with pytest.raises(Dead):
        push(root, Short(address, 10**6, False))
    place = open_place(address)
    version = f"versions/{layout.version_file(newest_version(root))}"
    assert version not in objects(place)
    assert row_digests(pulled(address, tmp_path / "seen")) == row_digests(root)
    other = pulled(address, tmp_path / "other")
    commit_rows(other, [row("newer")])
    push(other, place)
    assert objects(place)[version] == load(root).encode()
    assert pull(place, tmp_path / "seen").version == newest_version(root) + 1


def test_an_answer_that_was_lost_is_no_rival(made: Path, folder_address: str) -> None:
    class Deaf(Dying):
        def create(self, name: str, data: bytes) -> bool:
            super().create(name, data)
            raise SharingError("no answer")

    assert push(made, Deaf(folder_address, 10**6, False)).published
    assert newest(open_place(folder_address)) is not None


def test_what_cannot_be_created_is_said(made: Path, folder_address: str) -> None:
    class Refusing(Dying):
        def create(self, name: str, data: bytes) -> bool:
            raise SharingError("access denied")

    with pytest.raises(SharingError, match="access denied"):
        push(made, Refusing(folder_address, 10**6, False))


def test_other_stores_are_not_replaced(made: Path, folder_address: str, tmp_path: Path) -> None:
    push(made, open_place(folder_address))
    other = store_with(tmp_path / "other", "x")
    with pytest.raises(SharingError, match="later than version 1"):
        push(other, open_place(folder_address))
    while newest_version(other) < newest_version(made):
        commit_rows(other, [row("x", content=newest_version(other))])
    with pytest.raises(SharingError, match="but not the one of"):
        push(other, open_place(folder_address))
    commit_rows(other, [row("y")])
    with pytest.raises(SharingError, match=f"--over {newest_version(made)}"):
        push(other, open_place(folder_address))
    assert push(other, open_place(folder_address), over=newest_version(made)).published
    assert at(open_place(folder_address), newest_version(made)).data == load(made).encode()  # superseded, not lost
    with pytest.raises(SharingError, match="pull it first"):
        push(made, open_place(folder_address))


def test_a_store_that_forgot_the_version_says_so(made: Path, folder_address: str, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "store")
    push(root, open_place(folder_address))
    held = newest_version(root)
    commit_rows(root, [row("new")])
    collect(root, grace_seconds=0)
    with pytest.raises(SharingError, match=f"no longer has.*--over {held}"):
        push(root, open_place(folder_address))
    assert push(root, open_place(folder_address), over=held).published
    with pytest.raises(SharingError, match=f"--over {held}|later than"):
        push(made, open_place(folder_address), over=held)


def test_a_store_that_is_ahead_has_nothing_to_pull(made: Path, folder_address: str, tmp_path: Path) -> None:
    push(made, open_place(folder_address))
    root = pulled(folder_address, tmp_path / "store")
    commit_rows(root, [row("mine")])
    assert pull(open_place(folder_address), root).published is False
    assert newest_version(root) == newest_version(made) + 1


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_damaged_successions_are_said(made: Path, folder_address: str, tmp_path: Path, content: bytes) -> None:
    push(made, open_place(folder_address))
    place = open_place(folder_address)
    place.put(f"after/{layout.version_file(newest_version(made))}", content)
    with pytest.raises(StoreDamageError, match="after/"):
        pull(place, tmp_path / "pulled")


def test_successions_do_not_go_in_circles(made: Path, folder_address: str, tmp_path: Path) -> None:
    push(made, open_place(folder_address))
    place = open_place(folder_address)
    place.put(f"after/{layout.version_file(newest_version(made))}", load(made).encode())
    with pytest.raises(StoreDamageError, match="no later one"):
        pull(place, tmp_path / "pulled")


def test_nobody_publishes_where_two_could(made: Path, tmp_path: Path) -> None:
    with pytest.raises(SharingError, match="memory://here: no two can publish there safely"):
        push(made, open_place("memory://here"))


def test_places_that_are_none(tmp_path: Path) -> None:
    for address, message in {
        "nothing://x/y": "no filesystem is known for nothing://",
        "simplecache::s3://x/y": "chained",
        "file://host/x": "three slashes",
        "s3://": "names no bucket",
    }.items():
        with pytest.raises(SharingError, match=message):
            open_place(address)


def test_credentials_are_not_said(s3: str) -> None:
    place = open_place("s3://user:secret@stores/none")
    assert place.address == "s3://stores/none"
