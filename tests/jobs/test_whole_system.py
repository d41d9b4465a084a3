"""From videos and annotation files to trained models, through the commands that users type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from examples.toyworld.make import write
from examples.toyworld.world import World
from pipeline.refresh import load_dataset, refresh
from pipeline.shared import Terminal
from settings import SettingsError
from stores import Store
from stores.upkeep.verification import verify
from tests._helpers.jobs import job
from tests.conftest import ROOT

SMALL = ("--set", "loop.epochs=2", "--set", "loop.threads=1", "--set", "loop.tensorboard=false")
CRA = (
    *("cra", "--preset", "cra-small", "--set", "data.dataset=toy_grounding", "--set", "data.feature=frames"),
    *("--set", "data.tests=[test,test_ood]", "--set", "data.batch=16", "--set", "model.dim=32", *SMALL),
)
COQO = (
    *("coqo", "--preset", "coqo-small", "--set", "data.dataset=toy_avqa", "--set", "data.audio=sound"),
    *("--set", "data.visual=map", "--set", "data.tests=[test]", "--set", "data.batch_videos=4", *SMALL),
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy world and its store, refreshed once."""
    out = tmp_path_factory.mktemp("world")
    write(World(5).resized(44), out)
    dataset = load_dataset(out / "dataset.yaml")
    result = refresh(dataset, "local", terminal=Terminal(quiet=True))
    assert not result.incomplete
    return out


def command(*arguments: object, check: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, timeout=300, **more
    )
    assert done.returncode == check, done.stderr
    return done


def test_a_refreshed_store_holds_every_stage(world: Path) -> None:
    with Store.open(world / "store") as store:
        assert list(store.features) == ["frames", "map", "scene", "sound"]
        assert {"questions", "graphs", "embeddings", "linguistic_dictionary", "visual_dictionary"} <= set(store.tables)
        parts = [f"toy_avqa/{split}" for split in ("test", "train", "val")]
        parts += [f"toy_grounding/{split}" for split in ("test", "test_ood", "train", "val")]
        assert list(store.parts("questions")) == parts and list(store.parts("graphs")) == parts[3:]
        questions = {row["question_id"] for row in store.table("questions", "toy_grounding/train").to_pylist()}
        assert {row["question_id"] for row in store.table("graphs", "toy_grounding/train").to_pylist()} == questions
    assert verify(world / "store", deep=True).ok


def test_a_second_refresh_computes_nothing_and_changes_no_version(world: Path) -> None:
    with Store.open(world / "store", lease=False) as store:
        version = store.version
    done = command("jobs/refresh.py", world / "dataset.yaml", "--json")
    summary = json.loads(done.stdout.splitlines()[-1])
    stages = summary["stages"]
    assert stages["videos"]["computed"] == 0
    assert not any(stage.get("computed") for name, stage in stages.items() if name.startswith("dictionary"))
    with Store.open(world / "store", lease=False) as store:
        assert store.version == version


def test_a_plan_of_an_empty_store_says_what_waits(world: Path, tmp_path: Path) -> None:
    done = job("refresh", world / "dataset.yaml", "--plan", "--set", f"store={tmp_path / 'new'}")
    assert done.stdout.count("and cannot be planned before") == 2 and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("videos.sauce=x", "videos.sauce: unknown key; did you mean 'source'?"),
        ("dictionaries=[{kind: musical}]", "dictionaries.0.kind"),
        ("store.x=1", "'store' is a value"),
    ],
)
def test_a_wrong_dataset_file_is_one_line(world: Path, override: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_dataset(world / "dataset.yaml", [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    done = job("refresh", world / "dataset.yaml", "--set", override, check=2)
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_a_changed_video_marks_the_dictionary_that_has_it_as_a_member(world: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    videos = sorted((copy / "videos").glob("train_*.mp4"))
    videos[0].write_bytes((copy / "videos" / "band_00000.mp4").read_bytes() + b"\0")
    job("extract", copy / "videos", "--store", copy / "store", "--preset", "toyworld")
    with Store.open(copy / "store") as store:
        assert store.stale("visual_dictionary") == (f"changed {videos[0].stem}",)
        assert store.stale("linguistic_dictionary") == ()
    shown = job("store", "inspect", copy / "store")
    assert f"visual_dictionary is stale: changed {videos[0].stem}" in shown.stdout
    refused = job("train", *CRA, "--store", copy / "store", "--out", tmp_path / "run", check=2)
    assert "stale" in refused.stderr and "Traceback" not in refused.stderr
    job("refresh", copy / "dataset.yaml")
    with Store.open(copy / "store") as store:
        assert store.stale("visual_dictionary") == ()


def test_cra_trains_and_its_predictions_score_the_same_outside(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "cra"
    done = command("jobs/train.py", *CRA, "--store", world / "store", "--out", run, "--json")
    summary = json.loads(done.stdout)
    scored = job(
        *("evaluate", "grounding", "--annotations", world / "grounding/gsub_test.json"),
        *("--questions", world / "grounding/test.csv", "--answers", run / "answers_test.json"),
        *("--spans", run / "spans_test.json", "--json"),
    )
    outside = json.loads(scored.stdout)
    inside = summary["metrics"]["test"]
    assert outside["n"] == len((world / "grounding/test.csv").read_text().splitlines()) - 1
    for name in ("acc_vqa", "acc_gqa", "miop", "iop_50", "miou"):
        assert outside[name] == pytest.approx(inside[name], abs=1e-6), name
    question = next(iter(json.loads((run / "answers_test.json").read_text())))
    video = question.rpartition("_")[0]
    drawn = [command("jobs/panel.py", run, question, "--out", tmp_path / "panel.png").stderr]
    drawn.append(job("panel", run, question, "--out", tmp_path / "panel.html").stderr)
    assert "warning" not in "".join(drawn)
    named = ("--video", world / "videos" / f"{video}.mp4", "--out", tmp_path / "named.html")
    job("panel", run, question, *named)
    assert (tmp_path / "named.html").read_bytes() == (tmp_path / "panel.html").read_bytes()
    assert f"video {video} · question {question}" in (tmp_path / "panel.html").read_text()
    other = next(path for path in sorted((world / "videos").glob("*.mp4")) if path.stem != video)
    wrong = job("panel", run, question, "--video", other, "--out", tmp_path / "wrong.png", check=2)
    assert f"{other}: is not the file of video {video!r}" in wrong.stderr and not (tmp_path / "wrong.png").exists()
    assert (tmp_path / "panel.png").read_bytes().startswith(b"\x89PNG")
    missing = job("panel", run, "nobody_0", check=2)
    assert "is in none of the splits val, test, test_ood" in missing.stderr
    page = Path(job("report", run, "--worst", "2").stdout.strip())
    assert page == run / "report" / "index.html"
    val = (page.parent / "1-val.html").read_text()
    assert len(list((page.parent / "1-val-panels").glob("*.png"))) == 2 and val.count("<article") == 2
    assert val.count(f'<video controls preload="metadata" src="{(world / "videos").as_uri()}/') == 4  # true, predicted
    again = job("train", *CRA, "--store", world / "store", "--out", run, "--json")
    assert json.loads(again.stdout)["metrics"] == summary["metrics"]


def test_coqo_trains_and_is_the_same_after_kill_9(world: Path, tmp_path: Path) -> None:
    arguments = (*COQO, "--store", world / "store", "--set", "loop.checkpoint_steps=1", "--set", "loop.log_steps=1")
    done = job("train", *arguments, "--out", tmp_path / "whole", "--json")
    assert json.loads(done.stdout)["metrics"]["test"]["overall"] >= 0
    killed = subprocess.Popen(
        [sys.executable, "jobs/train.py", *map(str, arguments), "--out", str(tmp_path / "killed")],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    journal = tmp_path / "killed" / "metrics.jsonl"
    while killed.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 3):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    command("jobs/train.py", *arguments, "--out", tmp_path / "killed")
    assert journal.read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_a_run_goes_on_with_the_version_that_it_was_begun_on(world: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "store"
    shutil.copytree(world / "store", copy)
    arguments = ("train", *CRA, "--store", copy, "--out", tmp_path / "run", "--json")
    begun = json.loads(job(*arguments).stdout)["store_version"]
    video = world / "videos" / "band_00000.mp4"
    shutil.copy(video, tmp_path / "another.mp4")
    job("extract", tmp_path / "another.mp4", "--store", copy, "--preset", "toyworld")
    with Store.open(copy, lease=False) as store:
        assert store.version > begun
    assert json.loads(job(*arguments).stdout)["store_version"] == begun
    other = job(*arguments, "--version", str(begun + 1), check=2)
    assert "task.store_version" in other.stderr and "Traceback" not in other.stderr


def test_a_folder_that_cannot_be_is_one_line(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = job("train", *CRA, "--store", world / "store", "--out", tmp_path / "file" / "run", check=2)
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.ray
def test_ray_train_gives_the_run_that_torchrun_gives(world: Path, tmp_path: Path) -> None:
    common = (*CRA, "--store", world / "store", "--set", "loop.device=cpu", "--set", "loop.log_steps=1")
    alone = {**os.environ, "RAY_ADDRESS": "local"}  # another cluster on this machine is none of its business
    command("jobs/train.py", *common, "--out", tmp_path / "ray", "--ray-workers", "2", env=alone)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    command(*launcher, "jobs/train.py", *common, "--out", tmp_path / "torchrun")
    journals = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("ray", "torchrun")]
    assert journals[0] == journals[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hcrn",), "method 'hcrn': unknown; available: coqo, cra"),
        (("cra", "--preset", "crab"), "preset 'crab': unknown"),
        (("cra", "--set", "model.dimension=3"), "model.dimension: unknown key"),
        (("cra", "--set", "data.dataset=nobody"), "nobody"),
        (("coqo", "--set", "loop.device=cuda:99"), "device"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    world: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = job("train", *arguments, "--store", world / "store", "--out", tmp_path / "run", check=2)
    assert message in done.stderr and "Traceback" not in done.stderr
