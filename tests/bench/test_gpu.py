"""The bench on a GPU, where there is none: its parts, its promise about imports, and one run with tiny towers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu
from bench.on_gpu import NAMES, Findings, Section, Setup, run_sections, runner, summary, throughput
from bench.on_gpu.towers import QUICK, Tower
from bench.report import Result
from tests.conftest import ROOT

SCRIPT = ROOT / "bench" / "gpu.py"
CPU = torch.device("cpu")


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


FORBID = """
import socket, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "stanza"):
            raise ImportError(f"{name} is not installed here")

def refuse(*arguments, **options):
    raise OSError("there is no network here")

sys.meta_path.insert(0, Forbidden())
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""


def without_ray_stanza_and_network(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("-c", FORBID + code, *arguments, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All figures of a run on the CPU without Ray, Stanza and a network, whose files agree with each other."""
    out = tmp_path_factory.mktemp("gpu")
    code = "sys.argv[0] = 'bench/gpu.py'; import bench.gpu; sys.exit(bench.gpu.main())"
    words = ("--device", "cpu", "--quick", "--workers", "1", "--out", out, "--json", out / "copy" / "all.json")
    done = without_ray_stanza_and_network(code, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    merged: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    assert {name: json.loads((out / f"{name}.json").read_text()) for name in NAMES} == merged
    result = Result.read(out / "copy" / "all.json")
    assert result.report.figures == merged and result.quick and not result.targets
    assert len(result.report.tables) == len(NAMES) and all(table.rows for table in result.report.tables)
    for name, section in merged.items():
        for what, why in section.get("left_out", {}).items():
            assert f"{name}: {what} left out: {why}" in done.stdout.splitlines()
    return merged


@pytest.mark.slow
def test_every_section_runs_without_ray_stanza_and_a_network_and_says_what_needs_a_gpu(figures: dict[str, Any]) -> None:
    assert list(figures) == list(NAMES)
    for name, section in figures.items():
        assert "failed" not in section and section["seconds"] > 0, name
    silent = {name for name, section in figures.items() if "left_out" not in section}
    assert silent == {"training"}
    assert "CUDA device" in figures["nvdec"]["left_out"]["nvdec"]


@pytest.mark.slow
def test_float32_on_the_cpu_is_compared_with_itself(figures: dict[str, Any]) -> None:
    for tower in QUICK:
        found = figures["towers"][tower.name]
        for kind in ("noise", "scenes"):
            assert found["float32"][kind]["mean_abs"] <= 1e-5 * found["mean_abs"] + 1e-9
        assert found["float32"]["reference"] is None
        assert 0 < found["bfloat16"]["scenes"]["mean_abs"] < 0.1 * found["mean_abs"]
        assert found["bfloat16"]["reference"]["min_cosine"] > 0.999999
        assert found["bfloat16"]["same_bits_twice"]


@pytest.mark.slow
def test_ratios_are_of_the_figures_beside_them(figures: dict[str, Any]) -> None:
    for tower in QUICK:
        found = figures["throughput"][tower.name]["float32"]
        best = max(found["bare"], key=lambda measured: measured["steps_per_second"])
        assert found["best_bare"] == best
        assert found["ratio"] == pytest.approx(found["ours"] / best["steps_per_second"])
    (film,) = [found for found in figures["extraction"].values() if isinstance(found, dict) and "ratio" in found]
    assert film["limit"] == min(film["decode_alone"], film["gpu_alone"]) > 0
    assert film["ratio"] == pytest.approx(film["extraction"] / film["limit"])
    assert film["busy"]["source"] in ("none", "nvml", "nvidia-smi")
    shortage = figures["memory"]["clip"]
    assert (shortage["asked"], shortage["used"], shortage["same_bits"]) == (8, 2, True)
    assert figures["training"]["cra_float32"]["steps"] >= 1
    for name in ("coqo_bfloat16", "coqo_float32_without_checkpointing", "cra_float32", "cra_bfloat16"):
        assert figures["training"][name]["milliseconds"] > 0 and figures["training"][name]["parameters"] > 1000


def setup(folder: Path, quick: bool = True) -> Setup:
    return Setup(CPU, quick, folder, 1)


def test_without_time_every_section_says_what_it_leaves_out(tmp_path: Path) -> None:
    lines: list[str] = []
    assert run_sections(setup(tmp_path, quick=False), NAMES, Findings(tmp_path / "out"), 0.0, lines.append) == []
    for name in set(NAMES) - {"nvdec"}:
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert any("needed, 0 s left" in why for why in found["left_out"].values()), name
        assert found["seconds"] < 5, name


def test_a_section_gets_its_share_of_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}

    def note(_: Setup, section: Section) -> None:
        given[section.name] = section.seconds

    monkeypatch.setattr(runner, "SECTIONS", {"one": (note, 1.0), "two": (note, 1.0), "three": (note, 2.0)})
    run_sections(setup(tmp_path), ("one", "two", "three"), Findings(tmp_path), 4000.0, lambda _: None)
    # What a section does not use, the later ones have.
    assert given == pytest.approx({"one": 1000.0, "two": 4000 / 3, "three": 4000.0}, abs=60)


def test_a_section_that_fails_says_why_and_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Setup, section: Section) -> None:
        section.put("before", 1)
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(runner, "SECTIONS", {"one": (fail, 1.0), "two": (lambda *_: None, 1.0)})
    lines: list[str] = []
    assert run_sections(setup(tmp_path), ("one", "two"), Findings(tmp_path), 10.0, lines.append) == ["one"]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["one"]["before"] == 1 and "illegal memory access" in found["one"]["failed"]["the section"]
    assert "seconds" in found["two"] and lines == [
        "one: the section failed: RuntimeError: CUDA error: an illegal memory access"
    ]


def test_a_tower_that_fails_leaves_the_others_their_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = throughput.compare

    def fail_on_clip(setup: Setup, tower: Tower, dtype: str) -> dict[str, Any]:
        if tower.name == "clip":
            raise ValueError("a kernel that nobody has")
        return whole(setup, tower, dtype)

    monkeypatch.setattr(throughput, "compare", fail_on_clip)
    monkeypatch.setattr(throughput, "towers", lambda quick: (QUICK[0], QUICK[2]))
    assert run_sections(setup(tmp_path), ["throughput"], Findings(tmp_path), 60.0, lambda _: None) == ["throughput"]
    found = json.loads((tmp_path / "throughput.json").read_text())
    assert "a kernel that nobody has" in found["failed"]["clip float32"]
    assert found["vggish"]["float32"]["ratio"] > 0 and "clip" not in found


def test_a_section_that_does_not_end_is_ended_with_what_it_found(tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pathlib import Path; import torch\n"
        "from bench.on_gpu import runner, Findings, Setup\n"
        "def hang(setup, section): section.put('found', 1); threading.Event().wait()\n"
        "runner.SECTIONS = {'one': (hang, 1.0)}; runner.GRACE_S = 0.1\n"
        "out = Path(sys.argv[1])\n"
        "runner.run_sections(Setup(torch.device('cpu'), True, out, 1), ['one'], Findings(out), 0.1)\n"
    )
    done = run("-c", code, tmp_path)
    assert done.returncode == 3 and "did not end in time" in done.stdout, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["one"]
    assert found["found"] == 1 and "0 s" in found["cut"]


def test_figures_are_held_to_the_targets() -> None:
    same = {"same_bits_twice": True}
    found = {
        "throughput": {"clip": {"float16": {"ratio": 0.9}}, "left_out": {}, "seconds": 3.0},
        "extraction": {"a.mp4": {"ratio": 0.89}, "encoded_s": 1.0},
        "training": {"coqo_bfloat16": {"reserved_gib": 24.5}},
        "towers": {"clip": {"float32": same, "bfloat16": same, "float16": {"same_bits_twice": False}}},
    }
    met = {target.what: target.met for target in summary.targets(found)}
    assert met == {
        "clip float16, to the best bare model": True,
        "a.mp4, to its limit": False,
        "CoQo's step in bfloat16": False,
        "clip float32: same bits twice": True,
        "clip bfloat16: same bits twice": True,
        "clip float16: same bits twice": False,
    }
    assert summary.targets({"training": {"coqo_bfloat16": {"reserved_gib": None}}}) == []


def test_the_command_knows_the_sections() -> None:
    assert gpu.SECTIONS == NAMES


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "NEEDED", ("torch", "no_such_package"))
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "not installed: no_such_package; bench/gpu_wheels.sh carries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sections", "tower"), "no section is named 'tower'; did you mean 'towers'? (available: environment, "),
        (("--device", "cuda"), "no CUDA device is visible; --device cpu --quick runs what needs none"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run(SCRIPT, "--out", tmp_path, *arguments, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2 and message in done.stderr


def test_the_hook_forbids() -> None:
    done = without_ray_stanza_and_network("import pipeline.shared.ray_session")
    assert "ImportError: ray is not installed here" in done.stderr


def test_the_command_answers_help_without_ray_stanza_and_torch() -> None:
    code = (
        "sys.argv = ['bench/gpu.py', '--help']; import bench.gpu\n"
        "try: bench.gpu.main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'av', 'pydantic'} & set(sys.modules)))"
    )
    done = without_ray_stanza_and_network(code)
    assert "--sections" in done.stdout and "nvdec        the video engine" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_tests_for_a_gpu_are_collected_without_ray_and_stanza_and_skip_by_name() -> None:
    code = "import pytest; sys.exit(pytest.main(['-q', '-m', 'gpu', '-rs', 'tests/gpu']))"
    done = without_ray_stanza_and_network(code)
    assert done.returncode == 0 and "error" not in done.stdout.lower(), done.stdout + done.stderr
    assert "needs a CUDA device" in done.stdout and " passed" not in done.stdout
