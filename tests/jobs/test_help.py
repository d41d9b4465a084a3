"""Help comes fast and in full: no job imports torch for it, and every word of it says something."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs import store
from tests.conftest import ROOT

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[!_]*.py"))
HEAVY = ("torch", "ray", "stanza", "transformers", "open_clip", "matplotlib", "sklearn")
_CODE = f"""
import importlib, sys
from typer.testing import CliRunner
for name in {JOBS}:
    for words in (["--help"], ["-h"]):
        done = CliRunner().invoke(importlib.import_module(f"jobs.{{name}}").app, words)
        assert done.exit_code == 0 and done.stderr == "", (name, done.output)
    print(done.stdout)
    loaded = [package for package in {HEAVY} if package in sys.modules]
    assert not loaded, (name, loaded)
"""


def test_help_of_every_job_imports_nothing_heavy_and_names_no_type_of_a_flag() -> None:
    assert {"extract", "train", "report", "panel", "demo", "store"} <= set(JOBS)
    done = subprocess.run([sys.executable, "-c", _CODE], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(JOBS)
    assert "<bool>" not in done.stdout
    assert not re.findall(r"\{[a-z_]+\}", done.stdout), "an argument is named in capitals"
    assert " ".join(done.stdout.split()).count("--version alone prints the version") == len(JOBS)


def test_the_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} of 1.2.3")
    done = CliRunner().invoke(store.app, ["--version"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "reelstore reelstore of 1.2.3\n", "")


def test_a_shell_completes_the_verbs() -> None:
    asked = {"_STORE.PY_COMPLETE": "complete_bash", "COMP_WORDS": "store.py ver", "COMP_CWORD": "1"}
    command = [sys.executable, "jobs/store.py"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **asked}, text=True, capture_output=True, check=False)
    assert done.stdout.split() == ["verify"], done.stderr
