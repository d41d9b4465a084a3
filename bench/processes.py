"""Runs a command in a fresh process and says how long it took and how much memory it had at its peak."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A process counts the memory that its parent had when it was forked. So the command is started by a small one.
_LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
found = [os.waitstatus_to_exitcode(status), time.perf_counter() - started, usage.ru_maxrss]
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended well.

    Attributes
    ----------
    wall_s, peak_gb
        Its wall time, its start included, and its largest resident memory in 10^9 bytes.
    output
        What it wrote to stdout.
    """

    wall_s: float
    peak_gb: float
    output: str


def run(words: Sequence[str], folder: Path) -> Ran:
    """Run Python with some arguments in a folder.

    Raises
    ------
    SystemExit
        If the command fails; it says what the command wrote to stderr.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "found.json"
        command = [sys.executable, "-S", "-c", _LAUNCHER, str(found), sys.executable, *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        code, wall_s, peak_kib = json.loads(found.read_text())
    if code:
        raise SystemExit(f"{' '.join(words)}: exit code {code}: {done.stderr.strip()}")
    return Ran(wall_s, peak_kib * 1024 / 1e9, done.stdout)


def peak_gb() -> float:
    """Return the largest resident memory of this process since it began, in 10^9 bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
