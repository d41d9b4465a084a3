"""Memory for batches. Fresh pages cost several times the copy that fills them, so they are used again."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from ..format.mapped import empty_apart

_SMALL = 1 << 15  # below this malloc itself reuses memory


class Buffers:
    """Gives out tensors; takes memory back when the last tensor over it is gone, so no batch is ever overwritten.

    With ``pin`` the memory is page-locked, for copies to a GPU that do not block (PyTorch reuses such blocks
    itself). In a DataLoader's worker it is shared memory, so that a batch reaches its trainer without another
    copy; a worker cannot pin.
    """

    def __init__(self, pin: bool = False) -> None:
        self.pin = pin
        self._blocks: list[tuple[npt.NDArray[np.uint8], weakref.ref[Any]]] = []
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"pin": self.pin}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["pin"])  # type: ignore[misc]

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor."""
        nbytes = math.prod(shape) * dtype.itemsize
        if get_worker_info() is not None:
            storage = torch.UntypedStorage._new_shared(nbytes)  # type: ignore[no-untyped-call]  # as PyTorch's own collate does
            return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload, no-any-return]
        if self.pin or nbytes < _SMALL:
            return torch.empty(shape, dtype=dtype, pin_memory=self.pin)
        with self._lock:
            lent = self._lend(nbytes)
        return torch.from_numpy(lent).view(dtype).view(shape)

    def _lend(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """A view of a free block; the tensor made of it keeps the view alive, and its end frees the block."""
        free = [block for block, user in self._blocks if user() is None]
        fitting = [block for block in free if block.nbytes >= nbytes]
        block = min(fitting, key=lambda each: each.nbytes) if fitting else empty_apart(nbytes)
        lent = block[:nbytes]
        kept = [(each, user) for each, user in self._blocks if user() is not None or (fitting and each is not block)]
        self._blocks = [*kept, (block, weakref.ref(lent))]
        return lent
