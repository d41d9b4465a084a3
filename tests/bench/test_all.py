"""Every bench is in the registry; what runs without being named is chosen by flags."""

from __future__ import annotations

import subprocess
import sys

from bench.all import BENCHES, select
from tests.conftest import ROOT

FOLDER = ROOT / "bench"


def test_every_script_is_listed() -> None:
    scripts = {path.name for path in FOLDER.glob("*.py") if 'if __name__ == "__main__":' in path.read_text()}
    assert {bench.script for bench in BENCHES.values()} == scripts - {"all.py"}


def test_long_benches_and_those_that_need_questions_or_a_gpu_run_only_with_their_flags() -> None:
    default = select([], long=False, questions=False)
    assert {name for name in BENCHES if name not in default} == {"gpu", "million", "parsing", "toyworld"}
    assert set(select([], long=True, questions=False)) == {*default, "million", "toyworld"}
    assert set(select([], long=False, questions=False, gpu=True)) == {*default, "gpu"}
    assert select([], long=True, questions=True, gpu=True) == list(BENCHES)
    assert select(["toyworld", "parsing"], long=False, questions=False) == ["toyworld", "parsing"]


def test_an_unknown_name_is_refused() -> None:
    done = subprocess.run([sys.executable, FOLDER / "all.py", "plannin"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no bench is named 'plannin'; did you mean 'planning'? (available: clustering, " in done.stderr
