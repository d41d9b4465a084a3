"""A disk that fills up leaves the store readable, and a later commit works."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores import Store
from stores.commit import create_store
from stores.errors import StoreError
from stores.upkeep.verification import verify
from tests._helpers.building import commit_rows, row, row_digests, store_with

TRY_FREE = (0, 4, 8, 16, 40, 60, 120, 124, 132, 140, 160)  # in kB; a shard of one row takes about 124


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def commit_in_child(root: Path, key: str, limit: int | None = None) -> bool:
    """Return whether a commit succeeded, in its own process (HDF5 keeps a file open that it could not write)."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            commit_rows(root, [row(key)])
            status = 0
        except (OSError, RuntimeError, StoreError):
            status = 1
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1), code
    return code == 0


def assert_unharmed(root: Path, expected: set[str]) -> None:
    assert verify(root, deep=True).problems == []
    assert {key for _, key in row_digests(root)} == expected
    with Store.open(root) as store:
        for key in expected:
            assert store.row("demo", key).tobytes() == row(key).values.tobytes()


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    root = store_with(small_disk / "store", "first")
    filler = small_disk / "filler"
    outcomes = []
    expected = {"first"}
    for free in TRY_FREE:
        disk = os.statvfs(small_disk)
        filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - free * 1024))
        outcomes.append(commit_in_child(root, f"k{free}"))
        expected |= {f"k{free}"} if outcomes[-1] else set()
        assert_unharmed(root, expected)
        assert list((root / "staging").iterdir()) == []  # unfinished files do not fill the disk further
        filler.unlink()
    assert outcomes[0] is False and outcomes[-1] is True
    assert commit_in_child(root, "later")
    assert_unharmed(root, {*expected, "later"})


def test_creating_a_store_on_a_full_disk_can_be_finished_later(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.raises(OSError, match="No space left"):
        create_store(small_disk / "store")
    (small_disk / "filler").unlink()
    store_with(small_disk / "store", "a")
    assert_unharmed(small_disk / "store", {"a"})


@pytest.mark.parametrize("limit", [0, 100, 900, 1500, 2500, 3000])
def test_writes_that_fail_at_any_size(tmp_path: Path, limit: int) -> None:
    root = store_with(tmp_path / "store", "first")
    assert not commit_in_child(root, "k", limit)
    assert_unharmed(root, {"first"})
    assert list((root / "staging").iterdir()) == []
    assert commit_in_child(root, "later")
    assert_unharmed(root, {"first", "later"})
