"""The towers that are measured: each network is built once, on the CPU, with random weights.

Building ViT-L/14 takes seconds; every dtype and every section then copies the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.clips import render, shapes_of, waveform
from extractors import build
from extractors.clip import Clip
from extractors.swin import Swin
from extractors.torch_model import TorchModel
from extractors.trained import Trained
from extractors.vggish import Vggish

DTYPES = ("float32", "bfloat16", "float16")
"""What is measured on a GPU. On a CPU, float16 is left out: it takes ten times as long and tells nothing."""


@dataclass(frozen=True, slots=True)
class Tower:
    """One tower.

    Attributes
    ----------
    name
        What the figures are called.
    extractor
        Name of the extractor.
    micro_batch
        Steps per forward pass, as in the presets.
    model
        The extractor's option of this name, if it has one.
    """

    name: str
    extractor: str
    micro_batch: int
    model: str | None = None


FULL = (
    Tower("clip", "clip", 32, "ViT-L-14"),
    Tower("swin_b", "swin", 30, "swin_base_patch4_window7_224"),
    Tower("swin_l", "swin", 30, "swin_large_patch4_window7_224"),
    Tower("vggish", "vggish", 30),
)
QUICK = (
    Tower("clip", "clip", 2, "ViT-S-32-alt"),
    Tower("swin_b", "swin", 2, "swin_tiny_patch4_window7_224"),
    Tower("vggish", "vggish", 2),
)


def towers(quick: bool) -> Sequence[Tower]:
    """Return the towers to measure; tiny ones if ``quick``."""
    return QUICK if quick else FULL


def extractor_of(tower: Tower, compute_dtype: str = "float32") -> Trained:
    """Return a tower's extractor, with random weights."""
    model = {} if tower.model is None else {"model": tower.model}
    extractor = build(tower.extractor, {**model, "weights": "random:0", "compute_dtype": compute_dtype})
    assert isinstance(extractor, Trained)
    return extractor


@cache
def network_of(tower: Tower) -> Any:
    """Build a tower's network on the CPU in float32, once per process. Whoever changes it copies it first."""
    network, _ = extractor_of(tower).build_network()
    return network.visual if tower.extractor == "clip" else network


def load(
    tower: Tower, compute_dtype: str, device: torch.device, threads: int | None = None, compiled: bool = False
) -> TorchModel:
    """Return what ``extractor_of(tower, compute_dtype).load(device)`` returns, without building the network again."""
    extractor = extractor_of(tower, compute_dtype)
    if compiled:
        extractor = extractor.model_copy(update={"compile": True})
    return load_extractor(extractor, deepcopy(network_of(tower)), str(device), threads)


def load_extractor(extractor: Trained, network: Any, device: str, threads: int | None) -> TorchModel:
    """Make the model of an extractor from a network that is already built.

    Raises
    ------
    TypeError
        For an extractor that is not measured here.
    """
    execution = extractor.execution(device, threads)
    if isinstance(extractor, Clip):
        from extractors.clip_tower import ClipModel

        return ClipModel(network, extractor.tokens, extractor.output(), extractor.preprocessing, execution, None)
    if isinstance(extractor, Swin):
        from extractors.swin_tower import SwinModel

        pooled = extractor.pool == "mean"
        return SwinModel(network, pooled, extractor.output(), extractor.preprocessing, execution, None)
    if isinstance(extractor, Vggish):
        from extractors.vggish_tower import VggishModel

        return VggishModel(network, None, extractor.output(), execution, None)
    raise TypeError(f"{type(extractor).__name__} is not measured here")


def noise(extractor: Trained, count: int, seed: int = 0) -> NDArray[Any]:
    """Return prepared steps of noise, ``[count, *prepared_shape]``."""
    generator = np.random.default_rng(seed)
    shape = (count, *extractor.prepared_shape())
    if extractor.prepared_dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.uniform(-4.6, 5, shape).astype(extractor.prepared_dtype)


def scenes(extractor: Trained, count: int) -> NDArray[Any]:
    """Return prepared steps of drawn scenes or their sound, each of another clip: ``[count, *prepared_shape]``."""
    if extractor.input == "audio":
        seconds = extractor.window_samples / extractor.rate
        windows = [waveform(shapes_of(seed), seconds, extractor.rate) for seed in range(count)]
        return extractor.prepare(np.stack(windows)[:, : extractor.window_samples])
    return extractor.prepare(np.stack([render(shapes_of(seed), seed / 3, 320, 240) for seed in range(count)]))
