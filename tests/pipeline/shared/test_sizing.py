"""What fits: never more than there is, and never a plan that waits for itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.shared import sizing
from pipeline.shared.errors import PreflightError
from pipeline.shared.sizing import MachineConfig, choose, decoders_that_fit
from tests.conftest import ROOT


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64])
def test_cpu_models_leave_cpus_to_decoders(monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    monkeypatch.setattr(sizing, "available_cpus", lambda: cpus)
    chosen = choose(MachineConfig(device="cpu", memory_gb=1024))
    assert chosen.decode_workers + chosen.model_threads <= max(cpus, 2)


def test_little_memory_means_few_workers() -> None:
    assert decoders_that_fit(64, 1, 3) == 2


@pytest.mark.parametrize(
    ("environment", "files", "expected"),
    [
        ({}, {}, 64),
        ({}, {"/sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({}, {"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"SLURM_CPUS_PER_TASK": "6"}, {"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 6),
        ({"SLURM_CPUS_ON_NODE": "12"}, {"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    ],
)
def test_limits_of_cgroups_and_slurm(
    monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], files: Mapping[str, str], expected: int
) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sizing.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(sizing, "read_limit", lambda path: files.get(path, ""))
    assert sizing.available_cpus() == expected


class Driver:
    """A driver's library with some cards, as ctypes shows it."""

    def __init__(self, cards: int, status: int = 0) -> None:
        self.cards, self.status = cards, status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.cards
        return self.status


@pytest.mark.parametrize(
    ("driver", "expected"), [(None, 0), (Driver(0), 0), (Driver(4), 4), (Driver(4, status=100), 0)]
)
def test_gpus_are_those_that_the_driver_counts(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, expected: int
) -> None:
    """100 is CUDA_ERROR_NO_DEVICE: what ``void`` or ``NoDevFiles`` leaves."""
    monkeypatch.setattr(sizing, "_cuda_driver", lambda: driver)
    assert sizing.visible_gpus() == expected


@pytest.mark.parametrize("visible", ["", "-1", "0", "0,-1,1", "NoDevFiles", "void", "none", "MIG-1", "GPU-1, GPU-2"])
def test_the_driver_reads_the_environment_itself(tmp_path: Path, visible: str) -> None:
    """The library that the process finds counts for itself: what it says holds, whatever the variable's text."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = tmp_path / "driver.c"
    source.write_text(
        "#include <stdlib.h>\n#include <string.h>\n"
        "int cuInit(unsigned flags) { return 0; }\n"
        'int cuDeviceGetCount(int *count) { *count = (int)strlen(getenv("CUDA_VISIBLE_DEVICES")); return 0; }\n'
    )
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    code = "from pipeline.shared.sizing import visible_gpus; print(visible_gpus())"
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.stdout.strip() == str(len(visible)), done.stderr


def test_asking_for_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "visible_gpus", lambda: 1)
    with pytest.raises(PreflightError, match="2 asked for, 1 visible"):
        choose(MachineConfig(gpus=2))
    with pytest.raises(PreflightError, match=r"run\.device: cuda:1 asked for, 1 visible"):
        choose(MachineConfig(device="cuda:1"))
    monkeypatch.setattr(sizing, "visible_gpus", lambda: 0)
    with pytest.raises(PreflightError, match="no GPU is visible"):
        choose(MachineConfig(device="cuda"))


@pytest.mark.parametrize(
    ("machine", "devices"),
    [
        ({}, ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        ({"gpus": 2}, ("cuda:0", "cuda:1")),
        ({"device": "cuda:3"}, ("cuda:3",)),
        ({"device": "cpu"}, ("cpu",)),
        ({"gpus": 0}, ("cpu",)),
    ],
)
def test_every_gpu_of_the_machine_is_used(
    monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], devices: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sizing, "visible_gpus", lambda: 4)
    monkeypatch.setattr(sizing, "available_cpus", lambda: 16)
    chosen = choose(MachineConfig(memory_gb=64, **machine))
    assert chosen.devices == devices
    assert all(device in chosen.describe() for device in devices)
    assert chosen.decode_workers == (16 - chosen.gpus if chosen.gpus else 8)
