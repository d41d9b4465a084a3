"""One process or many: ranks under torchrun, under Ray Train, or neither."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from settings.messages import one_line
from trainers.errors import TrainingError

PATIENCE = datetime.timedelta(hours=6)
"""How long a rank waits for another: rank 0 validates alone while the others wait."""
STOP_LAG = 2
"""How many steps after a question the ranks read its answer; see ``Asked``."""
_GLOO_GRACE_S = 0.2


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of several processes this one is, and its device.

    What ranks tell one another, apart from gradients, goes from CPU to CPU: no rank waits for its device, and none
    keeps its device busy with waiting.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    world
        Number of processes.
    device
        Where this process computes.
    talk
        The group of all ranks over which they tell one another; None for a single process.
    """

    rank: int
    world: int
    device: torch.device
    talk: distributed.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            distributed.barrier(self.talk)

    def agree(self, flag: bool) -> bool:
        """Wait for every rank; return true on all of them if ``flag`` is true on one."""
        if self.world == 1:
            return flag
        value = torch.tensor(flag, dtype=torch.uint8)
        distributed.all_reduce(value, distributed.ReduceOp.MAX, self.talk)
        return bool(value)

    def hear(self, text: str | None) -> str | None:
        """Return on every rank what the first one says."""
        if self.world == 1:
            return text
        said = [text]
        distributed.broadcast_object_list(said, 0, self.talk, torch.device("cpu"))
        return said[0]


class Asked:
    """Asks all ranks once per step whether one of them must stop, and lets none of them wait for the answer.

    Every ``STOP_LAG`` steps the ranks begin to exchange what each of them knows, in the background, and read the result
    ``STOP_LAG`` steps later. So all of them hear the answer after the same step, at most ``2 * STOP_LAG`` steps after
    one of them knew it, and a rank waits only if another is ``STOP_LAG`` steps behind. A single process hears itself
    at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._calls = ranks, 0
        self._open: tuple[distributed.Work, torch.Tensor] | None = None

    def __call__(self, flag: bool) -> bool:
        """Say ``flag``, and return whether any rank had said true when the last answer was exchanged."""
        if self._ranks.world == 1:
            return flag
        self._calls += 1
        if self._calls % STOP_LAG:
            return False
        if self.settle():
            return True
        value = torch.tensor(flag, dtype=torch.uint8)
        work = distributed.all_reduce(value, distributed.ReduceOp.MAX, self._ranks.talk, async_op=True)
        self._open = work, value
        return False

    def settle(self) -> bool:
        """Wait for the answer that is still exchanged, if there is one, and return it."""
        if self._open is None:
            return False
        work, value = self._open
        self._open = None
        work.wait()
        return bool(value)


def join(device: str, own: torch.device | None = None) -> Ranks:
    """Join the process group that the environment describes, if it describes one (torchrun, Ray Train).

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. With several local ranks, ``cuda`` gives each its own GPU.
    own
        The GPU that the launcher gave this process, taken for ``auto`` and ``cuda``; None takes that of the number of
        the local rank.

    Raises
    ------
    TrainingError
        If the device does not exist, or the ranks do not reach one another.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local, own)
    if world == 1 and not distributed.is_initialized():
        return Ranks(0, 1, chosen)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    if world == 1:
        return Ranks(rank, world, chosen)
    try:
        talk: Any = distributed.new_group(timeout=PATIENCE, backend="gloo")
    except RuntimeError as error:
        raise TrainingError(
            f"the ranks do not reach one another over the network ({one_line(error)}); name its interface in "
            "GLOO_SOCKET_IFNAME, such as eth0"
        ) from error
    return Ranks(rank, world, chosen, talk)


def leave() -> None:
    """Leave the process group that ``join`` joined."""
    if not distributed.is_initialized():
        return
    distributed.destroy_process_group()
    # A race in PyTorch (github.com/pytorch/pytorch/pull/179291): Gloo's worker threads outlive the group and may still
    # hold tensors of the last reductions. A thread that drops one while the interpreter shuts down asks for its lock
    # and aborts the process. PyTorch offers nothing to wait for, so each gets this long to drop them.
    time.sleep(_GLOO_GRACE_S)


def _device(name: str, local_rank: int, own: torch.device | None) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"device {name!r}: not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainingError(f"device {name!r}: no GPU is visible; use device=cpu")
        if device.index is None:
            device = own if own is not None else torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return device
