"""How the tensors of a batch reach the device."""

from __future__ import annotations

from torch import Tensor, device


def moved(tensor: Tensor, where: device, non_blocking: bool = False) -> Tensor:
    """Return a tensor on a device; a copy to a GPU that does not block is made from page-locked memory.

    From other memory, such a copy would wait until the GPU has done all that was asked of it before.
    """
    if non_blocking and where.type == "cuda" and tensor.is_cpu:
        tensor = tensor.pin_memory()
    return tensor.to(where, non_blocking=non_blocking)
