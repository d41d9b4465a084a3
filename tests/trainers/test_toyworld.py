"""On the toy world the methods do what they are for. How much they gain is measured by bench/toyworld.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import settings
from examples.toyworld import World, write
from pipeline.refresh import load_dataset, refresh
from stores import Store
from trainers import PRESETS, TrainRequest, find_method
from trainers.run import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a smaller world than the bench's."""
    out = tmp_path_factory.mktemp("toyworld")
    write(World(seed=0, train=300, val=20, test=1, test_ood=60, band=240), out)
    refresh(load_dataset(out / "dataset.yaml"), "local")
    return out / "store"


def trained(
    store: Path, out: Path, name: str, *overrides: str, preset: str | None = None
) -> Mapping[str, Mapping[str, float]]:
    """Metrics by split of a training of half the epochs, which is enough to tell the methods apart."""
    short = ["loop.epochs=15", *overrides, "loop.threads=1", "loop.device=cpu", "loop.tensorboard=false"]
    raw, origin = settings.read(PRESETS, preset or f"{name}-toyworld", None, short)
    chosen = settings.validate(find_method(name).settings, raw, origin).model_dump(mode="json")
    with Store.open(store, lease=False) as opened:
        version = opened.version
    return run(TrainRequest(method=name, store=str(store), version=version, out=str(out), settings=chosen)).metrics


def test_cra_grounds_better_than_temp_clip_out_of_distribution(store: Path, tmp_path: Path) -> None:
    cra = trained(store, tmp_path / "cra", "cra")["test_ood"]
    baseline = ("model.method=temp_clip", "model.dim=96")  # as many parameters
    temp_clip = trained(store, tmp_path / "temp_clip", "cra", *baseline)["test_ood"]
    assert cra["acc_gqa"] > temp_clip["acc_gqa"]
    assert cra["iop_50"] > temp_clip["iop_50"]


def test_frozenbilm_learns_and_grounds_above_chance(store: Path, tmp_path: Path) -> None:
    """Five options: 20 % by chance; what a random frame of five entrances gives is less."""
    short = ("loop.epochs=3", "data.tests=[test_ood]")
    metrics = trained(store, tmp_path / "frozenbilm", "frozenbilm", *short, preset="frozenbilm-small")
    assert metrics["val"]["acc_vqa"] > 26
    assert metrics["val"]["n_grounded"] == metrics["val"]["n"]
    assert 0 < metrics["test_ood"]["miop"] <= 100


def test_coqo_answers_better_than_with_one_question_of_a_video_in_a_step(store: Path, tmp_path: Path) -> None:
    """The same videos and steps: what is gained by all of a video's questions at once."""
    coqo = trained(store, tmp_path / "coqo", "coqo")["test"]
    single = trained(store, tmp_path / "single", "coqo", "data.max_questions=1")["test"]
    assert coqo["overall"] > single["overall"]
