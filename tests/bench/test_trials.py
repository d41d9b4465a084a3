"""The statistics of variants, and that the settings of all that are measured are valid; nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench import ablations, toyworld, trials
from bench.trials import Experiment, Place


def test_the_interval_is_student_s() -> None:
    """For 1 … 5 the mean is 3, the deviation sqrt(2.5), and t(0.975, 4) = 2.776."""
    mean, half = trials.interval([1, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3)
    assert trials.interval([2.0]) == (2.0, None)


def test_differences_are_taken_world_by_world(tmp_path: Path) -> None:
    experiment = Experiment(
        "cra",
        (0, 1),
        {"one": (), "other": ("loop.lr=0.1",)},
        {"acc": ("val", "acc_vqa")},
        ("acc",),
        {"one": "other"},
    )

    def places(method: str, seed: int) -> Place:
        return Place(tmp_path / "store", f"{method}-toyworld", tmp_path / f"world-{seed}")

    for seed, scores in ((0, (50.0, 40.0)), (1, (70.0, 62.0))):
        for overrides, score in zip(experiment.variants.values(), scores, strict=True):
            folder = trials.trial_folder(places("cra", seed), "cra", overrides, seed)
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps({"metrics": {"val": {"acc_vqa": score, "uf": 1.0}}}))
            save_file({"scale.mean": torch.zeros(7), "a.weight": torch.zeros(3, 2)}, folder / "best.safetensors")
    collected = trials.collect(places, experiment, (0, 1))
    row = collected["rows"]["one"]
    assert (row["trials"], row["parameters"], row["against"]) == ({"acc": [50.0, 70.0]}, 6, "other")
    mean, half = row["differences"]["acc"]
    assert mean == 9 and half == pytest.approx(12.706, rel=1e-3)  # t(0.975, 1) times a standard error of 1
    figures, differences = trials.tables(experiment, collected, "worlds")
    assert list(figures.rows[0]) == ["one", 6, "60.0 ± 14.1"]
    assert list(differences.rows[0]) == ["one", "other", "+9.0 ± 12.7"]
    whole = trials.collect(places, replace(experiment, whole_split="val"), (0, 1))
    assert list(whole["rows"]["one"]["trials"]) == ["acc", "acc_vqa", "uf"]


def test_a_stopped_run_has_no_results_and_other_settings_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"stopped_by": "SIGINT"}')
    assert trials.results(tmp_path) is None and trials.results(tmp_path / "none") is None
    place = Place(tmp_path, "coqo-toyworld", tmp_path)
    folders = {
        trials.trial_folder(place, "coqo", overrides, seed) for overrides in ((), ("loop.lr=1",)) for seed in (0, 1)
    }
    assert len(folders) == 4


ABLATIONS = {
    f"{method}-{name}": experiment
    for method in ablations.TABLES
    for name, experiment in ablations.experiments(
        method, "test", (0,), ["clip_t", "scene@v1"] if method == "coqo" else [], "linked"
    ).items()
}
EXPERIMENTS = {**toyworld.EXPERIMENTS, **ABLATIONS}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_variant_has_settings_that_are_valid(name: str, tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    for preset in (experiment.method, f"{experiment.method}-toyworld"):
        place = Place(tmp_path, preset, tmp_path)
        variants = experiment.variants.values()
        folders = [trials.trial_folder(place, experiment.method, overrides, 0) for overrides in variants]
        same = 1 if name in ABLATIONS else 0  # a row may be what a preset does already
        assert len(set(folders)) >= len(folders) - same
    assert {*experiment.against, *experiment.against.values()} <= experiment.variants.keys()


def test_seeds() -> None:
    assert trials.parse_seeds("10-14") == [10, 11, 12, 13, 14]
    assert trials.parse_seeds("0,2") == [0, 2]


def test_cra_is_tested_on_every_split_of_a_world_whose_links_are_broken_one_by_one() -> None:
    [override] = ablations.tested("cra", "linked")
    assert override == "data.tests=[test, test_wording, test_backdrop, test_ood]"
    assert ablations.scored_split("cra", "cra-toyworld", [override]) == "test_ood"
    assert ablations.tested("coqo", "linked") == ablations.tested("cra", "shapes") == ablations.tested("cra", "") == ()
    parts = ablations.experiments("cra", "test_ood", (0,), world="linked")["parts"]
    splits = {split for split, _ in parts.metrics.values()}
    assert splits == {"test", "test_wording", "test_backdrop", "test_ood"}
    rates = ablations.experiments("cra", "val", (0,), world="linked")["rates"]
    assert {split for split, _ in rates.metrics.values()} == {"val"} and not rates.against


def test_a_table_of_some_rows_keeps_what_they_are_compared_with() -> None:
    hosts = ablations.experiments("coqo", "test", (0,))["hosts"]
    assert list(ablations.with_rows(hosts, ["HCRN with QGT"]).variants) == ["CoQo", "HCRN", "HCRN with QGT"]
    parts = ablations.experiments("cra", "test", (0,))["parts"]
    some = ablations.with_rows(parts, ["without CMA"])
    assert list(some.variants) == ["CRA", "without CMA"] and some.against == {"without CMA": "CRA"}
    assert ablations.with_rows(parts, None) is parts


def test_only_toy_worlds_have_a_spatial_table_and_kinds_have_folders_of_their_own(tmp_path: Path) -> None:
    assert "spatial" in ablations.experiments("coqo", "test", (0,), world="shapes")
    assert "spatial" not in ablations.experiments("coqo", "test", (0,))
    folders = {toyworld.world_folder(tmp_path, 0, videos, kind) for videos in (None, 40) for kind in ("shapes", "free")}
    assert len(folders) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cra", "--store", "s", "--world", "linked"], "--world: only toy worlds have a kind; give --toyworld too"),
        (["coqo", "--toyworld", "--world", "free"], "--world free: has no videos for coqo"),
    ],
)
def test_worlds_that_do_not_fit_are_refused(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ablations.py", *words])
    with pytest.raises(SystemExit) as ended:
        ablations.main()
    assert ended.value.code == 2 and told in capsys.readouterr().err
