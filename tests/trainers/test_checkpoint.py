"""Checkpoints appear whole or not at all, and a full disk is the system's own error."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trainers.checkpoint import load_best, load_last, save_best, save_last
from trainers.folder import BEST, LAST


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
