"""Memory for batches. Fresh pages cost several times as much as the copy that fills them, so they are reused."""

from __future__ import annotations

import math
import os
import threading

import torch
from torch.utils.data import get_worker_info

from .lending import CAN_LEND, Block, Bytes, LoanBlock

_SMALL = 1 << 15
"""Below this number of bytes, ``malloc`` itself reuses memory."""
_SPARES = 8
"""How many free blocks are kept: more than the batches that a worker of a ``DataLoader`` has under way."""


class Buffers:
    """Lends memory for tensors, and reuses it once the last tensor over it is gone, so no batch is overwritten.

    With ``pin`` the memory is page-locked, for copies to a GPU that do not block (PyTorch reuses such blocks itself).
    In a worker of a ``DataLoader`` it is shared memory, so that a batch reaches its trainer without another copy (see
    ``lending``); a worker cannot pin.
    """

    def __init__(self, pin: bool = False) -> None:
        self.pin = pin
        self._blocks: list[Block] = []
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Buffers], tuple[bool]]:
        """Pickle without the memory."""
        return type(self), (self.pin,)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor."""
        nbytes = math.prod(shape) * dtype.itemsize
        shared = get_worker_info() is not None
        if nbytes < _SMALL or (self.pin and not shared):
            return torch.empty(shape, dtype=dtype, pin_memory=self.pin and not shared)
        if shared and not CAN_LEND:
            storage = torch.UntypedStorage._new_shared(nbytes)  # type: ignore[no-untyped-call]  # as PyTorch's own collate does
            return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload, no-any-return]  # nor is this call annotated
        with self._lock:
            memory = self._lend(nbytes, LoanBlock if shared else Block)
        return torch.from_numpy(memory).view(dtype).view(shape)

    def _lend(self, nbytes: int, kind: type[Block]) -> Bytes:
        """Return memory of a free block; the block is in use until the last tensor over it is gone."""
        if self._process != os.getpid():  # the blocks of the process that forked this one are not ours to fill
            self._blocks, self._process = [], os.getpid()
        fitting = [block for block in self._blocks if block.nbytes >= nbytes and block.free]
        if fitting:
            block = min(fitting, key=_size) if len(fitting) > 1 else fitting[0]
            if len(fitting) > _SPARES:
                self._blocks = [other for other in self._blocks if other is block or not other.free]
        else:  # the free blocks are too small, so they are given up
            block = kind(nbytes)
            self._blocks = [*(other for other in self._blocks if not other.free and not other.abandoned), block]
        return block.take(nbytes)


def _size(block: Block) -> int:
    return block.nbytes
