"""Runs a network with nothing around it: what a user's own loop over ready tensors reaches at best.

Weights are cast once, there is no autocast, convolutions are in channels_last, inputs lie on the device already and
outputs stay there. ``bench/gpu.py`` holds the micro-batcher against the best of these.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class BareRate:
    """How fast a bare network is in one way of running it.

    Attributes
    ----------
    way
        ``eager``, ``eager, frozen`` (no parameter requires a gradient), ``compiled`` or ``graph`` (a CUDA graph).
    batch
        Steps per forward pass.
    steps_per_second
        Median of several measurements.
    """

    way: str
    batch: int
    steps_per_second: float


def bare_network(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Copy a network to a device, its weights in ``dtype`` and channels_last."""
    copied = deepcopy(network).eval().to(device=device, dtype=dtype)
    return copied.to(memory_format=torch.channels_last)


def own_call(network: nn.Module) -> Call:
    """Return the network's own call; for timm's models the one that ends before pooling."""
    features: Call | None = getattr(network, "forward_features", None)
    return network if features is None else features


def ready_batch(shape: Sequence[int], batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Make noise in place of prepared steps, on the device and as the network takes it.

    Parameters
    ----------
    shape
        Shape of one prepared step: ``(S, S, 3)`` for pictures, ``(96, 64)`` for log-mel patches.

    Returns
    -------
    Tensor
        ``[batch, 3, S, S]`` in channels_last order, or ``[batch, 1, *shape]``.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(batch, *shape, generator=generator).to(device=device, dtype=dtype)
    return values.permute(0, 3, 1, 2) if len(shape) == 3 else values.unsqueeze(1)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(run: Callable[[], object], steps: int, seconds: float, device: torch.device, repeats: int = 3) -> float:
    """Return steps per second of ``run``, which computes ``steps``: the median of several measurements.

    Two runs do not count; then each measurement queues as many runs as fill ``seconds / repeats`` and waits once.
    """
    with torch.inference_mode():
        run()
        wait_for(device)
        started = time.perf_counter()
        run()
        wait_for(device)
        once = time.perf_counter() - started
        count = max(1, math.ceil(seconds / repeats / max(once, 1e-6)))
        rates = []
        for _ in range(repeats):
            started = time.perf_counter()
            for _ in range(count):
                run()
            wait_for(device)
            rates.append(steps * count / (time.perf_counter() - started))
    return statistics.median(rates)


def eager_rates(
    network: nn.Module,
    shape: Sequence[int],
    batches: Sequence[int],
    device: torch.device,
    seconds: float,
    repeats: int = 3,
) -> list[BareRate]:
    """Measure a bare network at several batch sizes, and at the fastest of them with frozen parameters.

    A batch that does not fit into memory is left out. Some kernels are chosen by whether parameters require gradients,
    even in inference mode, so both are tried.
    """
    dtype = next(network.parameters()).dtype
    call = own_call(network)

    def measured(way: str, batch: int) -> BareRate:
        steps = ready_batch(shape, batch, device, dtype)
        return BareRate(way, batch, rate(lambda: call(steps), batch, seconds, device, repeats))

    rates = []
    for batch in batches:
        try:
            rates.append(measured("eager", batch))
        except torch.OutOfMemoryError:
            break
    network.requires_grad_(False)
    rates.append(measured("eager, frozen", best(rates).batch))
    network.requires_grad_(True)
    return rates


def compiled_rate(
    network: nn.Module, shape: Sequence[int], batch: int, device: torch.device, seconds: float
) -> BareRate:
    """Measure a network through ``torch.compile``; the first call takes up to minutes."""
    steps = ready_batch(shape, batch, device, next(network.parameters()).dtype)
    call = torch.compile(own_call(network), dynamic=False)
    return BareRate("compiled", batch, rate(lambda: call(steps), batch, seconds, device))


def graph_rate(network: nn.Module, shape: Sequence[int], batch: int, device: torch.device, seconds: float) -> BareRate:
    """Measure a network as one CUDA graph, which is replayed without Python between its kernels."""
    steps = ready_batch(shape, batch, device, next(network.parameters()).dtype)
    call, graph = own_call(network), torch.cuda.CUDAGraph()
    with torch.inference_mode():
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch does not annotate it
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # libraries make their handles and workspaces outside the graph
            for _ in range(3):
                call(steps)
        torch.cuda.current_stream(device).wait_stream(side)
        with torch.cuda.graph(graph):
            call(steps)
    return BareRate("graph", batch, rate(graph.replay, batch, seconds, device))


def best(rates: Sequence[BareRate]) -> BareRate:
    """Return the fastest.

    Raises
    ------
    MemoryError
        If nothing was measured: not even the smallest batch fits.
    """
    if not rates:
        raise MemoryError("not even the smallest batch of the bare network fits into memory")
    return max(rates, key=lambda measured: measured.steps_per_second)
