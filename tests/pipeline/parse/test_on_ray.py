"""Parsing on a real Ray cluster gives the rows of a local run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stores import Store
from tests._helpers.annotation_files import next_csv, next_row
from tests._helpers.deadly_parser import DeadlyParser
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def own_cluster() -> dict[str, str]:
    """Return an environment in which Ray starts a cluster for the run, whatever other cluster is noted here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"RAY_ADDRESS": "local"}


def parse(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/parse.py", *map(str, arguments)],
        cwd=ROOT, env=own_cluster(), text=True, capture_output=True, timeout=400,
    )  # fmt: skip


def test_ray_parses_as_the_local_executor_does(shared: Path, tmp_path: Path) -> None:
    rows = [next_row(i % 2, question=f"why did boy number {i} run away", qid=str(i)) for i in range(12)]
    path = next_csv(tmp_path, rows, gsub=None, split="train")
    base = (path, "--format", "nextgqa", "--split", "train", "--stanza-dir", shared / "models/stanza", "--json")
    small = ("--set", "stanza.batch=4")
    ray = parse(*base, *small, "--store", tmp_path / "ray", "--executor", "ray", "--set", "run.actors=1")
    assert ray.returncode == 0, ray.stderr
    assert "1 parser on cpu" in ray.stderr
    assert json.loads(ray.stdout)["parsed"] == 14
    assert parse(*base, *small, "--store", tmp_path / "local").returncode == 0
    stores = [Store.open(tmp_path / name) for name in ("ray", "local")]
    for table in ("questions", "parses", "graphs"):
        assert stores[0].table(table).equals(stores[1].table(table))
    again = parse(*base, "--store", tmp_path / "ray", "--executor", "ray")
    assert "nothing to do" in again.stderr
    assert "ray:" not in again.stderr


KILLING = """
import sys
from pathlib import Path
from pipeline.parse.on_ray import parse_on_ray
from pipeline.shared import StopSignals
from tests._helpers.deadly_parser import DeadlyParser
batches = [("text 0", "text 1"), ("text 2", "once killed", "kill me"), ("text 3", "text 4")]
with StopSignals() as signals:
    made = lambda device: DeadlyParser(Path(sys.argv[1]), device)
    for table in parse_on_ray(made, None, batches, 2, signals, print):
        print(table["text"].to_pylist(), table["error"].to_pylist())
"""


def test_actors_that_die_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLING, str(tmp_path)],
        cwd=ROOT, env=own_cluster(), text=True, capture_output=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if line.startswith("[")]
    assert rows[0] == "['text 0', 'text 1'] [None, None]"
    assert rows[1].startswith("['text 2', 'once killed', 'kill me'] [None, None, 'parser_failed: the parsing process")
    assert rows[2] == "['text 3', 'text 4'] [None, None]"
    alone = [call for own in DeadlyParser(tmp_path).calls().values() for call in own if call == ["kill me"]]
    assert len(alone) == 2
