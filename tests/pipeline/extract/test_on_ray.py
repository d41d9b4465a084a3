"""The Ray executor, on a real cluster: same rows as the local one, real jobs, real stops and kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stores.upkeep.verification import verify
from tests._helpers.clusters import wait_for
from tests._helpers.runs import RGB, digests, extract, rgb_config
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray]

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Cluster:
    """A one-machine cluster with token authentication, as README starts it."""

    environment: dict[str, str]
    log: Path

    def submit(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--", "python", *arguments],
            cwd=ROOT, env=self.environment, text=True, capture_output=True, timeout=timeout,
        )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    dashboard = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    port = free_port()
    # The default port of the agent that starts jobs is one a machine: of two clusters there, the later takes no jobs.
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    start = [str(BIN / "ray"), "start", "--head", "--num-cpus=2", *ports]
    log = folder / "start.log"
    with log.open("wb") as file:
        head = subprocess.Popen(
            [*start, "--disable-usage-stats", "--include-dashboard=true", "--block"],
            env=environment, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        wait_for(lambda: head.poll() is not None or "Ray runtime started" in log.read_text())
        assert head.poll() is None, log.read_text()
        yield Cluster(environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, folder)
    finally:
        head.terminate()  # ends this cluster; ``ray stop`` would end every one of the machine
        head.wait(60)


@pytest.fixture
def many(tmp_path: Path, clip_bytes: tuple[bytes, ...]) -> Path:
    """24 videos (copies with a byte more each, so that all contents differ) and two bad files."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(24):
        (folder / f"v{index:02d}.mp4").write_bytes(clip_bytes[index % 4] + bytes([index]))
    (folder / "text.mp4").write_text("not a video")
    (folder / "cut.mp4").write_bytes(clip_bytes[0][:2000])
    return folder


def command(source: Path, store: Path, folder: Path) -> list[str]:
    config = folder / "rgb.yaml"
    config.write_text(RGB)
    return ["jobs/extract.py", str(source), "--store", str(store), "--config", str(config), "--allow-code", "--json"]


def slow(folder: Path, seconds: float) -> Path:
    """Write a configuration whose model takes so long for each video; shards are of two videos."""
    config = folder / "slow.yaml"
    card = f"'tests._helpers.cards:Card', grid: 2, faulty: none, slow_s: {seconds}"
    config.write_text(RGB.replace("rgb_grid, grid: 2", card) + "run: {commit_seconds: 0.5, shard_rows: 2}\n")
    return config


def test_a_submitted_job_gives_the_rows_of_a_local_run(cluster: Cluster, many: Path, tmp_path: Path) -> None:
    """Blocks arrive in any order; two bad files are two failure rows and exit code 3."""
    done = cluster.submit(*command(many, tmp_path / "ray", tmp_path))
    assert done.returncode != 0, "ray reports a job that exits with 3 as failed"
    assert "exit code 3" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout
    local = extract(many, tmp_path / "local", rgb_config(tmp_path))
    assert local.exit_code == 3
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert len(digests(tmp_path / "ray")) == 24
    assert verify(tmp_path / "ray", deep=True).ok
    again = extract(many, tmp_path / "ray", rgb_config(tmp_path))
    assert again.summary["computed"] == 0


def test_relative_paths_are_refused_by_a_submitted_job(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.submit("jobs/extract.py", "videos", "--store", str(tmp_path / "s"))
    output = done.stdout + done.stderr
    assert "exit code 2" in output
    assert "absolute path" in output


def test_ray_job_stop_commits_what_is_finished(cluster: Cluster, many: Path, tmp_path: Path) -> None:
    """SIGTERM from Ray itself; the next run ends as if nothing had happened."""
    store, config, job = tmp_path / "store", slow(tmp_path, 1.0), "stopme"
    arguments = ["jobs/extract.py", str(many), "--store", str(store), "--config", str(config), "--allow-code"]
    submit = [str(BIN / "ray"), "job", "submit", "--no-wait", f"--submission-id={job}", "--working-dir", "."]
    subprocess.run(
        [*submit, "--", "python", *arguments], cwd=ROOT, env=cluster.environment, check=True, capture_output=True
    )
    wait_for(lambda: any((store / "features").rglob("*.json")), 120)
    subprocess.run(
        [str(BIN / "ray"), "job", "stop", job], env=cluster.environment, check=True, capture_output=True, timeout=60
    )
    logs = subprocess.run(
        [str(BIN / "ray"), "job", "logs", job], env=cluster.environment, text=True, capture_output=True, timeout=60
    )
    assert "stopped by SIGTERM" in logs.stdout + logs.stderr
    assert verify(store, deep=True).ok
    extract(many, store, rgb_config(tmp_path, text=slow(tmp_path, 0.0).read_text()))
    extract(many, tmp_path / "undisturbed", rgb_config(tmp_path))
    assert digests(store) == digests(tmp_path / "undisturbed")


@pytest.mark.parametrize("receipts", [0, 1, 4])
def test_kill_while_rows_arrive_loses_nothing(cluster: Cluster, many: Path, tmp_path: Path, receipts: int) -> None:
    """SIGKILL the driver of a run on the cluster, soon or later; run again; compare with an undisturbed run."""
    store, config = tmp_path / "store", slow(tmp_path, 0.5)
    driver = subprocess.Popen(
        [sys.executable, "jobs/extract.py", str(many), "--store", str(store), "--config", str(config)]
        + ["--executor", "ray", "--allow-code"],
        cwd=ROOT, env=cluster.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: (store / "store.json").exists(), 60)
    wait_for(lambda: len(list((store / "features").rglob("*.json"))) >= receipts, 120)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert verify(store, deep=True).ok
    extract(many, store, rgb_config(tmp_path, text=slow(tmp_path, 0.0).read_text()))
    extract(many, tmp_path / "undisturbed", rgb_config(tmp_path))
    assert digests(store) == digests(tmp_path / "undisturbed")
    assert verify(store, deep=True).ok


def test_stages_that_are_retried_change_nothing(cluster: Cluster, many: Path, tmp_path: Path) -> None:
    """The model actor kills its own process once, after other stages have run: Ray runs the block again."""
    store = tmp_path / "store"
    config = tmp_path / "dying.yaml"
    config.write_text(RGB.replace("rgb_grid, grid: 2", "'tests._helpers.dying:Dying', grid: 2"))
    shutil.rmtree(tmp_path / "died", ignore_errors=True)
    environment = cluster.environment | {"REELSTORE_TEST_DIED": str(tmp_path / "died")}
    done = subprocess.run(
        [sys.executable, "jobs/extract.py", str(many), "--store", str(store), "--config", str(config)]
        + ["--executor", "ray", "--json", "--allow-code"],
        cwd=ROOT, env=environment, text=True, capture_output=True, timeout=240,
    )  # fmt: skip
    assert (tmp_path / "died").exists(), done.stderr
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["computed"] == 24
    extract(many, tmp_path / "local", rgb_config(tmp_path))
    assert digests(store) == digests(tmp_path / "local")
