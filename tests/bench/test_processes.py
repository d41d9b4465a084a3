"""A command's memory is its own: not that of the process which started it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.processes import peak_gb, run


def test_a_command_has_the_peak_of_its_own_memory(tmp_path: Path) -> None:
    ballast = np.ones(400_000_000, np.uint8)
    before = peak_gb()
    assert before > ballast.nbytes / 1e9
    assert 0.005 < run(["-c", "pass"], tmp_path).peak_gb < 0.2
    ran = run(["-c", "held = b'x' * 300_000_000; print(len(held))"], tmp_path)
    assert 0.3 < ran.peak_gb < 0.4 and ran.wall_s > 0 and ran.output == "300000000\n"
    own = "from bench.processes import peak_gb; print(peak_gb())"
    assert float(run(["-c", own], Path(__file__).parents[2]).output) < 0.2


def test_a_command_that_fails_ends_the_bench_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"exit code 3: no such store"):
        run(["-c", "import sys; print('no such store', file=sys.stderr); sys.exit(3)"], tmp_path)
