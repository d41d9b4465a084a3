"""The sizes of InternVideo2's vision encoder, where their weights are published, and how an encoder is used.

Sizes, counts and files: ``docs/facts/internvideo2.md``, sections 1 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Gelu = Literal["tanh", "exact"]
Tokens = Literal["pooled", "projected", "cls", "mean", "map"]
POOLED = 768
"""Numbers that the attention pooling of every published encoder gives."""
PROJECTED = 512
"""Numbers of the vector that retrieval compares with a text."""


@dataclass(frozen=True, slots=True)
class Release:
    """One published file.

    Attributes
    ----------
    repository, file
        Where the hub has it. Most ask for a form to be accepted first, and for a token (``HF_TOKEN``) then.
    f0
        Frames that its position table is made for.
    """

    repository: str
    file: str
    f0: int


@dataclass(frozen=True, slots=True)
class Backbone:
    """The shapes of one encoder.

    Attributes
    ----------
    width
        Channels of a token, D.
    depth
        Number of blocks.
    heads
        Attention heads of a block.
    hidden
        Channels inside an MLP, M.
    releases
        Tag to published file.
    image_size, patch
        Pixels of the side of a frame and of a patch in training.
    pool_heads, pooled, projected
        Heads and output of the attention pooling, and numbers of the retrieval vector.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    releases: Mapping[str, Release] = field(default_factory=dict)
    image_size: int = 224
    patch: int = 14
    pool_heads: int = 16
    pooled: int = POOLED
    projected: int = PROJECTED

    @property
    def grid(self) -> int:
        """Patches along one side of a frame in training."""
        return self.image_size // self.patch


@dataclass(frozen=True, slots=True)
class Reading:
    """What is taken from an encoder.

    Attributes
    ----------
    frames
        Frames of a clip, F.
    grid
        Patches along one side of a frame.
    tokens
        What a step is.
    map_size
        Side of the map, a divisor of ``grid``.
    blocks
        Number of blocks that are run.
    """

    frames: int
    grid: int
    tokens: Tokens
    map_size: int
    blocks: int


def _release(kind: str, file: str, f0: int) -> Release:
    return Release(f"OpenGVLab/InternVideo2-{kind}", file, f0)


BACKBONES: dict[str, Backbone] = {
    "s14": Backbone(384, 12, 6, 1536),
    "b14": Backbone(768, 12, 12, 3072),
    "l14": Backbone(1024, 24, 16, 4096),
    "1b": Backbone(
        1408,
        40,
        16,
        6144,
        {
            "stage1": _release("Stage1-1B-224p-f8", "pretrain.pth", 8),
            "stage1_k710": _release("Stage1-1B-224p-f8-k710", "1B_ft_k710_f8.pth", 8),
            "stage2": _release("Stage2_1B-224p-f4", "InternVideo2-stage2_1b-224p-f4.pt", 4),
        },
    ),
    "6b": Backbone(
        3200,
        48,
        25,
        12800,
        {
            "stage2": _release("Stage2_6B-224p-f4", "internvideo2-s2_6b-224p-f4.pt", 4),
        },
    ),
}
