"""What every training method gives, from its settings to a panel of its finished run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import multiprocessing

from stores import Store
from stores.errors import StoreNotFoundError
from stores.upkeep import collect
from tests._helpers import coqo_worlds, cra_worlds
from tests._helpers.building import commit_rows
from tests._helpers.coqo_building import SMALL
from tests._helpers.question_worlds import put_questions
from tests.conftest import ROOT
from trainers import METHODS, MethodSettings, TrainingError, TrainRequest, TrainResult, checkpoint, find_method
from trainers.folder import BEST, LAST, RESULTS, SETTINGS
from trainers.panels import draw, open_run
from trainers.predictions import read_predictions
from trainers.resume import choose_version
from trainers.run import run

every_method = pytest.mark.parametrize("name", METHODS)
LOOP = {"epochs": 1, "threads": 1, "tensorboard": False, "device": "cpu"}
SMALL_SETTINGS: dict[str, dict[str, Any]] = {
    "coqo": {
        "data": {"dataset": "toy", "audio": "sound", "visual": "maps", "pool": True, "batch_videos": 8},
        "model": {**SMALL, "checkpoint": False},
    },
    "cra": {
        "data": {"dataset": "toy", "tests": [], "batch": 2, "paraphrase": 0},
        "text": {"encoder": "words", "heads": 2},
        "model": {"dim": 16, "heads": 2, "layers": 1, "front": False, "back": False},
    },
    "frozenbilm": {
        "data": {"dataset": "toy", "tests": [], "batch": 2},
        "model": {
            "weights": "random:0",
            "trained": "all",
            "language": {"width": 16, "layers": 2, "heads": 2, "inner": 16, "positions": 64, "buckets": 16},
        },
    },
}
FEATURES = {"coqo": ("sound", "maps"), "cra": ("clip",), "frozenbilm": ("clip",)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store that each method can train from."""
    root = tmp_path_factory.mktemp("stores")
    grounding = cra_worlds.small_world(root / "cra")
    return {"coqo": coqo_worlds.world(root / "coqo", 8, 2), "cra": grounding, "frozenbilm": grounding}


def small_settings(name: str, **loop: Any) -> MethodSettings:
    chosen: MethodSettings = find_method(name).settings.model_validate({**SMALL_SETTINGS[name], "loop": LOOP | loop})
    return chosen


def trained(name: str, store: Path, out: Path, version: int | None = None, **loop: Any) -> TrainResult:
    settings = small_settings(name, **loop).model_dump(mode="json")
    version = version or choose_version(store, out).version
    return run(TrainRequest(method=name, store=str(store), version=version, out=str(out), settings=settings))


def make_old(folder: Path) -> None:
    """Rewrite a run of CoQo as Reelstore 0.1 wrote it: its settings under ``method``."""

    def old(settings: dict[str, Any]) -> dict[str, Any]:
        task = dict(settings["task"])
        task["method"] = task.pop("settings")
        return {**settings, "task": task}

    path = folder / SETTINGS
    path.write_text(json.dumps(old(json.loads(path.read_text()))))
    state = checkpoint.load_last(folder)
    assert state is not None
    checkpoint.save_last(folder, {**state, "settings": json.dumps(old(json.loads(state["settings"])))})


@every_method
def test_settings_name_the_dataset_and_the_features(name: str) -> None:
    settings = small_settings(name)
    assert (settings.dataset, settings.features) == ("toy", FEATURES[name])


@every_method
def test_a_run_is_described_scored_and_drawn(name: str, stores: dict[str, Path], tmp_path: Path) -> None:
    result = trained(name, stores[name], tmp_path)
    assert (result.method, result.stopped_by, result.best_epoch) == (name, None, 1)
    assert TrainResult.from_json(json.loads((tmp_path / RESULTS).read_text())) == result
    assert all(Path(file).exists() for file in result.files)
    task = json.loads((tmp_path / SETTINGS).read_text())["task"]
    assert (task["method"], task["store_version"]) == (name, result.store_version)
    described = small_settings(name).model_dump(mode="json", exclude={"loop"})
    assert described["data"].pop("preload") == "none"  # where features are kept does not tell what was learned
    assert task["settings"] == described
    assert checkpoint.read_description(tmp_path / BEST)["task"] == task
    finished = open_run(tmp_path)
    assert (finished.dataset, finished.feature, finished.splits) == ("toy", FEATURES[name][-1], tuple(result.metrics))
    with Store.open(stores[name], lease=False) as store:
        row = store.table("questions", "toy/val").slice(0, 1).to_pylist()[0]
    image, page = draw(finished, row["question_id"])
    assert image.startswith(b"\x89PNG")
    assert row["question"] in page
    predictions = read_predictions(tmp_path, "val")
    known = [each for each in predictions.rows if each.right is not None]
    right = 100 * sum(bool(each.right) for each in known) / len(known)
    assert right == pytest.approx(result.metrics["val"]["overall" if name == "coqo" else "acc_vqa"])
    assert str(tmp_path / "predictions_val.parquet") in result.files
    first = next(each for each in predictions.rows if each.question_id == row["question_id"])
    assert (first.question, first.answer, first.video_id) == (row["question"], row["answer"], row["video_id"])
    assert first.confidence is not None and 0 < first.confidence <= 1
    told = "right" if first.right else f"wrong: predicted “{first.prediction}”, right is “{first.answer}”"
    assert f"<p>{told}" in page
    assert f"<p>video {row['video_id']} · question {row['question_id']}</p>" in page
    with pytest.raises(TrainingError, match="question 'nobody' is in none of the splits val"):
        draw(finished, "nobody")


def on_a_rank(rank: int, name: str, store: Path, folder: Path) -> None:
    """Train on one of two ranks, as torchrun starts it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    trained(name, store, folder / "run")


@pytest.mark.slow
@every_method
def test_two_ranks_train_what_one_describes(name: str, stores: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    multiprocessing.spawn(on_a_rank, (name, stores[name], tmp_path), nprocs=2)  # type: ignore[no-untyped-call]  # torch does not annotate it
    settings = json.loads((tmp_path / "run" / SETTINGS).read_text())
    assert settings["world"] == 2
    result = TrainResult.from_json(json.loads((tmp_path / "run" / RESULTS).read_text()))
    assert result.steps >= 1 and result.metrics["val"]["n" if name != "coqo" else "overall"] >= 0


def test_a_question_of_several_splits_needs_its_split(tmp_path: Path) -> None:
    """Ids may restart in every split; the panel of another split's question would be a silent mistake."""
    root = cra_worlds.small_world(tmp_path / "store")
    put_questions(root, "toy", "test", [{**row, "question_id": "v4_0"} for row in cra_worlds.questions((3,))])
    settings = small_settings("cra").model_dump(mode="json")
    settings["data"]["tests"] = ["test"]
    version = choose_version(root, tmp_path).version
    run(TrainRequest(method="cra", store=str(root), version=version, out=str(tmp_path / "run"), settings=settings))
    finished = open_run(tmp_path / "run")
    assert finished.splits == ("val", "test")
    with pytest.raises(TrainingError, match=r"question 'v4_0' is in val and test; name one with --split"):
        draw(finished, "v4_0")
    assert "video v3 · question v4_0" in draw(finished, "v4_0", split="test")[1]
    assert "video v4 · question v4_0" in draw(finished, "v4_0", split="val")[1]
    with pytest.raises(TrainingError, match=r"split 'dev' was not scored \(available: val, test\)"):
        draw(finished, "v4_0", split="dev")


@every_method
def test_a_question_without_a_prediction_is_one_line(name: str, stores: dict[str, Path], tmp_path: Path) -> None:
    trained(name, stores[name], tmp_path)
    (tmp_path / "answers_val.json").write_text("{}")
    with Store.open(stores[name], lease=False) as store:
        question = store.table("questions", "toy/val").column("question_id")[0].as_py()
    with pytest.raises(TrainingError, match=rf"answers_val\.json: nothing is predicted for question '{question}'"):
        draw(open_run(tmp_path), question)


def test_a_run_of_an_older_reelstore_is_resumed_and_drawn(stores: dict[str, Path], tmp_path: Path) -> None:
    whole = trained("coqo", stores["coqo"], tmp_path / "whole")
    trained("coqo", stores["coqo"], tmp_path / "old")
    make_old(tmp_path / "old")
    task = json.loads((tmp_path / "old" / SETTINGS).read_text())["task"]
    assert task["method"]["data"]["dataset"] == "toy"
    assert open_run(tmp_path / "old").feature == "maps"
    again = trained("coqo", stores["coqo"], tmp_path / "old")
    assert again.metrics == whole.metrics
    with pytest.raises(TrainingError, match="holds a run with other settings"):
        trained("coqo", stores["coqo"], tmp_path / "old", lr=0.5)


def test_a_run_keeps_the_version_that_it_started_from(tmp_path: Path) -> None:
    store, out = cra_worlds.small_world(tmp_path / "store"), tmp_path / "run"
    first = choose_version(store, out)
    assert first.note is None
    trained("cra", store, out)
    commit_rows(store, [cra_worlds.video(7)], feature="clip", spec=cra_worlds.SPEC)
    resumed = choose_version(store, out)
    assert resumed.version == first.version
    assert resumed.note == f"{out}: resuming on store version {first.version}, the version this run started from"
    assert choose_version(store, tmp_path / "other").version > first.version
    assert choose_version(store, out, first.version - 1).version == first.version - 1
    collect(store, grace_seconds=0)
    with pytest.raises(TrainingError, match=rf"started from version {first.version} of .* gc` has removed"):
        choose_version(store, out)
    with pytest.raises(StoreNotFoundError, match="no such version"):
        choose_version(store, out, first.version)
    (out / SETTINGS).write_text("{}")
    with pytest.raises(TrainingError, match=r"settings\.json: not a run's settings; name another --out"):
        choose_version(store, out)
    (out / LAST).unlink()
    assert choose_version(store, out).note is None


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (None, "{folder}: no such folder; name the --out of a run of jobs/train.py"),
        ((), "{folder}: holds no run; name the --out of a run of jobs/train.py"),
        (("settings.json",), "{folder}: its run has not finished; run jobs/train.py again to finish it"),
    ],
)
def test_an_unfinished_run_is_not_drawn(tmp_path: Path, files: tuple[str, ...] | None, says: str) -> None:
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")
    with pytest.raises(TrainingError) as refused:
        open_run(folder)
    assert str(refused.value) == says.format(folder=folder)


@pytest.mark.parametrize(
    "module",
    ["trainers", "trainers.cra", "trainers.coqo", "trainers.frozenbilm", "trainers.metrics", "trainers.resume"],
)
def test_what_a_command_line_lists_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "False"
