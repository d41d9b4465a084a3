"""``--show-config`` and ``--schema``: what a job would use, without anything else on its command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.extract import preset_names
from tests._helpers.jobs import job as run_job

JOBS = [["extract"], ["parse"], ["cluster"], ["train", "cra"], ["train", "coqo"], ["train", "frozenbilm"]]


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_the_settings_shown_are_a_settings_file(job: list[str], tmp_path: Path) -> None:
    shown = run_job(*job, "--show-config")
    assert isinstance(yaml.safe_load(shown.stdout), dict)
    file = tmp_path / "all.yaml"
    file.write_text(shown.stdout)
    assert run_job(*job, "--config", str(file), "--show-config").stdout == shown.stdout


@pytest.mark.parametrize("job", [*JOBS, ["refresh"]], ids=" ".join)
def test_the_schema_has_every_key_of_the_settings(job: list[str]) -> None:
    schema = json.loads(run_job(*job, "--schema").stdout)
    if job != ["refresh"]:
        assert set(schema["properties"]) >= set(yaml.safe_load(run_job(*job, "--show-config").stdout))


def test_what_the_other_options_set_is_shown() -> None:
    shown = run_job("extract", "--preset", "demo", "--set", "media.deadline_s=7", "--gpus", "0", "--show-config")
    config = yaml.safe_load(shown.stdout)
    assert (config["media"]["deadline_s"], config["run"]["gpus"]) == (7.0, 0)
    assert "demo" in preset_names()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            ["--set", "features.clp.sampling.n=16"],
            "features.clp.extractor: required, but not given; did you mean 'clip'?",
        ),
        (["--set", "features.clip.samplng.n=16"], "did you mean 'sampling'?"),
        (["--set", "media.deadlin_s=16"], "did you mean 'deadline_s'?"),
    ],
)
def test_a_slip_is_told_where_it_is(words: list[str], hint: str) -> None:
    done = run_job("extract", *words, "--show-config", check=2)
    assert len(done.stderr.splitlines()) == 1
    assert hint in done.stderr


def test_an_unquoted_pattern_is_told_in_one_line() -> None:
    done = run_job("extract", *(f"videos/{number}.mp4" for number in range(400)), "--store", "s", check=2)
    assert len(done.stderr.splitlines()) == 1
    assert "quote a pattern" in done.stderr and len(done.stderr) < 400


def test_a_dataset_is_named_to_be_shown() -> None:
    assert "name the dataset file" in run_job("refresh", "--show-config", check=2).stderr
