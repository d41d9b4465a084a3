"""The script that carries wheels to a machine without a network, with a stand-in for pip."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from bench.gpu import NEEDED
from tests.conftest import ROOT

SCRIPT = ROOT / "bench" / "gpu_wheels.sh"
# What the machine brings, with the packages that come with it.
THERE = {"h5py", "numpy", "PIL", "psutil", "pyarrow", "rich", "safetensors", "timm", "torch", "torchvision"}
THERE |= {"transformers", "yaml"}


@pytest.fixture
def pip(tmp_path: Path) -> Path:
    """A Python that notes how it was called, and does nothing."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    stand_in.chmod(0o755)
    return stand_in


def run(pip: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(pip)}
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_what_is_downloaded_is_pinned_and_all_that_is_needed(pip: Path, tmp_path: Path) -> None:
    done = run(pip, "download", tmp_path / "wheels", "3.12")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    wanted = {call.split()[-1] for call in calls}
    pinned = set((ROOT / "constraints.txt").read_text().splitlines())
    assert wanted - pinned == {"torchcodec==0.17.0"}  # the reader of constraints.txt does not install it
    assert all("--no-deps" in call for call in calls)
    assert all("--python-version 3.12" in call for call in calls if " download " in call)
    names = {re.split("==", name)[0].lower().replace("-", "_") for name in wanted}
    assert {name if name != "open_clip" else "open_clip_torch" for name in set(NEEDED) - THERE} <= names


def test_torchcodec_finds_the_libraries_that_pyav_brings(pip: Path, tmp_path: Path) -> None:
    site, wheels = tmp_path / "site", tmp_path / "wheels"
    (site / "av.libs").mkdir(parents=True)
    wheels.mkdir()
    for name in ("libavcodec-0a1b2c3d.so.62.11.100", "libswscale-4e5f6071.so.9.1.100", "libx264-8192a3b4.so.164"):
        (site / "av.libs" / name).write_bytes(b"")
    done = run(pip, "install", wheels, site)
    assert done.returncode == 0, done.stderr
    links = {path.name: path.resolve().name for path in (site / "ffmpeg").iterdir()}
    assert links == {
        "libavcodec.so.62": "libavcodec-0a1b2c3d.so.62.11.100",
        "libswscale.so.9": "libswscale-4e5f6071.so.9.1.100",
    }
    shell = subprocess.run(
        ["bash", "-c", f'{done.stdout}\necho "$PYTHONPATH|$LD_LIBRARY_PATH"'],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "/before"},
    )
    assert shell.stdout.strip() == f"{site}:/before|{site}/ffmpeg:{site}/av.libs"


def test_another_word_is_refused(pip: Path, tmp_path: Path) -> None:
    done = run(pip, "upload", tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, "upload: say download or install")
