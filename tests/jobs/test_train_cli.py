"""``jobs/train.py``: which version of the store a run reads, and errors in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jobs.train import app
from stores import Store
from stores.commit import create_store
from tests._helpers.building import cache_key, commit_rows
from tests._helpers.question_worlds import put_questions
from tests.trainers.cra.test_task import SPEC, asked, video


def run(root: Path, out: Path, *more: str) -> Any:
    changed = ("data.dataset=toy", "data.batch=2", "data.paraphrase=0", "data.distractors=0", "data.tests=[]")
    small = ("text.encoder=words", "text.heads=2", "model.front=false", "model.back=false", "model.dim=16")
    loop = ("model.heads=2", "model.layers=1", "loop.epochs=1", "loop.threads=1", "loop.tensorboard=false")
    words = [word for each in (*changed, *small, *loop, *more) for word in ("--set", each)]
    return CliRunner().invoke(app, ["cra", "--store", str(root), "--out", str(out), *words])


def store(root: Path) -> Path:
    create_store(root)
    commit_rows(root, map(video, range(6)), feature="clip", spec=SPEC)
    for split, numbers in (("train", range(4)), ("val", (4, 5))):
        put_questions(root, "toy", split, [asked(number) for number in numbers])
    return root


def test_a_run_keeps_its_version_once_it_has_something_to_go_on_with(tmp_path: Path) -> None:
    root = store(tmp_path / "store")
    broken = replace(video(0), cache_key=cache_key("v0", 1), values=np.full_like(video(0).values, np.nan))
    commit_rows(root, [broken], feature="clip", spec=SPEC)
    failed = run(root, tmp_path / "run")
    assert failed.exit_code == 2 and "not finite" in failed.stderr, failed.output
    mended = replace(video(0), cache_key=cache_key("v0", 2))
    commit_rows(root, [mended], feature="clip", spec=SPEC)  # the failed run saved nothing to be true to
    assert run(root, tmp_path / "run").exit_code == 0
    with Store.open(root) as opened:
        begun = opened.version
    commit_rows(root, [video(7)], feature="clip", spec=SPEC)
    again = run(root, tmp_path / "run")
    assert again.exit_code == 0 and f"resuming on store version {begun}, the version this run started from" in again.stderr


def test_a_batch_that_is_too_large_for_the_device_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(request: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr("trainers.run.run", full)
    done = run(store(tmp_path / "store"), tmp_path / "run")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "Tried to allocate 9 GiB. Make the batch smaller" in done.stderr
