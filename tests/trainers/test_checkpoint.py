"""Checkpoints and logs appear whole or not at all, a full disk is the system's own error, and damage is one line."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trainers.checkpoint import load_best, load_last, save_best, save_last
from trainers.errors import TrainingError
from trainers.folder import BEST, JOURNAL, LAST, remove_staged, writing
from trainers.journal import Journal
from trainers.loggers import Loggers


def errno_in_child(write: Callable[[], None], limit: int) -> int:
    """The errno of the ``OSError`` that writing gives where no file may grow beyond ``limit`` bytes; 0 without one."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            write()
            status = 0
        except OSError as error:
            status = error.errno or 254
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("limit", [0, 1000, 30_000])
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path: Path, limit: int) -> None:
    model = nn.Linear(100, 100)
    save_last(tmp_path, {"step": 1})
    save_best(tmp_path, model, {"a": 1})
    before = {name: (tmp_path / name).read_bytes() for name in (LAST, BEST)}
    assert errno_in_child(lambda: save_last(tmp_path, {"step": 2, "x": torch.zeros(10_000)}), limit) == 27  # EFBIG
    assert errno_in_child(lambda: save_best(tmp_path, model, {"a": 2}), limit) == 27
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    state = load_last(tmp_path)
    assert state is not None and state["step"] == 1
    load_best(tmp_path / BEST, nn.Linear(100, 100))


def test_a_disk_that_fills_up_costs_the_journal_nothing(tmp_path: Path) -> None:
    """Neither when a run begins again, nor when TensorBoard's events are written."""
    journal = Journal(tmp_path, 0, with_tensorboard(tmp_path, 0))
    for step in range(1, 40):
        journal.write(step, 1, "train", {"total": 1.0})
    journal.close()
    before = (tmp_path / JOURNAL).read_bytes()
    assert errno_in_child(lambda: Journal(tmp_path, 39), 100) == 27
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert (
        errno_in_child(lambda: log(Journal(tmp_path, 39, with_tensorboard(tmp_path, 39)), 900), len(before) + 10_000)
        == 27
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def with_tensorboard(folder: Path, step: int) -> Loggers:
    loggers = Loggers(folder, ["tensorboard"])
    loggers.start(step, {})
    return loggers


def log(journal: Journal, steps: int) -> None:
    for step in range(steps):
        journal.write(step, 1, "train", {"total": 1.0})


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as failed, writing(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert failed.value.filename == str(tmp_path / "x") and failed.value.errno == 28


def test_every_damaged_byte_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    """In the weights, too, where torch would read other numbers."""
    state = {"settings": json.dumps({"loop": {"lr": 1}}), "model": {"w": torch.arange(300.0)}, "step": 3}
    save_last(tmp_path, state)
    sound = (tmp_path / LAST).read_bytes()
    silent = []
    for at in range(0, len(sound), 17):
        (tmp_path / LAST).write_bytes(sound[:at] + bytes([sound[at] ^ 0x55]) + sound[at + 1 :])
        try:
            read = load_last(tmp_path)
        except TrainingError as error:
            assert str(error).startswith(f"{tmp_path / LAST}: not readable (") and "\n" not in str(error)
            continue
        assert read is not None
        if read["settings"] != state["settings"] or not torch.equal(read["model"]["w"], state["model"]["w"]):
            silent.append(at)
    assert silent == []
    for length in range(0, len(sound), 131):
        (tmp_path / LAST).write_bytes(sound[:length])
        with pytest.raises(TrainingError, match="not readable"):
            load_last(tmp_path)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    kept = ("last.pt", ".last.pt", ".notes.json", "my.last.pt.12", ".best.safetensors.txt")
    left = (".last.pt.4711", ".best.safetensors.1", ".answers_val.json.99", ".metrics.jsonl.7", ".settings.json.12")
    for name in (*kept, *left):
        (tmp_path / name).write_text("x")
    remove_staged(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
