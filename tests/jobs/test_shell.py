"""Every command as a shell meets it: without arguments, with a closed stdout, with a full one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs import demo, evaluate, store, weights
from jobs._cli import StageCommand, job
from stores.command import signal_code
from tests._helpers.building import store_with
from tests.conftest import ROOT

CLOSED = 141


def run(name: str, *arguments: object, stdout: int, buffered: bool) -> subprocess.CompletedProcess[str]:
    """Run a job, with or without the buffer that Python puts before a stdout that is no terminal."""
    command = [sys.executable, f"jobs/{name}.py", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def closed() -> int:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("app", [store.app, evaluate.app, weights.app], ids=["store", "evaluate", "weights"])
def test_a_group_without_arguments_prints_its_help_as_it_is(app: typer.Typer) -> None:
    help_text = CliRunner().invoke(app, ["-h"])
    bare = CliRunner().invoke(app, [])
    assert (help_text.exit_code, bare.exit_code, bare.stdout) == (0, 2, "")
    assert bare.stderr == help_text.stdout
    assert "Commands:\n" in bare.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", ["extract -h", "store inspect STORE", "store inspect STORE --json"])
def test_a_closed_stdout_ends_a_command_in_silence_as_sigpipe_would(
    words: str, buffered: bool, closed: int, tmp_path: Path
) -> None:
    name, *arguments = words.replace("STORE", str(store_with(tmp_path / "store", "a"))).split()
    done = run(name, *arguments, stdout=closed, buffered=buffered)
    os.close(closed)
    assert (done.returncode, done.stderr) == (CLOSED, "")
    assert signal_code("SIGPIPE") == CLOSED


def test_the_demo_ends_so_too_and_not_after_minutes(closed: int, tmp_path: Path) -> None:
    done = run("demo", "--out", tmp_path, "--videos", 44, stdout=closed, buffered=True)
    os.close(closed)
    assert (done.returncode, done.stderr, os.listdir(tmp_path)) == (CLOSED, "", [])


@pytest.mark.parametrize(("computed", "code"), [([176, 0, 4], 0), ([176, 1, 4], 3)])
def test_a_demo_that_computes_other_rows_than_expected_says_so(
    computed: list[int], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_stores", lambda out, videos: (store_with(tmp_path / "store", "a"), computed))
    for name in ("_train", "_panel", "_page_of_run", "_conclude"):
        monkeypatch.setattr(demo, name, lambda *arguments: None)
    done = CliRunner().invoke(demo.app, [])
    assert (done.exit_code, done.stderr.startswith("error: the demo expected")) == (code, code == 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", ["extract -h", "store inspect STORE --json"])
def test_a_full_stdout_is_one_line_that_claims_nothing_about_rows(words: str, buffered: bool, tmp_path: Path) -> None:
    name, *arguments = words.replace("STORE", str(store_with(tmp_path / "store", "a"))).split()
    with Path("/dev/full").open("w") as full:
        done = run(name, *arguments, stdout=full.fileno(), buffered=buffered)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_a_disk_that_fails_in_a_stage_says_that_committed_rows_are_safe() -> None:
    app = job(None)

    @app.command(cls=StageCommand)
    def main() -> None:
        raise OSError(28, "No space left on device")

    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert done.stderr == (
        "error: No space left on device. Committed rows are safe; run the same command to continue\n"
    )
