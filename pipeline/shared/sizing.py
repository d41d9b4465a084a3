"""Works out how many workers fit: from the CPUs, memory and GPUs that this process may really use."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import Field

from pipeline.shared.errors import PreflightError
from settings import Section
from settings.messages import plural

_MOST_MODEL_THREADS = 8  # a micro-batch is little work to share, and the other CPUs decode
_WORKER_MEMORY_GB = 1.0  # a decode worker with its child, one 4K frame and a few prepared videos


class MachineConfig(Section):
    """The part of a machine that a stage may use. What is not given is chosen to suit the machine, and printed."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where models run: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    model_threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of a model; chosen from the CPUs if not given."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs to use; all that are visible if not given."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory to plan for, in GiB; all of the machine's if not given."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """The machine that a run will use: given by the configuration, or chosen."""

    cpus: int
    gpus: int
    memory_gb: float
    device: str
    decode_workers: int
    model_threads: int

    def describe(self) -> str:
        """Return the sizing as one line for a person."""
        where = f"{', '.join(self.devices)}" if self.gpus else f"cpu with {plural(self.model_threads, 'thread')}"
        return (
            f"{self.cpus} CPUs, {self.gpus} GPUs, {self.memory_gb:.1f} GiB: "
            f"{plural(self.decode_workers, 'decode worker')}, models on {where}"
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of this machine that models run on, each by its number: ``cpu``, or ``cuda:0`` and so on."""
        return tuple(f"cuda:{number}" for number in range(self.gpus)) if self.device == "cuda" else (self.device,)


def available_cpus() -> int:
    """Return the CPUs by affinity, cgroup quota and SLURM, whichever is least."""
    limits = [len(os.sched_getaffinity(0))]
    quota = read_limit("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        limits.append(max(1, int(quota[0]) // int(quota[1])))
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if os.environ.get(name, "").isdigit():
            limits.append(int(os.environ[name]))
            break
    return max(1, min(limits))


def available_memory_gb() -> float:
    """Return the memory in GiB by machine, cgroup and SLURM, whichever is least."""
    limits: list[float] = [psutil.virtual_memory().total / 2**30]
    cgroup = read_limit("/sys/fs/cgroup/memory.max").strip()
    if cgroup.isdigit():
        limits.append(int(cgroup) / 2**30)
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit():
        limits.append(int(slurm) / 1024)
    return min(limits)


def visible_gpus() -> int:
    """Count the NVIDIA GPUs that CUDA would use, by asking the driver's own library, without importing torch.

    The driver reads ``CUDA_VISIBLE_DEVICES`` itself, so whatever it makes of ``NoDevFiles``, ``0,-1,1`` or the name of
    a MIG slice is what is counted. No library, or one that finds no device, is no GPU.
    """
    driver = _cuda_driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _cuda_driver() -> Any:
    """Return the driver's library; None if there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def choose(machine: MachineConfig, decode_workers: int | None = None) -> Sizing:
    """Choose what the configuration leaves open.

    Parameters
    ----------
    machine
        What the configuration says.
    decode_workers
        Number of decode workers, if given.

    Raises
    ------
    PreflightError
        If the configuration wants GPUs that are not there.
    """
    cpus = available_cpus()
    present_gpus = visible_gpus()
    if machine.gpus is not None and machine.gpus > present_gpus:
        raise PreflightError(
            f"run.gpus: {machine.gpus} asked for, {present_gpus} visible; lower run.gpus or set CUDA_VISIBLE_DEVICES"
        )
    use_gpus = present_gpus if machine.gpus is None else machine.gpus
    device = machine.device if machine.device != "auto" else ("cuda" if use_gpus else "cpu")
    if device.startswith("cuda") and not use_gpus:
        raise PreflightError(f"run.device: {device} asked for, but no GPU is visible; use run.device=cpu")
    number = device.partition(":")[2]
    if number and int(number) >= present_gpus:
        raise PreflightError(f"run.device: {device} asked for, {present_gpus} visible, counted from cuda:0")
    if device == "cpu":
        use_gpus = 0
    elif number:
        use_gpus = 1
    memory_gb = machine.memory_gb or available_memory_gb()
    workers = decode_workers or decoders_that_fit(cpus, use_gpus, memory_gb)
    # Threads of a matrix library spin while they wait: one more than there are idle CPUs costs far more than it gives.
    threads = machine.model_threads or most_model_threads(cpus - workers)
    return Sizing(cpus, use_gpus, memory_gb, device, workers, threads)


def decoders_that_fit(cpus: int, gpus: int, memory_gb: float) -> int:
    """Return the number of decode workers for one machine.

    The process of a GPU keeps one CPU busy with its kernels; towers on the CPU have one half of the CPUs.
    """
    spare = cpus - gpus if gpus else cpus // 2
    return max(1, min(max(spare, cpus // 2), int(memory_gb // _WORKER_MEMORY_GB) - 1))


def most_model_threads(cpus: int) -> int:
    """Return the CPU threads of a model that has these CPUs for itself."""
    return max(1, min(cpus, _MOST_MODEL_THREADS))


def read_limit(path: str) -> str:
    """Return the text of a cgroup's file; empty if there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
