"""The command lines around dictionaries."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cluster import app as cluster_app
from jobs.store import app as store_app
from tests._helpers.dictionaries import fill, questions


def cluster(*arguments: str) -> Result:
    return CliRunner().invoke(cluster_app, list(arguments))


def store_job(*arguments: str) -> Result:
    return CliRunner().invoke(store_app, list(arguments))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = questions()
    records[4] = {**records[4], "nodes": None}
    records[5] = {**records[5], "question": "\x1b[2Jwho clears the screen"}
    return fill(tmp_path_factory.mktemp("cluster") / "store", records)


def test_cluster_inspect_export(store: Path, tmp_path: Path) -> None:
    common = ("--store", str(store), "--kind", "linguistic", "--k", "6", "--json")
    common += ("--set", "encoder.name=hashed", "--set", "encoder.size=16")
    done = cluster(*common, "--executor", "ray")
    summary = json.loads(done.stdout)
    assert (done.exit_code, summary["exit_code"], summary["members"], summary["k"]) == (3, 3, 23, 6)
    assert "missing: 'train02_4': no graph" in done.stderr
    assert "runs in this process" in done.stderr
    again = cluster(*common, "--allow-failures")
    assert (again.exit_code, json.loads(again.stdout)["computed"]) == (0, False)
    assert "nothing to do" in again.stderr

    shown = store_job("inspect", str(store), "--dictionary", "linguistic", "--cluster", "0")
    assert shown.exit_code == 0
    assert "k=6 of 8×16, 23 members" in shown.stdout
    assert "why does the" in shown.stdout
    everything = store_job("inspect", str(store), "--dictionary", "linguistic", "--nearest", "99").stdout
    assert "\\x1b[2Jwho clears the screen" in everything and "\x1b" not in everything
    absent = store_job("inspect", str(store), "--dictionary", "visual")
    assert absent.exit_code == 2
    assert "no visual dictionary" in absent.stderr

    exported = store_job("export", str(store), "--to", "cra_dictionaries", "--out", str(tmp_path / "out"))
    has_graphs = importlib.util.find_spec("torch_geometric") is not None
    assert exported.exit_code == (0 if has_graphs else 3), exported.stderr
    assert (tmp_path / "out" / "qa_graphs.pt").is_file()
    assert (tmp_path / "out" / "qa_graphs.npy").is_file() == has_graphs
    assert has_graphs or "missing: qa_graphs.npy: needs the package torch_geometric (pip install" in exported.stdout
    allowed = store_job(
        "export", str(store), "--to", "cra_dictionaries", "--out", str(tmp_path / "out2"), "--allow-failures", "--json"
    )
    assert (allowed.exit_code, list(json.loads(allowed.stdout)["left_out"])) == (0, ["qa_graphs.npy"][has_graphs:])
    unnamed = store_job("export", str(store), "--to", "music_avqa", "--out", str(tmp_path / "npy"))
    assert (unnamed.exit_code, unnamed.stderr.count("\n")) == (2, 1)
    assert "needs a feature; name it with --feature" in unnamed.stderr


def test_the_help_promises_no_executor() -> None:
    shown = " ".join(CliRunner().invoke(cluster_app, ["-h"], terminal_width=200).stdout.split())
    assert "Without effect: clustering runs in this process." in shown and "Ray job" not in shown


def test_one_line_and_exit_code_2(store: Path, tmp_path: Path) -> None:
    for arguments, line in (
        (("--store", str(tmp_path), "--kind", "visual"), "no store here"),
        (("--store", str(tmp_path), "--kind", "lingu"), "'--kind': 'lingu' is not one of 'linguistic', 'visual'; see"),
        (("--store", str(store), "--kind", "visual", "--set", "kmeans.q=1"), "kmeans.q: unknown key"),
        (("--store", str(store), "--kind", "visual", "--split", "dev"), "no questions of split 'dev'"),
        (("--store", str(store), "--kind", "visual", "--split", "\udcff"), "no questions of split '\\udcff'"),
        (("--store", str(store), "--kind", "visual"), "512 clusters need at least as many members, but there are 24"),
    ):
        done = cluster(*arguments)
        assert done.exit_code == 2
        assert line in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in done.stderr
