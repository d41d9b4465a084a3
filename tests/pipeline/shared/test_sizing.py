"""What fits: never more than there is, and never a plan that waits for itself."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shared import sizing
from pipeline.shared.errors import PreflightError
from pipeline.shared.sizing import MODEL_CPUS, WRITER_CPUS, MachineConfig, choose, ray_decode_workers


@given(cpus=st.integers(2, 512), gpus=st.integers(0, 64), workers=st.integers(1, 600))
def test_ray_stages_never_ask_for_more_cpus_than_there_are(cpus: int, gpus: int, workers: int) -> None:
    """Every stage has an actor at once, so the sum must fit; else the cluster is refused."""
    chosen = choose(MachineConfig(), workers, cpus=cpus, gpus=gpus)
    try:
        decoders = ray_decode_workers(chosen, cpus)
    except PreflightError:
        assert 1 + max(1, chosen.gpus) * MODEL_CPUS + WRITER_CPUS > cpus
    else:
        assert 1 <= decoders <= workers
        assert decoders + max(1, chosen.gpus) * MODEL_CPUS + WRITER_CPUS <= cpus


def test_one_cpu_is_refused_by_name() -> None:
    with pytest.raises(PreflightError, match="the Ray cluster has 1 CPUs"):
        ray_decode_workers(choose(MachineConfig(), cpus=1, gpus=0), 1)


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64])
def test_cpu_models_leave_cpus_to_decoders(monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    monkeypatch.setattr(sizing, "available_cpus", lambda: cpus)
    chosen = choose(MachineConfig(device="cpu", memory_gb=1024))
    assert chosen.decode_workers + chosen.model_threads <= max(cpus, 2)


def test_little_memory_means_few_workers() -> None:
    assert choose(MachineConfig(memory_gb=3), cpus=64, gpus=1).decode_workers == 2


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


@pytest.mark.parametrize(("visible", "expected"), [("", 0), ("-1", 0), ("0", 1), ("2,5", 2), ("GPU-1, GPU-2", 2)])
def test_cuda_visible_devices_is_respected(monkeypatch: pytest.MonkeyPatch, visible: str, expected: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert sizing.visible_gpus() == expected


def test_asking_for_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(PreflightError, match="2 asked for, 1 visible"):
        choose(MachineConfig(gpus=2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(PreflightError, match="no GPU is visible"):
        choose(MachineConfig(device="cuda"))
