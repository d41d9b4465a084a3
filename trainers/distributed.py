"""One process or many: ranks under torchrun, under Ray Train, or neither."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass

import torch
from torch import distributed

from trainers.errors import TrainingError

PATIENCE = datetime.timedelta(hours=6)
"""How long a rank waits for another: rank 0 validates alone while the others wait."""
_GLOO_GRACE_S = 0.2


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of several processes this one is, and its device.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    world
        Number of processes.
    device
        Where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            distributed.barrier()

    def agree(self, flag: bool) -> bool:
        """Return true on every rank as soon as ``flag`` is true on one."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value.item())

    def hear(self, text: str | None) -> str | None:
        """Return on every rank what the first one says."""
        if self.world == 1:
            return text
        said = [text]
        distributed.broadcast_object_list(said, src=0, device=self.device)
        return said[0]


def join(device: str) -> Ranks:
    """Join the process group that the environment describes, if it describes one (torchrun, Ray Train).

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. With several local ranks, ``cuda`` gives each its own GPU.

    Raises
    ------
    TrainingError
        If the device does not exist.
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
    """Leave the process group that ``join`` joined."""
    if not distributed.is_initialized():
        return
    uses_gloo = distributed.get_backend() == "gloo"
    distributed.destroy_process_group()
    if uses_gloo:
        # A race in PyTorch (github.com/pytorch/pytorch/pull/179291): Gloo's worker threads outlive the group and may
        # still hold tensors of the last reductions. A thread that drops one while the interpreter shuts down asks for
        # its lock and aborts the process. PyTorch offers nothing to wait for, so each gets this long to drop them.
        time.sleep(_GLOO_GRACE_S)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"device {name!r}: not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError(f"device {name!r}: no GPU is visible; use device=cpu")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device
