"""``jobs/train.py --ray-workers``: what reaches the terminal, and how a run ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests._helpers.clusters import nodes
from tests._helpers.cra_worlds import world
from tests.conftest import ROOT
from tests.jobs.test_train_cli import SMALL
from trainers.folder import JOURNAL, OWNER, STOP

OURS = re.compile(
    r"((\d\d:){2}\d\d )?(ray: starting 2 workers on .*|warning: no question is paraphrased.*|epoch \d+/\d+.*)"
    r"|\S+: continuing .*"
)

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("ray") / "store")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Mapping[str, str]]:
    """The environment of a driver of a cluster with two CPUs, whose start the tests share."""
    with nodes((2, 0)) as started:
        yield started.environment


def start(
    root: Path,
    out: Path,
    *more: str,
    environment: Mapping[str, str] | None = None,
    ray: bool = True,
    flags: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """Start a run in an environment, or else on a cluster of its own."""
    words = [word for override in (*SMALL, *more) for word in ("--set", override)]
    command = [sys.executable, "jobs/train.py", "cra", "--store", str(root), "--out", str(out), *words, *flags]
    environment = environment or {**os.environ, "RAY_ADDRESS": "local"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*command, *(("--ray-workers", "2") if ray else ())], cwd=ROOT, text=True, env=environment, **both
    )


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Read stderr up to the first line that has ``wanted`` in it, while the process runs."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if wanted in line:
            return lines
    raise AssertionError("\n".join(lines))


def torchrun(root: Path, out: Path, *more: str) -> None:
    words = [word for override in (*SMALL, *more) for word in ("--set", override)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "jobs/train.py", "cra", "--store", str(root), "--out", str(out), *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)


@pytest.mark.slow
@pytest.mark.ray
def test_lines_come_while_ray_trains_and_are_all_ours(root: Path, tmp_path: Path) -> None:
    more = ("loop.epochs=3", "loop.progress_s=0.01", "loop.log_steps=1", "data.paraphrase=0.3")
    process = start(root, tmp_path / "ray", *more, flags=("--json",))
    lines = lines_until(process, "epoch 1/3 step ")
    assert process.poll() is None  # it goes on
    out, rest = process.communicate(timeout=240)
    lines += rest.splitlines()
    assert process.returncode == 0 and json.loads(out)["steps"] == 36
    assert [line for line in lines if not OURS.fullmatch(line)] == []
    assert sum("warning: no question is paraphrased" in line for line in lines) == 1
    assert any(
        re.fullmatch(r"(\d\d:){2}\d\d epoch 3/3 step \d+/12 loss \d\.\d{4}, \d+\.\d steps/s, \d+ s left", line)
        for line in lines
    )
    torchrun(root, tmp_path / "torchrun", *more)  # the same run by another launcher
    assert (tmp_path / "ray" / JOURNAL).read_bytes() == (tmp_path / "torchrun" / JOURNAL).read_bytes()


@pytest.mark.slow
@pytest.mark.ray
def test_a_signal_stops_the_workers_with_a_checkpoint_and_the_run_goes_on(
    root: Path, cluster: Mapping[str, str], tmp_path: Path
) -> None:
    more = ("loop.epochs=40", "loop.progress_s=0.01", "loop.log_steps=1", "loop.validate_epochs=20")
    process = start(root, tmp_path / "run", *more, environment=cluster)
    lines_until(process, "epoch 1/40 step ")
    process.send_signal(signal.SIGTERM)
    out, rest = process.communicate(timeout=240)
    stopped = re.match(r"stopped by SIGTERM after step (\d+); run the same command to continue", out)
    assert process.returncode == 128 + signal.SIGTERM and stopped, (out, rest)
    assert 0 < int(stopped[1]) < 480
    assert [line for line in rest.splitlines() if not OURS.fullmatch(line)] == []
    assert not {OWNER, STOP} & {path.name for path in (tmp_path / "run").iterdir()}
    process = start(root, tmp_path / "run", *more, environment=cluster)
    out, rest = process.communicate(timeout=240)
    assert process.returncode == 0 and f"continuing after step {stopped[1]} of 480" in rest
    torchrun(root, tmp_path / "whole", *more)
    assert (tmp_path / "run" / JOURNAL).read_bytes() == (tmp_path / "whole" / JOURNAL).read_bytes()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("fault", ["killed", "not finite"])
def test_after_a_failure_the_last_line_is_ours(
    root: Path, cluster: Mapping[str, str], tmp_path: Path, fault: str
) -> None:
    more = ("loop.lr=1e30",) if fault == "not finite" else ("loop.epochs=4000", "loop.progress_s=0.01")
    process = start(root, tmp_path / "run", *more, environment=cluster)
    if fault == "killed":
        lines_until(process, "epoch 1/4000 step ")
        os.kill(json.loads((tmp_path / "run" / OWNER).read_text())["pid"], signal.SIGKILL)
    out, rest = process.communicate(timeout=240)
    expected = {
        "killed": "error: ray: the process of worker 0 died: it was killed, ran out of memory or crashed; the same "
        "command continues the run",
        "not finite": "error: a loss or gradient is not finite in epoch 1, at or before step 12: ",
    }
    assert process.returncode == 2 and out == "", out
    assert rest.splitlines()[-1].startswith(expected[fault]), rest
    assert "Traceback" not in rest


@pytest.mark.slow
@pytest.mark.ray
def test_more_workers_than_cpus_are_refused_instead_of_waited_for(
    root: Path, cluster: Mapping[str, str], tmp_path: Path
) -> None:
    process = start(root, tmp_path / "run", environment=cluster, ray=False, flags=("--ray-workers", "4000"))
    out, rest = process.communicate(timeout=240)
    assert process.returncode == 2 and out == ""
    assert re.fullmatch(r"error: ray: 4000 workers need one CPU each, but the cluster has 2\n", rest)


def test_a_wrong_address_is_one_line_before_ray_is_imported(root: Path, tmp_path: Path) -> None:
    code = "import sys, jobs.train\ntry: jobs.train.app()\nfinally: print(sorted({'ray', 'torch'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, "cra", "--store", str(root), "--out", str(tmp_path / "run"), "--ray-workers"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(
        [*command, "2"], cwd=ROOT, text=True, capture_output=True, check=False, env=environment, timeout=60
    )
    assert done.returncode == 2 and done.stdout == "[]\n"
    assert done.stderr.startswith("error: RAY_ADDRESS=127.0.0.1:1: no Ray cluster there (connection refused); ")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
