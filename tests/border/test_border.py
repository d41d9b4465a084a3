"""500 mutations of every kind of input file: exit code 0, 2 or 3, one line, no hang, nothing else changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.border.kinds import KINDS
from tests.conftest import ROOT

MUTATIONS = 500
SHARES = 4


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_every_mutation_ends_in_one_line(tmp_path: Path, share: int) -> None:
    names = list(KINDS)[share::SHARES]
    done = subprocess.run(
        [sys.executable, "-m", "tests.border.runner", str(tmp_path), "0", str(MUTATIONS), *names],
        cwd=ROOT, text=True, capture_output=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
