"""``jobs/evaluate.py videoqa``, ``moments`` and ``together`` as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.parsers.annotations.test_moments import charades
from tests.parsers.annotations.test_music_family import FORTIS
from tests.parsers.annotations.test_videoqa import COUNT_HEADER, COUNT_ROWS, activitynet, answered, asked, lines
from tests.trainers.coqo.test_together import trained


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs/evaluate.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def predictions(folder: Path, value: Any) -> Path:
    path = folder / "predictions.json"
    path.write_text(json.dumps(value))
    return path


def test_open_answers_name_their_rule(tmp_path: Path) -> None:
    activitynet(tmp_path, [asked(2), asked(3)], [answered(2), answered(3, type=0, answer="run")], "test")
    answers = predictions(tmp_path, {"v_TIEzvhv6xaI_2": "yes", "v_TIEzvhv6xaI_3": "walk"})
    arguments = ("videoqa", "--format", "activitynet_qa", "--annotations", tmp_path, "--answers", answers)
    done = evaluate(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Yes/No" in done.stdout and "Free" in done.stdout and "not reproduced" in " ".join(done.stdout.split())
    report = json.loads(evaluate(*arguments, "--json").stdout)
    assert report["groups"] == {"Free": {"accuracy": 100.0, "n": 1}}
    assert report["overall"] == {"accuracy": 50.0, "n": 2} and "75.83" in report["rule"]


def test_counts_have_their_error_under_each_rule(tmp_path: Path) -> None:
    path = lines(tmp_path, "Test_count_question.csv", COUNT_HEADER, *COUNT_ROWS)
    answers = predictions(tmp_path, {"COUNT12": 3, "COUNT18": 4.4, "COUNT20": "0"})
    arguments = ("videoqa", "--format", "tgif_count", "--annotations", path, "--answers", answers)
    done = evaluate(*arguments)
    assert done.returncode == 0, done.stderr
    assert (
        all(rule in done.stdout for rule in ("raw", "tgif_qa", "hcrn"))
        and "Exact after rounding: 33.33 %" in done.stdout
    )
    mse = json.loads(evaluate(*arguments, "--json").stdout)["mse"]
    assert mse == {
        "raw": pytest.approx((1.4**2 + 4) / 3),
        "tgif_qa": pytest.approx(2 / 3),
        "hcrn": pytest.approx(2 / 3),
    }


def test_head_and_tail_of_fortisavqa(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps([*FORTIS, FORTIS[0] | {"question_id": 3, "split": "head"}]))
    answers = predictions(tmp_path, {"2945": "yes", "2945#2": "no", "3": "yes"})
    done = evaluate("avqa", "--annotations", path, "--answers", answers, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["subsets"] == {"head": {"accuracy": 100.0, "n": 1}, "tail": {"accuracy": 50.0, "n": 2}}
    assert "tail" in evaluate("avqa", "--annotations", path, "--answers", answers).stdout


def test_moments_without_a_model_and_with_predictions(tmp_path: Path) -> None:
    charades(tmp_path, "3MSZA 0 15.48##person turn a light on.", "3MSZA 7.74 23.22##person flips the switch.")
    arguments = ("moments", "--format", "charades_sta", "--annotations", tmp_path)
    done = evaluate(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["overall"] is None and report["baselines"]["full_video"]["miou"] == pytest.approx(50)
    assert report["baselines"]["middle_half"] == {
        "miou": pytest.approx(100 * (1 / 3 + 1) / 2),
        "r1_30": 100.0,
        "r1_50": 50.0,
        "r1_70": 50.0,
        "n": 2,
    }
    spans = predictions(tmp_path, {"3MSZA_0": [0, 15.48]})
    done = evaluate(*arguments, "--spans", spans)
    assert done.returncode == 0, done.stderr
    assert "(full_video)" in done.stdout and "missing: 1: 3MSZA_1" in done.stdout


def test_rows_that_moments_leaves_out_are_listed_and_end_in_3(tmp_path: Path) -> None:
    charades(tmp_path, "3MSZA 0 15.48##person turn a light on.", "3MSZA 9 3##person flips the switch.")
    done = evaluate("moments", "--format", "charades_sta", "--annotations", tmp_path)
    assert done.returncode == 3 and "(midpoint)" in done.stdout
    assert "left out: " in done.stderr and "line 2: '3MSZA_1': field 'end'" in done.stderr
    assert done.stderr.endswith("1 row of the annotations left out\n")


def test_rows_that_videoqa_leaves_out_are_listed_and_end_in_3(tmp_path: Path) -> None:
    """Predictions of theirs are no answers to anything."""
    path = lines(tmp_path, "Test_count_question.csv", COUNT_HEADER, *COUNT_ROWS, COUNT_ROWS[0])
    answers = predictions(tmp_path, {"COUNT12": 3, "COUNT18": 4.4, "COUNT20": "0", "COUNT21": 7})
    done = evaluate("videoqa", "--format", "tgif_count", "--annotations", path, "--answers", answers)
    assert done.returncode == 3 and "Exact after rounding: 33.33 %" in done.stdout
    assert done.stderr.startswith("left out: ") and done.stderr.endswith("1 row of the annotations left out\n")
    activitynet(tmp_path, [asked(2), asked(3)], [answered(2), answered(3, type=0, answer="")], "val")
    answers = predictions(tmp_path, {"v_TIEzvhv6xaI_2": "no", "v_TIEzvhv6xaI_3": "walk"})
    arguments = ("--format", "activitynet_qa", "--annotations", tmp_path, "--answers", answers, "--split", "val")
    done = evaluate("videoqa", *arguments, "--json")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["overall"]["n"] == len(report["refused_rows"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("videoqa", "--format", "msvd", "--annotations", ".", "--answers", "x"), "format 'msvd': unknown"),
        (("videoqa", "--format", "msvd_qa", "--annotations", "none", "--answers", "x"), "none: no such file or folder"),
        (("moments", "--format", "tacos", "--annotations", "."), "holds no test.json"),
        (("together", "none", "--questions-per-video", "2"), "none: no such folder"),
    ],
)
def test_what_cannot_be_scored_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = evaluate(*arguments)
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr and done.stderr.count("\n") == 1


def test_questions_together(tmp_path: Path) -> None:
    run = trained(tmp_path)
    arguments = ("together", run, "--questions-per-video", 2, "--questions-per-video", 3, "--device", "cpu")
    done = evaluate(*arguments)
    assert done.returncode == 0, done.stderr
    assert "12 questions of 4 videos that have two or more in test" in done.stdout
    report = json.loads(evaluate(*arguments, "--json").stdout)
    assert (report["n"], sorted(report["groups"])) == (12, ["1", "2", "3"])
