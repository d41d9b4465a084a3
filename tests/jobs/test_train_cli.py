"""``jobs/train.py``: which version of the store a run reads, and errors in one line."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jobs.train import app
from stores import Store
from tests._helpers.building import cache_key, commit_rows
from tests._helpers.cra_worlds import SPEC, small_world, video
from trainers.loop import Outcome


def run(root: Path, out: Path, *more: str, flags: tuple[str, ...] = ()) -> Any:
    changed = ("data.dataset=toy", "data.batch=2", "data.paraphrase=0", "data.distractors=0", "data.tests=[]")
    small = ("text.encoder=words", "text.heads=2", "model.front=false", "model.back=false", "model.dim=16")
    loop = ("model.heads=2", "model.layers=1", "loop.epochs=1", "loop.threads=1", "loop.tensorboard=false")
    words = [word for override in (*changed, *small, *loop, *more) for word in ("--set", override)]
    return CliRunner().invoke(app, ["cra", "--store", str(root), "--out", str(out), *words, *flags])


def test_a_run_keeps_its_version_once_it_has_something_to_go_on_with(tmp_path: Path) -> None:
    root = small_world(tmp_path / "store")
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
    assert (
        again.exit_code == 0 and f"resuming on store version {begun}, the version this run started from" in again.stderr
    )


def test_the_summary_and_the_results_have_the_agreed_keys(tmp_path: Path) -> None:
    done = run(small_world(tmp_path / "store"), tmp_path / "run", flags=("--json",))
    summary = json.loads(done.stdout)
    names = {"method", "store", "store_version", "out", "steps", "best_epoch", "metrics", "files", "stopped_by"}
    assert (done.exit_code, set(summary), summary["exit_code"]) == (0, {*names, "exit_code"}, 0)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == summary


def test_a_signal_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: Any) -> Outcome:
        return Outcome(1, {}, 0, signal.SIGTERM)

    monkeypatch.setattr("trainers.run.train", stopped)
    (tmp_path / "run").mkdir()
    done = run(small_world(tmp_path / "store"), tmp_path / "run", flags=("--json",))
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["exit_code"], summary["stopped_by"]) == (143, 143, "SIGTERM")
    assert "metrics" not in summary and "files" not in summary


def test_an_unknown_method_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["coko", "--store", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr == "error: method 'coko': unknown; available: coqo, cra; did you mean 'coqo'?\n"


def test_a_batch_that_is_too_large_for_the_device_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*run: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr("trainers.run.train", full)
    done = run(small_world(tmp_path / "store"), tmp_path / "run")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "Tried to allocate 9 GiB. Make the batch smaller" in done.stderr
