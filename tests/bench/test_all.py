"""Every bench is in the registry; what runs, what is skipped and why, what is kept, and a few quick runs."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import all as command
from bench.all import BENCHES, Bench, Inputs, publish, run, select, verdict
from bench.circumstances import Circumstances
from bench.report import Report, Result, Target
from tests.conftest import ROOT

FOLDER = ROOT / "bench"
SCRIPT = FOLDER / "all.py"
TAKEN = Circumstances("python bench/x.py", "2026-11-27 10:00:00", "abc", {}, {})


def run_all(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_every_script_is_listed() -> None:
    scripts = {path.name for path in FOLDER.glob("*.py") if 'if __name__ == "__main__":' in path.read_text()}
    assert {bench.script for bench in BENCHES.values()} == scripts - {"all.py"}


def test_every_bench_is_explained() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "benchmarks.md").read_text(), re.M)
    explained = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    sections = {"environment", "towers", "throughput", "extraction", "training", "memory", "nvdec"}
    assert [name for name in explained if name not in sections] == list(BENCHES)


def test_benches_that_take_long_run_only_where_that_is_asked_for() -> None:
    millions = {name for name in BENCHES if name.endswith("-million")}
    trainings = {"toyworld", "frozenbilm", "ablations-cra", "ablations-coqo"}
    trainings |= {"ablations-cra-free", "ablations-cra-linked", "ablations-coqo-linked"}
    assert {name for name in BENCHES if name not in select([], long=False)} == millions | trainings
    assert select([], long=True) == list(BENCHES)
    twins = {"models-half-bare", "planning-million", "scale-million", "clustering-million"}
    twins |= {"ablations-cra-free", "ablations-cra-linked", "ablations-coqo-linked"}
    assert set(BENCHES) - set(select([], long=False, quick=True)) == twins
    assert select(["toyworld", "decode"], long=False) == ["toyworld", "decode"]


def test_what_is_measured_on_is_given_or_lies_in_the_shared_folder(tmp_path: Path) -> None:
    (tmp_path / "data" / "media").mkdir(parents=True)
    (tmp_path / "models" / "stanza").mkdir(parents=True)
    given = tmp_path / "val.csv"
    found = Inputs.of(argparse.Namespace(shared=tmp_path, nextgqa=given, music_avqa=None, stanza_dir=None))
    assert found == Inputs(given, None, tmp_path / "models" / "stanza", tmp_path / "data" / "media")
    assert command.questions(found) == [f"--nextgqa={given}", f"--stanza-dir={found.stanza_dir}"]
    nothing = Inputs.of(argparse.Namespace(shared=None, nextgqa=None, music_avqa=None, stanza_dir=None))
    assert nothing == Inputs() and command.clips(nothing) == command.questions(nothing) == []
    assert "--shared" in command.lacks_questions(nothing) and command.lacks_questions(found) == ""


def test_a_bench_that_lacks_something_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHES, "gpu", Bench("no_such_script.py", lacks=lambda _: "no CUDA device is visible"))
    assert run("gpu", Inputs(), True, tmp_path / "gpu.json") == "skipped: no CUDA device is visible"


def test_a_bench_that_ends_without_a_result_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an old file in its place nor the exit code of a traceback passes for a result."""
    monkeypatch.setitem(BENCHES, "broken", Bench("no_such_script.py"))
    path = tmp_path / "broken.json"
    Result(Report("old"), TAKEN).write(path)
    assert run("broken", Inputs(), True, path) == "failed: exit code 2"
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "no_such_script.py").write_text("raise OSError('disk')")
    assert run("broken", Inputs(), True, path) == "failed: exit code 1"


def test_how_a_bench_ended_is_said() -> None:
    missed = Report("a", targets=[Target("x", 2, 1), Target("y", 1, 1)])
    assert verdict(Result(missed, TAKEN)) == "missed 1 of 2 targets"
    assert verdict(Result(missed, TAKEN, quick=True)) == "ran"
    assert verdict(Result(Report("a", failures=["b.mp4: broken"]), TAKEN)) == "failed: b.mp4: broken"
    assert verdict(Result(Report("a"), TAKEN)) == "met its targets"


def test_a_run_replaces_its_own_results_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, page = tmp_path / "results", tmp_path / "RESULTS.md"
    monkeypatch.setattr(command, "KEPT", kept)
    monkeypatch.setattr(command, "PAGE", page)
    publish({"store": Result(Report("Old store"), TAKEN), "decode": Result(Report("Old decoding"), TAKEN)}, None)
    new = {"decode": Result(Report("New decoding"), TAKEN)}
    elsewhere = publish(new, tmp_path / "other" / "page.md").read_text()
    assert "Old decoding" in page.read_text() and elsewhere.index("New decoding") < elsewhere.index("Old store")
    assert publish(new, None) == page and page.read_text() == elsewhere
    quick = publish({"decode": Result(Report("Quick decoding"), TAKEN, quick=True)}, tmp_path / "quick.md").read_text()
    assert "Quick decoding" in quick and "Old store" not in quick and page.read_text() == elsewhere


def test_an_unknown_name_is_refused() -> None:
    done = run_all("plannin")
    assert done.returncode == 2
    assert "no bench is named 'plannin'; did you mean 'planning'? (available: decode, " in done.stderr


def test_a_page_is_written_from_results_without_measuring(tmp_path: Path) -> None:
    Result(Report("Decoding", targets=[Target("ratio", 0.9, 0.8)]), TAKEN).write(tmp_path / "from" / "decode.json")
    done = run_all("--from-json", tmp_path / "from", "--results", tmp_path / "page.md")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| Decoding: ratio +\| 0\.9 +\| ≤ 0\.8 +\|", (tmp_path / "page.md").read_text())
    for name, message in (("unknown", "no bench is named 'unknown'"), (None, "no result of a bench lies there")):
        folder = tmp_path / str(name)
        folder.mkdir()
        if name:
            Result(Report(name), TAKEN).write(folder / f"{name}.json")
        done = run_all("--from-json", folder, "--results", tmp_path / "page.md")
        assert done.returncode == 2 and message in done.stderr


@pytest.mark.slow
def test_quick_runs_are_of_the_common_form_and_leave_the_page_alone(tmp_path: Path) -> None:
    page = (FOLDER / "RESULTS.md").read_bytes()
    names = ["decode", "decode-real", "overhead-local", "models-vggish", "precision"]
    done = run_all(*names, "gpu", "--quick", "--out", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gpu: skipped: no CUDA device is visible" in done.stdout
    for name in names:
        result = Result.read(tmp_path / f"{name}.json")
        assert result.quick and not result.targets and result.report.tables and result.report.about, name
        assert f"{name}: ran (" in done.stdout
    assert "quick: no targets, and bench/RESULTS.md stays as it is" in done.stdout
    assert (FOLDER / "RESULTS.md").read_bytes() == page
