"""A run's folder has one owner, whatever ended the owner before."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainers.errors import TrainingError
from trainers.folder import OWNER
from trainers.owner import Owner, owning, refuse_owned

HOLD = """
import sys
from pathlib import Path
from trainers.errors import TrainingError
from trainers.owner import owning
try:
    with owning(Path(sys.argv[1])):
        print("owned", flush=True)
        sys.stdin.read()
except TrainingError as error:
    print(error, flush=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """A process that owns the folder until its stdin is closed, or says why it does not."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def leave_behind(folder: Path, **changes: object) -> Owner:
    """Write the file of another owner."""
    folder.mkdir(exist_ok=True)
    owner = replace(Owner.this_process(), **changes)  # type: ignore[arg-type]  # the fields of the test's choice
    (folder / OWNER).write_text(json.dumps(asdict(owner)))
    return owner


@contextmanager
def ended() -> Iterator[int]:
    """The number of a process that has ended, and that no other process has: it waits to be reaped."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


def test_a_second_trainer_is_told_who_trains_and_after_the_end_the_folder_is_free(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert said(first) == "owned"
    inside = sorted(path.name for path in tmp_path.iterdir())
    with (
        pytest.raises(
            TrainingError, match=rf"a run is going on here: pid {first.pid} on \S+ since \d.*name another --out"
        ),
        owning(tmp_path),
    ):
        pass
    with pytest.raises(TrainingError, match=f"pid {first.pid} "):
        refuse_owned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == inside == [OWNER]
    first.communicate()
    refuse_owned(tmp_path)
    with owning(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_trainer_left_is_taken_over(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert said(first) == "owned"
    first.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, and its parent has not noticed
    with owning(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    first.communicate()


def test_of_many_that_find_a_dead_owner_one_takes_the_folder(tmp_path: Path) -> None:
    with ended() as pid:
        leave_behind(tmp_path, pid=pid)
        racers = [start(tmp_path) for _ in range(6)]
        lines = [said(racer) for racer in racers]
        for racer in racers:
            racer.communicate()
    assert sorted(line == "owned" for line in lines) == [False] * 5 + [True], lines
    assert not (tmp_path / OWNER).exists()


def test_a_later_process_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    """So is one of the same number and moment after the host was started again."""
    mine = Owner.this_process()
    assert mine.born is not None
    for changes in ({"born": mine.born - 1}, {"boot": "before"}):
        leave_behind(tmp_path, **changes)
        with owning(tmp_path):
            pass
    leave_behind(tmp_path)
    with pytest.raises(TrainingError, match=f"a run is going on here: pid {os.getpid()} "), owning(tmp_path):
        pass


def test_the_owner_on_another_host_cannot_be_asked_and_is_refused(tmp_path: Path) -> None:
    leave_behind(tmp_path, host="gpu-7")
    remedy = f"if it is certain that this process has ended, remove {tmp_path / OWNER}"
    for attempt in (owning(tmp_path).__enter__, lambda: refuse_owned(tmp_path)):
        with pytest.raises(TrainingError, match=f"pid {os.getpid()} on gpu-7 since") as refused:
            attempt()
        assert str(refused.value).endswith(remedy)
    (tmp_path / OWNER).unlink()
    with owning(tmp_path):
        pass


def test_a_lock_that_is_held_speaks_for_an_owner_whose_number_is_not_seen_here(tmp_path: Path) -> None:
    """Two containers of one machine may have one host name, and see only their own processes."""
    with ended() as pid:
        owner = leave_behind(tmp_path, pid=pid)
        with (tmp_path / OWNER).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(TrainingError, match=f"a run is going on here: pid {pid} "), owning(tmp_path):
                pass
            assert json.loads((tmp_path / OWNER).read_text()) == asdict(owner)
        with owning(tmp_path):
            pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\xff", '{"pid": "1"}'])
def test_a_file_that_names_nobody_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / OWNER).write_text(text, encoding="latin-1")
    with (
        pytest.raises(
            TrainingError, match=r"owner\.json: does not say which run owns this folder; if none is going on"
        ),
        owning(tmp_path),
    ):
        pass
    assert (tmp_path / OWNER).read_text(encoding="latin-1") == text
