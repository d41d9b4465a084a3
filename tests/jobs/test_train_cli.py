"""``jobs/train.py``: which version of the store a run reads, and errors in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jobs.train import app
from stores import Store
from stores.sharing import open_place, push
from tests._helpers.building import cache_key, commit_rows
from tests._helpers.cra_worlds import SPEC, small_world, video
from tests.conftest import ROOT
from trainers.folder import OWNER
from trainers.loop import Outcome
from trainers.owner import owning
from trainers.predictions import read_predictions
from trainers.report.tables import score_tables

SMALL = (
    *("data.dataset=toy", "data.batch=2", "data.paraphrase=0", "data.distractors=0", "data.tests=[]"),
    *("text.encoder=words", "text.heads=2", "model.front=false", "model.back=false", "model.dim=16"),
    *("model.heads=2", "model.layers=1", "loop.epochs=1", "loop.threads=1", "loop.tensorboard=false"),
)


def run(root: Path, out: Path, *more: str, flags: tuple[str, ...] = ()) -> Any:
    words = [word for override in (*SMALL, *more) for word in ("--set", override)]
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
    assert re.search(r"epoch 1/1: val: n \d+, acc_vqa \d+\.\d\d, .*, n_grounded \d+, the best so far", done.stderr)
    again = run(tmp_path / "store", tmp_path / "run")
    rows = read_predictions(tmp_path / "run", "val")
    for table in score_tables(rows):  # those of the evaluator, and of the run's page
        start = again.stdout.index(f"\n{table.title} ")
        shown = [line.split() for line in again.stdout[start:].splitlines()[2 : 2 + len(table.rows)]]
        assert shown == [[*label.split(), *values] for label, values in table.rows]
    assert str(tmp_path / "run" / "answers_val.json") in summary["files"] and "answers_val" not in again.stdout
    assert again.stdout.endswith(f"next: python jobs/report.py {tmp_path / 'run'}\n")


def test_a_shared_store_is_trained_on_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELSTORE_CACHE", str(tmp_path / "caches"))
    root = small_world(tmp_path / "store")
    with Store.open(root) as opened:
        push(root, opened.manifest, open_place(str(tmp_path / "place")))
    address: Any = f"file://{tmp_path}/place"
    here, there = run(root, tmp_path / "here", flags=("--json",)), run(address, tmp_path / "there", flags=("--json",))
    assert here.exit_code == there.exit_code == 0, there.output
    assert json.loads(here.stdout)["metrics"] == json.loads(there.stdout)["metrics"]
    commit_rows(tmp_path / "place", [video(7)], feature="clip", spec=SPEC)
    again = run(address, tmp_path / "there")
    assert again.exit_code == 0 and "the version this run started from" in again.stderr
    assert run(f"{address}r", tmp_path / "other").stderr == f"error: {address}r: no store was published here\n".replace(
        "file://", ""
    )


def test_a_signal_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*given: Any) -> Outcome:
        return Outcome(1, {}, 0, signal.SIGTERM)

    monkeypatch.setattr("trainers.run.train", stopped)
    (tmp_path / "run").mkdir()
    done = run(small_world(tmp_path / "store"), tmp_path / "run", flags=("--json",))
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["exit_code"], summary["stopped_by"]) == (143, 143, "SIGTERM")
    assert "metrics" not in summary and "files" not in summary


def test_a_second_trainer_with_the_same_folder_is_refused_before_it_writes(tmp_path: Path) -> None:
    """It reads no row first, and the first one's folder is as it was."""
    root, out = small_world(tmp_path / "store"), tmp_path / "run"
    with owning(out):
        refused = run(root, out, "data.dataset=nobody")
        assert refused.exit_code == 2 and refused.stderr.count("\n") == 1, refused.output
        assert f"error: {out}: a run is going on here: pid {os.getpid()} on " in refused.stderr
        assert [path.name for path in out.iterdir()] == [OWNER]
    assert run(root, out).exit_code == 0
    assert not (out / OWNER).exists()


@pytest.mark.slow
def test_a_folder_that_is_taken_ends_every_rank_at_once(tmp_path: Path) -> None:
    """The first rank alone owns the folder; the others do not wait hours for it."""
    root, out = small_world(tmp_path / "store"), tmp_path / "run"
    words = [word for override in (*SMALL, "data.batch=1") for word in ("--set", override)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "jobs/train.py", "cra", "--store", str(root), "--out", str(out), *words]
    with owning(out):
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=240)
        assert done.returncode != 0
        assert f"error: {out}: a run is going on here: pid {os.getpid()} on " in done.stderr
        assert [path.name for path in out.iterdir()] == [OWNER]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert not (out / OWNER).exists() and (out / "results.json").exists()


def test_ray_is_not_started_for_a_folder_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train writes into the folder before any rank could own it."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")  # whatever clusters this machine has, or has had
    root, out = small_world(tmp_path / "store"), tmp_path / "run"
    with owning(out):
        refused = run(root, out, flags=("--ray-workers", "2"))
        assert refused.exit_code == 2 and "a run is going on here" in refused.stderr
        assert [path.name for path in out.iterdir()] == [OWNER]
    assert not ray.is_initialized()


def test_another_method_is_named_before_its_data_is_read(tmp_path: Path) -> None:
    root, out = small_world(tmp_path / "store"), tmp_path / "run"
    assert run(root, out).exit_code == 0
    refused = CliRunner().invoke(app, ["coqo", "--store", str(root), "--out", str(out)])
    assert refused.exit_code == 2
    assert refused.stderr == f"error: {out}: is a run of cra, not of coqo; name another --out\n"


def test_what_a_killed_checkpoint_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    root, out = small_world(tmp_path / "store"), tmp_path / "run"
    out.mkdir()
    (out / ".last.pt.4711").write_text("half")
    assert run(root, out).exit_code == 0
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


LIMITS = (0, 150, 300, 2500, 20_000, 100_000)
LIMITED = f"""
import json, resource, signal, sys
import jobs.train, torch.utils.tensorboard
from typer.testing import CliRunner
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
found = []
for limit in {LIMITS}:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    done = CliRunner().invoke(jobs.train.app, [*sys.argv[2:], "--out", f"{{sys.argv[1]}}/run{{limit}}"])
    found.append((done.exit_code, done.stderr))
print(json.dumps(found))
"""


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_disk_that_fails_in_mid_run_is_one_line_and_the_run_goes_on_later(tmp_path: Path, tensorboard: bool) -> None:
    """No file may grow beyond some bytes, in a process of its own; the sizes end up in each writer of a run.

    All sizes are tried in one process, which says nothing itself, not even at its end.
    """
    root = small_world(tmp_path / "store")
    more = (f"loop.tensorboard={str(tensorboard).lower()}", "loop.log_steps=1", "loop.epochs=3")
    words = [word for override in (*SMALL, *more) for word in ("--set", override)]
    command = [sys.executable, "-c", LIMITED, str(tmp_path), "cra", "--store", str(root), *words]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stderr == ""
    seen = set()
    for limit, (code, said) in zip(LIMITS, json.loads(done.stdout), strict=True):
        out = tmp_path / f"run{limit}"
        if code == 0:
            continue
        errors = [line for line in said.splitlines() if not re.match(r"\S+ epoch|warning", line)]
        assert code == 2 and len(errors) == 1, said
        assert re.fullmatch(rf"error: {out}/\S+: File too large; .* the same command continues the run", errors[0])
        seen.add(errors[0].split(": ")[1].rpartition("/")[2].partition(".out.")[0])
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
        if limit == 2500:
            assert run(root, out, *more).exit_code == 0
    assert {"owner.json", "settings.json", "last.pt"} & seen and len(seen) >= 3, seen


def test_an_unknown_method_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["coko", "--store", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr == "error: method 'coko': unknown; available: coqo, cra, frozenbilm; did you mean 'coqo'?\n"


def test_a_batch_that_is_too_large_for_the_device_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*run: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr("trainers.run.train", full)
    done = run(small_world(tmp_path / "store"), tmp_path / "run")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "Tried to allocate 9 GiB. Make the batch smaller" in done.stderr
