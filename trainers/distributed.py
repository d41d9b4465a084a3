"""One process or many: ranks under torchrun, Ray Train or nothing."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass

import torch
from torch import distributed

from trainers.errors import TrainingError

# Rank 0 validates alone while the others wait.
PATIENCE = datetime.timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which process this is, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            distributed.barrier()

    def agree(self, flag: bool) -> bool:
        """True on every rank as soon as it is on one."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value.item())


def join(device: str) -> Ranks:
    """Join the process group that the environment names, if it names one (torchrun, Ray Train).

    Parameters
    ----------
    device : ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. With several local ranks, ``cuda`` is each one's own.

    Raises
    ------
    TrainingError
        If the device is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    if world == 1 and not distributed.is_initialized():
        return Ranks(0, 1, chosen)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size(), chosen)


def leave() -> None:
    """Leave the process group that :func:`join` joined."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        # Gloo's threads outlive the group where DistributedDataParallel was used, and need the interpreter to let go of
        # the last tensors that were reduced: a process that ended before they could would abort.
        time.sleep(0.2)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"device {name!r}: not a device; say auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError(f"device {name!r}: no GPU is visible; say device=cpu")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device
