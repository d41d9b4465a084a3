"""Push and pull: what arrives is the same, only what is missing travels, and no death leaves half a version."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stores import Store
from stores.errors import SharingError, StoreDamageError, StoreError, StoreNotFoundError
from stores.format import durable, layout
from stores.format.manifest import load, newest_version
from stores.sharing import Transfer, open_place, pull
from stores.sharing import push as push_to
from stores.sharing.versions import newest
from stores.upkeep import collect, verify
from tests._helpers.building import commit_rows, flip, row, row_digests, staged_is_empty
from tests._helpers.shared import Dead, Dying, objects, overwrite
from tests.conftest import ROOT


def push(root: Path, address: str, **more: Any) -> Transfer:
    return push_to(root, load(root), more.pop("place", None) or open_place(address), **more)


def copied(made: Path, folder: Path) -> Path:
    return shutil.copytree(made, folder)


def test_what_is_pulled_is_what_was_pushed(made: Path, address: str, tmp_path: Path) -> None:
    sent = push(made, address, card=lambda part: f"card of version {part.version}")
    assert (sent.version, sent.published, sent.present) == (newest_version(made), True, 0)
    fetched = pull(open_place(address), tmp_path / "pulled")
    assert (fetched.version, fetched.published, fetched.files, fetched.bytes) == (
        sent.version,
        True,
        sent.files,
        sent.bytes,
    )
    assert verify(tmp_path / "pulled", deep=True).ok
    assert load(tmp_path / "pulled").encode() == load(made).encode()
    assert row_digests(tmp_path / "pulled") == row_digests(made)
    lying = objects(open_place(address))
    assert lying["README.md"] == f"card of version {sent.version}".encode()
    for name, data in lying.items():
        if not name.startswith(("README", "after/")):
            assert data == (made / name).read_bytes(), name


def test_a_folder_with_what_was_pushed_is_a_store(made: Path, tmp_path: Path) -> None:
    push(made, str(tmp_path / "place"))
    assert verify(tmp_path / "place", deep=True).ok
    assert row_digests(tmp_path / "place") == row_digests(made)
    commit_rows(tmp_path / "place", [row("new")])  # by somebody who takes it for one
    assert pull(open_place(str(tmp_path / "place")), tmp_path / "pulled").version == newest_version(made) + 1


def test_only_what_is_missing_travels(made: Path, address: str, tmp_path: Path) -> None:
    root = copied(made, tmp_path / "store")
    push(root, address)
    pull(open_place(address), tmp_path / "pulled")
    again = push(root, address)
    assert (again.published, again.files, again.bytes) == (False, 0, 0)
    commit_rows(root, [row("new")], feature="sound2")
    more = push(root, address)
    # a shard and its receipt, its spec is known; an index and a shard list
    assert (more.published, more.files) == (True, 4)
    fetched = pull(open_place(address), tmp_path / "pulled")
    assert (fetched.version, fetched.published, fetched.files) == (newest_version(root), True, 4)
    assert pull(open_place(address), tmp_path / "pulled").published is False
    assert row_digests(tmp_path / "pulled") == row_digests(root)


def test_an_older_version_can_be_pulled(made: Path, folder_address: str, tmp_path: Path) -> None:
    root = copied(made, tmp_path / "store")
    push(root, folder_address)
    before = row_digests(root)
    commit_rows(root, [row("a", content=7)], feature="sound2")
    push(root, folder_address)
    assert pull(open_place(folder_address), tmp_path / "old", version=newest_version(made)).version == newest_version(
        made
    )
    assert row_digests(tmp_path / "old") == before
    with pytest.raises(StoreNotFoundError, match=r"no version 1 \(the newest is"):
        pull(open_place(folder_address), tmp_path / "none", version=1)
    assert not (tmp_path / "none").exists()


def test_a_file_that_was_lost_comes_back(made: Path, folder_address: str, tmp_path: Path) -> None:
    push(made, folder_address)
    pull(open_place(folder_address), tmp_path / "pulled")
    shard = next((tmp_path / "pulled" / "features").rglob("*.h5"))
    shard.unlink()
    result = pull(open_place(folder_address), tmp_path / "pulled")
    assert (result.published, result.files) == (False, 1)
    assert verify(tmp_path / "pulled", deep=True).ok


def test_a_push_that_dies_leaves_the_version_before_and_is_continued(
    made: Path, addresses: Callable[[], str], tmp_path: Path
) -> None:
    """At every call that changes the place, before it and after it; the place has an older version."""
    root = copied(made, tmp_path / "store")
    first = newest_version(root)
    base = addresses()
    push(root, base)
    commit_rows(root, [row("new")], feature="sound2")
    calls = Dying(scratch := addresses(), 10**6, False)
    _copy_place(base, scratch)
    push(root, scratch, place=calls, card=lambda part: "card")
    assert calls.calls == 4 + 3  # files; succession, version, card
    deaths = itertools.product(range(calls.calls), (False, True))
    for number, after in [(2, True), (4, True)] if base.startswith("s3") else deaths:
        address = addresses()
        _copy_place(base, address)
        with pytest.raises(Dead):
            push(root, address, place=Dying(address, number, after), card=lambda part: "card")
        held = newest(open_place(address))
        assert held is not None
        assert held.manifest.version == first + (number > 4 or (number == 4 and after))
        pulled = tmp_path / f"pulled-{number}-{after}"
        assert pull(open_place(address), pulled).version == held.manifest.version
        assert verify(pulled, deep=True).ok
        assert push(root, address).version == first + 1
        assert pull(open_place(address), pulled).version == first + 1
        assert row_digests(pulled) == row_digests(root)


def _copy_place(source: str, target: str) -> None:
    there = open_place(target)
    for name, data in objects(open_place(source)).items():
        there.put(name, data)


def test_a_place_that_dies_at_its_first_version_is_empty_or_whole(
    made: Path, folder_address: str, tmp_path: Path
) -> None:
    for number in (0, 8, 8):
        with pytest.raises(Dead):
            push(made, folder_address, place=Dying(folder_address, number, True))
        assert newest(open_place(folder_address)) is None
        with pytest.raises(StoreNotFoundError, match="no store was published here"):
            pull(open_place(folder_address), tmp_path / "pulled")
    sent = push(made, folder_address)
    assert sent.present >= 10
    assert pull(open_place(folder_address), tmp_path / "pulled").version == sent.version


@pytest.mark.parametrize("after", [False, True])
def test_a_pull_that_dies_leaves_the_version_before_and_is_continued(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """At every system call that changes the store, as ``durable`` names them."""
    push(made, str(tmp_path / "place"))
    place = open_place(str(tmp_path / "place"))
    monkeypatch.setattr("stores.sharing.transfer.AT_ONCE", 1)
    points: list[str] = []
    monkeypatch.setattr(durable, "crash_point", points.append)
    pull(place, tmp_path / "whole")
    wanted = f":{'after' if after else 'before'}:"
    numbers = [number for number, point in enumerate(points) if wanted in point]
    for number in (*numbers[:4], *numbers[4:-6:60], *numbers[-6:]):
        passed = 0

        def die(name: str, at: int = number) -> None:
            nonlocal passed
            passed += 1
            if passed > at:  # whatever the dying process would still do for tidiness
                raise Dead

        folder = tmp_path / f"pulled-{number}"
        monkeypatch.setattr(durable, "crash_point", die)
        with pytest.raises(Dead):
            pull(place, folder)
        monkeypatch.setattr(durable, "crash_point", durable._no_crash)
        try:
            held = load(folder).version
        except StoreError:
            held = 0  # died while the empty store was made
        assert held in (0, newest_version(made))
        assert not held or verify(folder).ok
        assert pull(place, folder).version == newest_version(made)
        assert verify(folder, deep=True).ok
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_push_that_is_killed_is_continued(made: Path, s3: str, tmp_path: Path) -> None:
    root = copied(made, tmp_path / "store")
    for number in range(25):
        commit_rows(root, [row(f"more-{number}", steps=3)], feature="demo")
    address = f"{s3}/killed"
    push_command = [sys.executable, "-m", "stores", "push", str(root), address]
    child = subprocess.Popen(push_command, cwd=ROOT, env=dict(os.environ))
    place = open_place(address)
    deadline = time.monotonic() + 60
    while len(place.sizes("features")) < 10 and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    arrived = len(place.sizes("features"))
    assert 10 <= arrived < len(list((root / "features").rglob("*.*")))
    assert newest(place) is None
    again = subprocess.run(push_command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout.split("; ")[1].split()[0]) >= arrived
    pull(place, tmp_path / "pulled")
    assert row_digests(tmp_path / "pulled") == row_digests(root)


def test_damage_does_not_leave_the_store(made: Path, folder_address: str, tmp_path: Path) -> None:
    root = copied(made, tmp_path / "store")
    shard = sorted((root / "features").rglob("*.h5"))[-1]
    flip(shard, 8 * 2000)
    with pytest.raises(StoreDamageError, match=f"{shard.name}: its bytes do not match"):
        push(root, folder_address)
    shard.unlink()
    with pytest.raises(StoreDamageError, match=f"{shard.name}: named by the version but missing"):
        push(root, folder_address)
    assert newest(open_place(folder_address)) is None


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "flip": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    "shorter": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
}


@pytest.mark.parametrize(
    "what", ["features/*.h5", "features/*.json", "index/*", "specs/*", "tables/*.parquet", "tables/*.json"]
)
@pytest.mark.parametrize("change", [*CHANGES, "gone"])
def test_damage_on_the_way_is_not_kept(made: Path, tmp_path: Path, what: str, change: str) -> None:
    folder, _, suffix = what.partition("/*")
    push(made, str(tmp_path / "place"))
    place = open_place(str(tmp_path / "place"))
    names = [name for name in objects(place) if name.startswith(f"{folder}/") and name.endswith(suffix)]
    name = sorted(names)[len(names) // 2]
    if change == "gone":
        (tmp_path / "place" / name).unlink()
    else:
        overwrite(place, name, CHANGES[change])
    with pytest.raises(SharingError if change == "gone" else (SharingError, StoreDamageError), match=name):
        pull(place, tmp_path / "pulled")
    assert newest_version(tmp_path / "pulled") == 0
    assert not (tmp_path / "pulled" / name).exists()
    assert staged_is_empty(tmp_path / "pulled")


def test_a_version_that_is_read_while_gc_runs_stays(made: Path, tmp_path: Path) -> None:
    """A push holds a lease, so what it sends is not collected."""
    root = copied(made, tmp_path / "store")
    with Store.open(root) as store:
        commit_rows(root, [row("a", content=9)], feature="maps")
        collect(root, grace_seconds=0)
        push_to(root, store.manifest, open_place(str(tmp_path / "place")))
    pull(open_place(str(tmp_path / "place")), tmp_path / "pulled")
    assert row_digests(tmp_path / "pulled") == row_digests(made)


def test_a_folder_that_is_something_else_is_left_alone(made: Path, tmp_path: Path) -> None:
    push(made, str(tmp_path / "place"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(StoreError, match="not a store and not empty"):
        pull(open_place(str(tmp_path / "place")), tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_names_of_a_place_lead_nowhere_else(made: Path, tmp_path: Path) -> None:
    """A link that somebody put into the place, or a manifest that names a file outside."""
    push(made, str(tmp_path / "place"))
    place = open_place(str(tmp_path / "place"))
    shard = sorted((tmp_path / "place" / "features").rglob("*.h5"))[0]
    secret = tmp_path / "secret"
    shutil.copy(shard, secret)
    shard.unlink()
    shard.symlink_to(secret)
    with pytest.raises(StoreError, match="symbolic link"):
        pull(place, tmp_path / "pulled")
    version = f"versions/{layout.version_file(newest_version(made))}"
    text = layout.unseal(place.read(version)).decode()
    escaped = text.replace('"path":"index/', '"path":"../index/', 1)
    assert escaped != text
    place.put(version, layout.seal(escaped.encode()))
    with pytest.raises(StoreDamageError, match="not a valid manifest"):
        pull(place, tmp_path / "pulled")
