"""A full, a read-only or an absent disk: every job says one line and ends with exit code 2, and goes on later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores.upkeep import verify
from tests._helpers import jobs
from tests._helpers.building import row, store_with
from tests._helpers.cra_worlds import small_world
from tests._helpers.dictionaries import fill
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

REASONS = {"full": ("No space left on device", "free space, or"), "read-only": ("Read-only file system", "read-only")}
CLUSTER = ("--kind", "linguistic", "--k", "6", "--set", "encoder.name=hashed", "--set", "encoder.size=16")
TRAIN = (
    *("data.dataset=toy", "data.batch=2", "data.paraphrase=0", "data.distractors=0", "data.tests=[]"),
    *("text.encoder=words", "text.heads=2", "model.front=false", "model.back=false", "model.dim=16"),
    *("model.heads=2", "model.layers=1", "loop.epochs=1", "loop.threads=1", "loop.tensorboard=false"),
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 MB, the test's own to fill."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def fill_up(disk: Path) -> Path:
    free = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    return disk / "filler"


def job(name: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"jobs/{name}.py", *map(str, arguments)]
    environment = {**os.environ, **more}
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300)


def arguments(name: str, disk: Path, tmp_path: Path, videos: Path) -> list[object]:
    """A job that writes to the disk, and has what it needs to begin."""
    root = disk / "store"
    if name == "extract":
        store_with(root, "first")
        return [videos, "--store", root, "--set", "features.clip.extractor=rgb_grid", "--config", rgb(tmp_path)]
    if name == "parse":
        store_with(root, "first")
        table = tmp_path / "val.jsonl"
        rows = [{"video_id": "v", "question_id": str(i), "question": f"who ran {i}", "answer": "a"} for i in range(999)]
        table.write_text("".join(json.dumps(record) + "\n" for record in rows))
        return [table, "--format", "table", "--split", "val", "--store", root, "--set", "graph.enabled=false"]
    if name == "cluster":
        fill(root)
        return ["--store", root, *CLUSTER]
    if name == "refresh":
        fill(root)
        dataset = tmp_path / "dataset.yaml"
        settings = "{encoder: {name: hashed, size: 16}, kmeans: {k: 6}}"
        dataset.write_text(f"store: {root}\ndictionaries: [{{kind: linguistic, settings: {settings}}}]\n")
        return [dataset]
    if name == "train":
        small_world(tmp_path / "store")
        words = [word for assignment in TRAIN for word in ("--set", assignment)]
        return ["cra", "--store", tmp_path / "store", "--out", disk / "run", *words]
    assert name == "store"
    store_with(root, "first")
    return ["import", root, published(tmp_path), "--feature", "demo2"]


def rgb(folder: Path) -> Path:
    file = folder / "rgb.yaml"
    file.write_text("features: {clip: {extractor: rgb_grid, grid: 8, sampling: {policy: uniform, n: 32}}}\n")
    return file


def published(folder: Path) -> Path:
    """A folder of ``.npy`` files."""
    import numpy as np

    (folder / "npy").mkdir()
    np.save(folder / "npy" / "a.npy", row("a").values.astype(np.float32))
    return folder / "npy"


@pytest.mark.parametrize(
    ("name", "state"),
    [
        *((name, "full") for name in ("extract", "parse", "cluster", "refresh", "train", "store")),
        *((name, "read-only") for name in ("cluster", "train")),
    ],
)
def test_one_line_exit_code_2_and_the_same_command_goes_on(
    name: str, state: str, disk: Path, tmp_path: Path, videos: Path
) -> None:
    words = arguments(name, disk, tmp_path, videos)
    filler = fill_up(disk) if state == "full" else None
    if filler is None:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    failed = job(name, *words)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    last = failed.stderr.splitlines()[-1]
    reason = next((reason for reason in REASONS[state] if reason in last), None)
    assert last.startswith("error: ") and reason is not None, last
    assert [line for line in failed.stderr.splitlines() if line.startswith("error: ")] == [last]
    if name == "cluster":
        shown = job(name, *words, REELSTORE_DEBUG="1")
        assert shown.returncode == 2 and reason in shown.stderr.splitlines()[-1]
        assert "Traceback" in shown.stderr
    if filler is None:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    else:
        filler.unlink()
    if (disk / "store").exists():
        assert verify(disk / "store", deep=True).ok
    jobs.job(name, *words)
