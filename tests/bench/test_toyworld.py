"""The statistics of the bench on the toy world, and that its variants have valid settings; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench import toyworld


def test_the_interval_is_student_s() -> None:
    """For 1 … 5 the mean is 3, the deviation sqrt(2.5), and t(0.975, 4) = 2.776."""
    mean, half = toyworld.interval([1, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3)
    assert toyworld.interval([2.0]) == (2.0, None)


def test_differences_are_taken_world_by_world(tmp_path: Path) -> None:
    experiment = toyworld.Experiment(
        "cra",
        (0, 1),
        {"one": (), "other": ("loop.lr=0.1",)},
        {"acc": ("val", "acc_vqa")},
        ("acc",),
        {"one": "other"},
    )
    worlds = {seed: toyworld.world_folder(tmp_path, seed) for seed in (0, 1)}
    for seed, scores in ((0, (50.0, 40.0)), (1, (70.0, 62.0))):
        world = worlds[seed]
        for overrides, score in zip(experiment.variants.values(), scores, strict=True):
            folder = toyworld.run_folder(world, "cra", overrides, seed)
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps({"metrics": {"val": {"acc_vqa": score}}}))
            save_file({"scale.mean": torch.zeros(7), "a.weight": torch.zeros(3, 2)}, folder / "best.safetensors")
    collected = toyworld.collect(worlds, experiment, (0, 1))
    row = collected["rows"]["one"]
    assert (row["worlds"], row["parameters"], row["against"]) == ({"acc": [50.0, 70.0]}, 6, "other")
    mean, half = row["differences"]["acc"]
    assert mean == 9 and half == pytest.approx(12.706, rel=1e-3)  # t(0.975, 1) times a standard error of 1
    figures, differences = toyworld.tables(experiment, collected)
    assert list(figures.rows[0]) == ["one", 6, "60.0 ± 14.1"]
    assert list(differences.rows[0]) == ["one", "other", "+9.0 ± 12.7"]


def test_a_stopped_run_has_no_results_and_other_settings_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"stopped_by": "SIGINT"}')
    assert toyworld.results(tmp_path) is None and toyworld.results(tmp_path / "none") is None
    folders = {
        toyworld.run_folder(tmp_path, "coqo", overrides, seed) for overrides in ((), ("loop.lr=1",)) for seed in (0, 1)
    }
    assert len(folders) == 4


@pytest.mark.parametrize("name", toyworld.EXPERIMENTS)
def test_every_variant_has_settings_that_are_valid(name: str, tmp_path: Path) -> None:
    experiment = toyworld.EXPERIMENTS[name]
    variants = experiment.variants.values()
    folders = [toyworld.run_folder(tmp_path, experiment.method, overrides, 0) for overrides in variants]
    assert len(set(folders)) == len(folders)
    assert {*experiment.against, *experiment.against.values()} <= experiment.variants.keys()


def test_seeds() -> None:
    assert toyworld.parse_seeds("10-14") == [10, 11, 12, 13, 14]
    assert toyworld.parse_seeds("0,2") == [0, 2]
