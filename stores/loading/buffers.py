"""Memory for batches. Fresh pages cost several times as much as the copy that fills them, so they are reused."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from ..format.mapped import empty_half_page_off

_SMALL = 1 << 15
"""Below this number of bytes, ``malloc`` itself reuses memory."""


class Buffers:
    """Lends memory for tensors, and reuses it once the last tensor over it is gone, so no batch is overwritten.

    With ``pin`` the memory is page-locked, for copies to a GPU that do not block (PyTorch reuses such blocks itself).
    In a worker of a ``DataLoader`` it is shared memory, so that a batch reaches its trainer without another copy; a
    worker cannot pin.
    """

    def __init__(self, pin: bool = False) -> None:
        self.pin = pin
        self._blocks: list[tuple[npt.NDArray[np.uint8], weakref.ref[Any]]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Buffers], tuple[bool]]:
        """Pickle without the memory."""
        return type(self), (self.pin,)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor."""
        nbytes = math.prod(shape) * dtype.itemsize
        if get_worker_info() is not None:
            storage = torch.UntypedStorage._new_shared(nbytes)  # type: ignore[no-untyped-call]  # as PyTorch's own collate does
            return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload, no-any-return]  # nor is this call annotated
        if self.pin or nbytes < _SMALL:
            return torch.empty(shape, dtype=dtype, pin_memory=self.pin)
        with self._lock:
            lent = self._lend(nbytes)
        return torch.from_numpy(lent).view(dtype).view(shape)

    def _lend(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return a view of a free block; the block is in use until the last tensor made from the view is gone."""
        in_use = [(block, view) for block, view in self._blocks if view() is not None]
        fitting = [block for block, view in self._blocks if view() is None and block.nbytes >= nbytes]
        if fitting:
            block = min(fitting, key=lambda candidate: candidate.nbytes)
            kept = [(other, view) for other, view in self._blocks if other is not block]
        else:  # the free blocks are too small, so they are given up
            block = empty_half_page_off(nbytes)
            kept = in_use
        lent = block[:nbytes]
        self._blocks = [*kept, (block, weakref.ref(lent))]
        return lent
