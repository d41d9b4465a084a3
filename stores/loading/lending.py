"""Memory that the worker of a ``DataLoader`` lends its trainer, and fills again once the trainer has let go of it.

PyTorch's own way makes a new shared file for each batch. The kernel hands out and clears its pages one by one, which
takes several times as long as copying the rows. Here a worker keeps its files. Each begins with a byte per loan: the
worker sets it when it sends a batch, and the trainer's process clears it when the last tensor over that batch is gone.
Only a block without an open loan is filled again, so no batch is ever overwritten.

The files have no names (``memfd_create``): a killed process leaves none behind, and ``/dev/shm``, which containers keep
small, is not used. In the trainer a borrowed tensor is like any other: sent on to another process, it is copied.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..format.mapped import PAGE_BYTES, empty_half_page_off

Bytes = npt.NDArray[np.uint8]

CAN_LEND = hasattr(os, "memfd_create")
"""Whether this system has shared files without names."""

_LOANS = PAGE_BYTES // 2
"""Bytes of a file before its data, one per loan; so the data begin half a page off, see ``empty_half_page_off``."""
_NO_LOAN, _LENT, _ABANDONED = range(3)


class Block:
    """Memory for one batch after the other."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.memory = self._allocate()
        self._view: weakref.ref[Bytes] | None = None

    def _allocate(self) -> Bytes:
        return empty_half_page_off(self.nbytes)

    @property
    def free(self) -> bool:
        """Whether nothing uses the memory: no array or tensor of this process."""
        return self._view is None or self._view() is None

    @property
    def abandoned(self) -> bool:
        """Whether it can never be free again."""
        return False

    def take(self, nbytes: int) -> Bytes:
        """Return the first bytes, ``[nbytes] uint8``; the block is in use until the last tensor over them is gone."""
        view = self.memory[:nbytes]
        self._view = weakref.ref(view)
        return view


class LoanBlock(Block):
    """A block of shared memory, which another process can borrow."""

    def _allocate(self) -> Bytes:
        self._file = os.memfd_create("reelstore-batch")
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, _LOANS + self.nbytes)
        self._loans, memory = _mapped(self._file, self.nbytes)
        _blocks[_address(memory)] = self
        return memory

    @property
    def free(self) -> bool:
        """Whether nothing uses the memory, here or in another process."""
        return super().free and not self._loans.any()  # in this order: a loan is opened before the tensor goes

    @property
    def abandoned(self) -> bool:
        """Whether a process that tells nobody when it is done may be reading it."""
        return bool((self._loans == _ABANDONED).any())

    def abandon(self) -> None:
        """Never fill it again, if it is in use here."""
        if not super().free:
            self._loans[-1] = _ABANDONED

    def lend(self, nbytes: int) -> tuple[Any, int, int] | None:
        """Open a loan of the first bytes, for ``borrow`` in another process; None if all loans are open."""
        unused = np.flatnonzero(self._loans == _NO_LOAN)
        if not len(unused):
            return None
        self._loans[unused[0]] = _LENT
        return DupFd(self._file), nbytes, int(unused[0])


_blocks: weakref.WeakValueDictionary[int, LoanBlock] = weakref.WeakValueDictionary()
"""The blocks of this process, by the addresses of their memory."""


class Parcel:
    """A tensor over a block, on its way out of a process.

    Queues and pipes of ``multiprocessing`` carry a loan of the block, and give a tensor at the other end. Anything else
    that pickles or copies it has its values.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def block_of(tensor: torch.Tensor) -> LoanBlock | None:
    """Return the block that a tensor lies in, if it can be lent as it is."""
    if not _blocks or not tensor.is_contiguous() or tensor.storage_offset():
        return None
    return _blocks.get(tensor.data_ptr())


def _send(parcel: Parcel) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    tensor = parcel.tensor
    block = block_of(tensor)
    loan = block.lend(tensor.nbytes) if block else None
    return (_receive, (*loan, tensor.dtype, tuple(tensor.shape))) if loan else (_same, (tensor,))


def _receive(file: Any, nbytes: int, loan: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(borrow(file, nbytes, loan)).view(dtype).view(shape)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


ForkingPickler.register(Parcel, _send)


class _Loan:
    """An open loan, in the process that borrows."""

    def __init__(self, loans: Bytes, number: int) -> None:
        self._loans, self._number = loans, number

    def end(self) -> None:
        """Let the block be filled again."""
        if self._loans[self._number] == _LENT:
            self._loans[self._number] = _NO_LOAN

    def abandon(self) -> None:
        """Leave the block to whoever reads it, for ever."""
        self._loans[self._number] = _ABANDONED


_open_loans: weakref.WeakSet[_Loan] = weakref.WeakSet()
_forking = threading.RLock()


def borrow(file: Any, nbytes: int, number: int) -> Bytes:
    """Return memory that another process lent, ``[nbytes] uint8``; the loan ends with the last tensor over it."""
    descriptor = file.detach()
    try:
        loans, memory = _mapped(descriptor, nbytes)
    finally:
        os.close(descriptor)
    with _forking:
        loan = _Loan(loans, number)
        _open_loans.add(loan)
        weakref.finalize(memory, loan.end).atexit = False
    return memory


def _abandon_what_is_used() -> None:
    """Before a fork: the child has the shared memory too, and may read it after this process is done with it."""
    _forking.acquire()
    for loan in list(_open_loans):
        loan.abandon()
    for block in list(_blocks.values()):
        block.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_abandon_what_is_used, after_in_parent=_forking.release, after_in_child=_forking.release)


def _mapped(file: int, nbytes: int) -> tuple[Bytes, Bytes]:
    """Return the loans of a block and the first bytes of its memory."""
    whole = np.frombuffer(mmap.mmap(file, _LOANS + nbytes), np.uint8)
    return whole[:_LOANS], whole[_LOANS:]


def _address(array: Bytes) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
