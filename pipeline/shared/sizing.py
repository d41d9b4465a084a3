"""How many workers fit: CPUs, memory and GPUs that this process may really use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field

from pipeline.shared.errors import PreflightError
from settings import Section
from settings.messages import plural

# Shares of a CPU that Ray is told a stage takes. Model and writer actors wait on a GPU or a disk most of the
# time; giving them whole CPUs would leave a two-CPU machine without one for decoding, and the job would hang.
MODEL_CPUS = 0.25
WRITER_CPUS = 0.25
_MOST_MODEL_THREADS = 8
_WORKER_MEMORY_GB = 1.0  # a decode worker with its child, one 4K frame and a few prepared videos


class MachineConfig(Section):
    """What of a machine a stage may use. What is not given is chosen from the machine and printed."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where models run: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    model_threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of a model."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs to use; all that are visible if not given."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory to plan for, in GiB."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a run will use, chosen or given."""

    cpus: int
    gpus: int
    memory_gb: float
    device: str
    decode_workers: int
    model_threads: int

    def describe(self) -> str:
        return (
            f"{self.cpus} CPUs, {self.gpus} GPUs, {self.memory_gb:.1f} GiB: "
            f"{plural(self.decode_workers, 'decode worker')}, models on {self.device} with "
            f"{plural(self.model_threads, 'thread')}"
        )


def available_cpus() -> int:
    """CPUs by affinity, cgroup quota and SLURM, whichever is least."""
    limits = [len(os.sched_getaffinity(0))]
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        limits.append(max(1, int(quota[0]) // int(quota[1])))
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if os.environ.get(name, "").isdigit():
            limits.append(int(os.environ[name]))
            break
    return max(1, min(limits))


def available_memory_gb() -> float:
    """Memory by machine, cgroup and SLURM, whichever is least, in GiB."""
    limits: list[float] = [psutil.virtual_memory().total / 2**30]
    cgroup = _read("/sys/fs/cgroup/memory.max").strip()
    if cgroup.isdigit():
        limits.append(int(cgroup) / 2**30)
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit():
        limits.append(int(slurm) / 1024)
    return min(limits)


def visible_gpus() -> int:
    """NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves, counted without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [part for part in visible.split(",") if part.strip()]
        return 0 if devices[:1] == ["-1"] else len(devices)
    driver = Path("/proc/driver/nvidia/gpus")
    return len(list(driver.iterdir())) if driver.is_dir() else 0


def choose(
    machine: MachineConfig, decode_workers: int | None = None, cpus: int | None = None, gpus: int | None = None
) -> Sizing:
    """Fill in what the configuration leaves open.

    Parameters
    ----------
    machine
        What the configuration says.
    decode_workers
        Decode workers, if their number is given.
    cpus, gpus
        What a Ray cluster has; this machine's if not given.

    Raises
    ------
    PreflightError
        If the configuration asks for what is not there.
    """
    machine_cpus = available_cpus()
    cpus = cpus or machine_cpus
    found_gpus = visible_gpus() if gpus is None else gpus
    if machine.gpus is not None and machine.gpus > found_gpus:
        raise PreflightError(f"run.gpus: {machine.gpus} asked for, {found_gpus} visible")
    use_gpus = found_gpus if machine.gpus is None else machine.gpus
    device = machine.device if machine.device != "auto" else ("cuda" if use_gpus else "cpu")
    if device.startswith("cuda") and not use_gpus:
        raise PreflightError(f"run.device: {device} asked for, but no GPU is visible")
    if device == "cpu":
        use_gpus = 0
    memory_gb = machine.memory_gb or available_memory_gb()
    most = max(1, int(memory_gb // _WORKER_MEMORY_GB) - 1)
    spare = cpus if device != "cpu" else cpus // 2
    workers = decode_workers or max(1, min(spare, most))
    # threads of a matrix library spin while they wait: one more than there are idle CPUs costs far more than it gives
    threads = machine.model_threads or max(1, min(machine_cpus - workers, _MOST_MODEL_THREADS))
    return Sizing(cpus, use_gpus, memory_gb, device, workers, threads)


def ray_decode_workers(sizing: Sizing, cluster_cpus: float) -> int:
    """Decode actors (1 CPU each) that leave room for the model and writer actors.

    Raises
    ------
    PreflightError
        If the cluster is too small for one of each: it would wait forever.
    """
    model_actors = max(1, sizing.gpus)
    room = cluster_cpus - model_actors * MODEL_CPUS - WRITER_CPUS
    if room < 1:
        raise PreflightError(
            f"the Ray cluster has {cluster_cpus:g} CPUs; one decode worker, {model_actors} model and one writer "
            f"actor need {1 + model_actors * MODEL_CPUS + WRITER_CPUS:g}"
        )
    return max(1, min(sizing.decode_workers, int(room)))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
