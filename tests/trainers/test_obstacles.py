"""Whoever cannot train yet learns of every reason at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.train import app
from stores.commit import create_store
from stores.errors import StoreError
from tests._helpers import coqo_worlds, cra_worlds
from tests._helpers.building import commit_rows
from tests._helpers.question_worlds import put_questions
from tests.jobs.test_train_cli import SMALL
from trainers.errors import TrainingError
from trainers.folder import SETTINGS
from trainers.obstacles import Obstacles, ObstaclesError
from trainers.owner import owning

WHOLE = ("model.front=true", "model.back=true", "text.encoder=stored", "data.tests=[test]")


def invoke(method: str, store: Path, out: Path, *more: str, flags: tuple[str, ...] = ("--check",)) -> Any:
    given = SMALL if method == "cra" else ("data.dataset=toy", "data.audio=sound", "data.visual=maps")
    words = [word for override in (*given, *more) for word in ("--set", override)]
    return CliRunner().invoke(app, [method, "--store", str(store), "--out", str(out), *words, *flags])


@pytest.fixture
def poor(tmp_path: Path) -> Path:
    """A store without dictionaries, test questions and embeddings, and with rows of 4 of 6 videos."""
    root = tmp_path / "store"
    create_store(root)
    commit_rows(root, map(cra_worlds.video, range(4)), feature="clip", spec=cra_worlds.SPEC)
    put_questions(root, "toy", "train", cra_worlds.questions(range(4)))
    put_questions(root, "toy", "val", cra_worlds.questions((4, 5)))
    return root


def test_cra_names_dictionaries_questions_rows_and_embeddings_in_one_run(poor: Path, tmp_path: Path) -> None:
    done = invoke("cra", poor, tmp_path / "run", *WHOLE)
    assert done.exit_code == 2, done.output
    assert done.stderr == "error: 5 obstacles; nothing was trained\n"
    wanted = (
        "no linguistic dictionary toy/train in version",
        "no visual dictionary toy/train/clip in version",
        "2 of 2 videos without a row",
        "no questions of 'toy/test' in version",
        "embeddings",
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(wanted)
    for text in wanted:
        assert sum(text in line for line in lines) == 1, (text, lines)
    assert not (tmp_path / "run").exists()


def test_training_itself_names_them_in_its_one_line(poor: Path, tmp_path: Path) -> None:
    done = invoke("cra", poor, tmp_path / "run", *WHOLE, flags=())
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        f"error: 5 obstacles, which --check lists: {poor}: no linguistic dictionary toy/train in version"
    )
    assert not (tmp_path / "run" / SETTINGS).exists()


def test_coqo_names_features_and_questions_in_one_run(tmp_path: Path) -> None:
    root = coqo_worlds.world(tmp_path / "store", 4, 2)
    more = ("data.audio=vggish", "data.visual=swin", "data.val=dev", "data.tests=[final]")
    done = invoke("coqo", root, tmp_path / "run", *more, flags=("--check", "--json"))
    found = json.loads(done.stdout)
    assert (done.exit_code, found["exit_code"], found["steps_per_epoch"]) == (2, 2, 0)
    lines = found["obstacles"]
    assert len(lines) == 4, lines
    for text in ("no feature 'vggish'", "no feature 'swin'", "'toy/dev'", "'toy/final'"):
        assert sum(text in line for line in lines) == 1, (text, lines)


def test_what_is_ready_says_so_and_nothing_is_written(tmp_path: Path) -> None:
    root, out = cra_worlds.small_world(tmp_path / "store"), tmp_path / "run"
    done = invoke("cra", root, out)
    assert (done.exit_code, done.stdout) == (0, "ready to train: 2 steps per epoch\n"), done.output
    assert not out.exists()
    assert invoke("cra", root, out, flags=()).exit_code == 0
    before = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    other = invoke("cra", root, out, "loop.lr=0.5")
    assert other.exit_code == 2 and "holds a run with other settings (loop.lr: " in other.stdout
    with owning(tmp_path / "busy"):
        busy = invoke("cra", root, tmp_path / "busy", "data.val=dev")
    assert busy.exit_code == 2 and busy.stderr == "error: 2 obstacles; nothing was trained\n"
    assert "a run is going on here" in busy.stdout and "no questions of 'toy/dev'" in busy.stdout
    assert sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir()) == before


def test_an_obstacle_counts_once_and_a_fault_of_the_program_is_none() -> None:
    obstacles = Obstacles()
    for error in (TrainingError("a"), StoreError("b"), TrainingError("a"), ObstaclesError(["c", "b"])):
        with obstacles.part():
            raise error
    with pytest.raises(ObstaclesError, match=r"^3 obstacles, which --check lists: a; b; c$") as told:
        obstacles.require()
    assert told.value.lines == ("a", "b", "c")
    with pytest.raises(ZeroDivisionError), obstacles.part():
        1 / 0  # noqa: B018  the fault
