"""Kill -9 before and after every call that changes a store; then run again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.commit import create_store
from stores.errors import StoreNotFoundError
from stores.format import durable, segments
from stores.upkeep.verification import verify
from tests._helpers import scenario
from tests._helpers.building import row_digests


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, if there is such a filesystem, since the test makes thousands of fsyncs."""
    monkeypatch.setattr(segments, "FANOUT", segments.FANOUT)  # the scenario lowers it
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield path
    shutil.rmtree(path)


def run_until(root: Path, last: int) -> int | None:
    """Run the scenario in a forked child that is killed at crash point ``last``; return None if it ended before."""
    child = os.fork()
    if child == 0:
        passed = 0

        def crash_point(name: str) -> None:
            nonlocal passed
            if passed == last:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1

        durable.crash_point = crash_point
        status = 1
        try:
            scenario.run(root)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return last
    assert os.WEXITSTATUS(status) == 0, f"the scenario failed by itself with crash point {last}"
    return None


def assert_recovers(root: Path, undisturbed: dict[tuple[str, str], str]) -> None:
    try:
        result = verify(root, deep=True)
    except StoreNotFoundError:  # killed before the store existed
        create_store(root)
        result = verify(root, deep=True)
    assert result.problems == []
    scenario.run(root)
    assert verify(root, deep=True).problems == []
    assert row_digests(root) == undisturbed


def sweep(folder: Path, start: int, step: int) -> int:
    assert run_until(folder / "undisturbed", -1) is None
    undisturbed = row_digests(folder / "undisturbed")
    assert {key for _, key in undisturbed} == {"a", "b", "c"}
    point = start
    while run_until(folder / "store", point) is not None:
        assert_recovers(folder / "store", undisturbed)
        shutil.rmtree(folder / "store")
        point += step
    return point


def test_a_crash_at_every_29th_point_loses_nothing(folder: Path) -> None:
    assert sweep(folder, 5, 29) > 150


def identity(root: Path) -> frozenset[tuple[str, bytes, int, int, int]]:
    """Return all that a later run can see of a store: names, contents, modes, times, and which names are one file."""
    entries = sorted(root.rglob("*"))
    first: dict[int, int] = {}
    found = set()
    for number, path in enumerate(entries):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        same = first.setdefault(status.st_ino, number)
        found.add((path.relative_to(root).as_posix(), data, status.st_mode, status.st_mtime_ns, same))
    return frozenset(found)


def states(root: Path, copies: Path) -> tuple[int, list[Path]]:
    """Run the scenario; return the number of its crash points and a copy of each state that a kill at one leaves.

    Where nothing has changed since the last point, as between the end of one call and the begin of the next, the state
    is the same.
    """
    points, found = 0, []
    before = identity(root)  # empty: the state before the first call
    copies.mkdir()

    def crash_point(name: str) -> None:
        nonlocal points, before
        points += 1
        now = identity(root)
        if now != before:
            found.append(copies / str(points))
            subprocess.run(["cp", "-a", root, found[-1]], check=True)  # with hard links and times
        before = now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "crash_point", crash_point)
        scenario.run(root)
    return points, found


@pytest.mark.slow
def test_a_crash_at_every_point_loses_nothing(folder: Path) -> None:
    """A kill leaves what is on the disk at that moment: a copy of it does for a process that is killed there."""
    points, found = states(folder / "undisturbed", folder / "states")
    undisturbed = row_digests(folder / "undisturbed")
    assert points > 300 and len(found) > 150
    for state in found:
        assert_recovers(state, undisturbed)
        shutil.rmtree(state)


@pytest.mark.slow
def test_a_second_crash_during_the_second_run_loses_nothing(folder: Path) -> None:
    assert run_until(folder / "undisturbed", -1) is None
    undisturbed = row_digests(folder / "undisturbed")
    for first in range(20, 300, 55):
        for second in (first // 3, first):
            run_until(folder / "store", first)
            run_until(folder / "store", second)
            assert_recovers(folder / "store", undisturbed)
            shutil.rmtree(folder / "store")
