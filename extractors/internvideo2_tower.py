"""The network behind ``internvideo2``, written from its formulas, and its strictly loaded weights.

Paper: Yi Wang, Kunchang Li, Xinhao Li, Jiashuo Yu et al., "InternVideo2: Scaling Foundation Models for Multimodal Video
Understanding", 2024, https://arxiv.org/abs/2403.15377. Formulas: ``docs/facts/internvideo2.md``, section 2.

Weights: https://huggingface.co/OpenGVLab, https://github.com/OpenGVLab/InternVideo, Apache-2.0 licence; most files are
given to whoever accepts a form.

Names of modules are those of the published files. The patch embedding is a convolution over images, because its
published kernel spans one frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from extractors import hub, tensors, weights
from extractors.base import Execution, Json, OutputSpec, WeightsError
from extractors.internvideo2_layouts import check_fit, encoder_of, projector_of
from extractors.internvideo2_models import Backbone, Gelu, Reading
from extractors.preprocess import Preprocessing
from extractors.torch_model import ImageModel
from extractors.weights import PinnedWeights, WeightsFile

logger = logging.getLogger("reelstore.extractors.internvideo2")

_OF_PROJECTOR = ("clip_projector.", "vision_proj.")
_SCALE = 0.1  # what random weights scale each branch by


class RmsNorm(nn.Module):
    """g * x / sqrt(mean(x²) + 1e-6), summed in float32, in one kernel where torch has one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension."""
        return functional.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class LayerScale(nn.Module):
    """x + gamma * branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), _SCALE))

    def forward(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        """Add a scaled branch, ``[M,N,D]``, to ``x``, ``[M,N,D]``."""
        return torch.addcmul(x, branch, self.gamma)


class SelfAttention(nn.Module):
    """Attention whose queries and keys are normalised over all channels, before they are split into heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = RmsNorm(width)
        self.k_norm = RmsNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,N,D]`` into ``[M,N,D]``."""
        q, k, v = self.qkv(x).chunk(3, -1)
        return cast(torch.Tensor, self.proj(_attend(self.q_norm(q), self.k_norm(k), v, self.heads)))


class Mlp(nn.Module):
    """fc2(GELU(fc1 x))."""

    def __init__(self, width: int, hidden: int, gelu: Gelu) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self._approximate = "tanh" if gelu == "tanh" else "none"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,N,D]`` into ``[M,N,D]``."""
        return cast(torch.Tensor, self.fc2(functional.gelu(self.fc1(x), approximate=self._approximate)))


class Block(nn.Module):
    """x + gamma1 * A(RMS1 x), then x + gamma2 * M(RMS2 x)."""

    def __init__(self, backbone: Backbone, gelu: Gelu) -> None:
        super().__init__()
        self.norm1 = RmsNorm(backbone.width)
        self.attn = SelfAttention(backbone.width, backbone.heads)
        self.ls1 = LayerScale(backbone.width)
        self.norm2 = RmsNorm(backbone.width)
        self.mlp = Mlp(backbone.width, backbone.hidden, gelu)
        self.ls2 = LayerScale(backbone.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,N,D]`` into ``[M,N,D]``."""
        x = self.ls1(x, self.attn(self.norm1(x)))
        return cast(torch.Tensor, self.ls2(x, self.mlp(self.norm2(x))))


class CrossAttention(nn.Module):
    """Attention of one query on all tokens; the biases are tensors of their own."""

    def __init__(self, width: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.k_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, out)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,1,D]`` and two ``[M,N,D]`` into ``[M,1,out]``."""
        q = functional.linear(query, self.q.weight, self.q_bias)
        k = functional.linear(key, self.k.weight, self.k_bias)
        v = functional.linear(value, self.v.weight, self.v_bias)
        return cast(torch.Tensor, self.proj(_attend(q, k, v, self.heads)))


class ClipProjector(nn.Module):
    """Attention pooling: the mean of all tokens asks, and all tokens answer."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        width = backbone.width
        self.norm1_q = nn.LayerNorm(width, eps=1e-5)
        self.norm1_k = nn.LayerNorm(width, eps=1e-5)
        self.norm1_v = nn.LayerNorm(width, eps=1e-5)
        self.cross_attn = CrossAttention(width, backbone.pool_heads, backbone.pooled)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,N,D]`` into ``[M,pooled]``."""
        query = self.norm1_q(tokens.mean(1, keepdim=True))
        return cast(torch.Tensor, self.cross_attn(query, self.norm1_k(tokens), self.norm1_v(tokens))[:, 0])


class PatchEmbedding(nn.Module):
    """One token per patch of each frame."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn ``[N,3,H,W]`` into ``[N,g*g,D]``, rows then columns."""
        return cast(torch.Tensor, self.proj(frames).flatten(2).transpose(1, 2))


class InternVideo2Encoder(nn.Module):
    """The vision encoder with its attention pooling.

    Parameters
    ----------
    backbone
        Shapes.
    f0
        Frames that the position table is made for.
    gelu
        Which GELU is computed.
    projects
        Whether there is the layer of the retrieval vector.
    has_image_table
        Whether there is a position table for clips of one frame.
    """

    def __init__(
        self,
        backbone: Backbone,
        f0: int,
        gelu: Gelu = "tanh",
        projects: bool = False,
        has_image_table: bool = False,
    ) -> None:
        super().__init__()
        width, cells = backbone.width, backbone.grid**2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + f0 * cells, width))
        self.img_pos_embed = nn.Parameter(torch.zeros(1, 1 + cells, width)) if has_image_table else None
        self.patch_embed = PatchEmbedding(width, backbone.patch)
        self.blocks = nn.ModuleList(Block(backbone, gelu) for _ in range(backbone.depth))
        self.clip_projector = ClipProjector(backbone)
        self.vision_proj = nn.Linear(backbone.pooled, backbone.projected) if projects else None
        self._f0 = f0

    def set_positions(self, frames: int, grid: int) -> None:
        """Fit the position table to clips of ``frames`` frames of ``grid`` by ``grid`` patches. Call it once."""
        table, f0 = self.pos_embed.detach(), self._f0
        if frames == 1 and self.img_pos_embed is not None:
            table, f0 = self.img_pos_embed.detach(), 1
        self.img_pos_embed = None
        self.pos_embed = nn.Parameter(interpolate_positions(table, f0, frames, grid), requires_grad=False)

    def tokens(self, clips: torch.Tensor, blocks: int | None = None) -> torch.Tensor:
        """Turn clips ``[M,F,3,H,W]`` into tokens ``[M,1+F*g*g,D]``: the class token, then frames, rows and columns.

        Parameters
        ----------
        clips
            Normalised, in the dtype of the network.
        blocks
            Number of blocks to run; None is all of them.
        """
        count = len(clips)
        patches = self.patch_embed(clips.flatten(0, 1)).reshape(count, -1, self.cls_token.shape[-1])
        x = torch.cat([self.cls_token.expand(count, -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks[:blocks]:
            x = block(x)
        return x


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Return softmax(q kᵀ / sqrt(d)) v of each head, fused: ``[M,N,D]`` and two ``[M,K,D]`` to ``[M,N,D]``."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))  # [M,heads,N,d]
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def interpolate_positions(table: torch.Tensor, f0: int, frames: int, grid: int) -> torch.Tensor:
    """Fit a position table to other clips: linearly in time, then bicubically in space. The class token's row stays.

    A single frame gets the mean over time.

    Parameters
    ----------
    table
        float32 ``[1,1+f0*g*g,D]``.
    f0
        Frames that it is made for.
    frames, grid
        Frames, and patches along one side of each, that are wanted.

    Returns
    -------
    torch.Tensor
        float32 ``[1,1+frames*grid*grid,D]``.
    """
    width = table.shape[-1]
    cells = table[0, 1:].view(f0, -1, width)  # [f0,g*g,D]
    if frames == 1:
        cells = cells.mean(0, keepdim=True)
    elif frames != f0:
        over_time = cells.permute(1, 2, 0)  # [g*g,D,f0]
        cells = functional.interpolate(over_time, frames, mode="linear", align_corners=False).permute(2, 0, 1)
    side = round(cells.shape[1] ** 0.5)
    if side != grid:
        maps = cells.reshape(frames, side, side, width).permute(0, 3, 1, 2)  # [F,D,g,g]
        maps = functional.interpolate(maps, (grid, grid), mode="bicubic", align_corners=False)
        cells = maps.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([table[:, :1], cells.reshape(1, -1, width)], 1)


def sine_positions(width: int, grid: int, frames: int) -> torch.Tensor:
    """Return the table that training starts from, float32 ``[1,1+frames*grid*grid,width]``.

    A quarter of the channels is for time, the others for columns and rows; the class token's row is zero.
    """
    time, side = width // 4, width // 4 * 3 // 2
    t, row, column = torch.meshgrid(torch.arange(frames), torch.arange(grid), torch.arange(grid), indexing="ij")
    parts = [_sines(place.flatten(), size) for place, size in ((t, time), (column, side), (row, side))]
    table = torch.cat(parts, 1).float()
    return torch.cat([torch.zeros(1, width), table])[None]


def _sines(places: torch.Tensor, width: int) -> torch.Tensor:
    """Return sines, then cosines, of places at ``width / 2`` wavelengths, float64 ``[N,width]``."""
    half = width // 2
    angles = places.double()[:, None] / 10000 ** (torch.arange(half, dtype=torch.float64) / half)
    return torch.cat([angles.sin(), angles.cos()], 1)


class InternVideo2Model(ImageModel):
    """An encoder of clips on one device.

    Parameters
    ----------
    network
        The encoder; its position table fits the reading.
    reading
        What is taken from it.
    output, preprocessing, execution, weights_sha256
        As for every ``ImageModel``.
    projector_sha256
        Digest of the file that the attention pooling came from, if it is another one.
    """

    def __init__(
        self,
        network: InternVideo2Encoder,
        reading: Reading,
        output: OutputSpec,
        preprocessing: Preprocessing,
        execution: Execution,
        weights_sha256: str | None,
        projector_sha256: str | None = None,
    ) -> None:
        libraries: dict[str, Json] = {} if projector_sha256 is None else {"projector_sha256": projector_sha256}
        super().__init__(network, output, preprocessing, execution, libraries, weights_sha256)
        self._reading = reading

    def _embed(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised frames ``[M*F,3,size,size]`` into ``[M, *step_shape]``."""
        clips = images.view(-1, self._reading.frames, *images.shape[1:])
        return read(cast(InternVideo2Encoder, network), clips, self._reading)


def read(network: InternVideo2Encoder, clips: torch.Tensor, reading: Reading) -> torch.Tensor:
    """Turn clips ``[M,F,3,H,W]`` into what a reading takes of each, of any floating dtype."""
    tokens = network.tokens(clips, reading.blocks)
    if reading.tokens == "cls":
        return tokens[:, 0]
    if reading.tokens in ("pooled", "projected"):
        pooled: torch.Tensor = network.clip_projector(tokens)
        if reading.tokens == "pooled":
            return pooled
        assert network.vision_proj is not None  # load() sees to it
        return functional.normalize(network.vision_proj(pooled).float(), dim=-1)
    patches = tokens[:, 1:].float()
    if reading.tokens == "mean":
        return patches.mean(1)
    size = reading.map_size
    cell = reading.grid // size
    # [M,F,rows,cells of a row,columns,cells of a column,D]
    return patches.view(len(patches), reading.frames, size, cell, size, cell, -1).mean((1, 3, 5))


def load(
    build: Callable[[], tuple[InternVideo2Encoder, str | None]],
    projector: PinnedWeights | None,
    reading: Reading,
    output: OutputSpec,
    preprocessing: Preprocessing,
    execution: Execution,
) -> InternVideo2Model:
    """Build an encoder, take its pooling from another file if one is named, and fit its positions to the clips.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    ExtractorError
        If the device cannot be used.
    """
    network, sha256 = build()
    projector_sha256 = None if projector is None else _load_projector(network, projector)
    if reading.tokens == "projected" and network.vision_proj is None:
        raise WeightsError("tokens=projected needs vision_proj, which these weights lack (stage-2 files have it)")
    network.set_positions(reading.frames, reading.grid)
    return InternVideo2Model(network, reading, output, preprocessing, execution, sha256, projector_sha256)


def build_network(
    pinned: PinnedWeights, model: str, backbone: Backbone, f0: int, gelu: Gelu
) -> tuple[InternVideo2Encoder, str | None]:
    """Build an encoder as it was released and load its weights strictly.

    Returns
    -------
    network
        The encoder, on the CPU.
    sha256
        Digest of the file that the weights came from; None for random weights.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    """
    path = weights.resolve(pinned, lambda tag: hub.hugging_face_file(*_title_and_place(pinned, backbone, tag)))
    if path is None:
        return _untrained(backbone, f0, gelu, pinned.seed), None
    state = tensors.read_state_dict(path)
    return _from_state(state, weights.label(pinned, path), pinned, model, backbone, f0, gelu), weights.digest(path)


def check_files(
    pinned: PinnedWeights, projector: PinnedWeights | None, model: str, backbone: Backbone, f0: int
) -> None:
    """Check that local files fit, by the names and shapes of their tensors; their numbers are not read.

    Raises
    ------
    WeightsError
        If one does not.
    """
    if not isinstance(pinned.source, WeightsFile):
        return
    path = pinned.source.path
    shapes = tensors.read_state_dict(path, shapes_only=True)
    network = _from_state(shapes, weights.label(pinned, path), pinned, model, backbone, f0, "tanh")
    if projector is not None:
        _load_projector(network, projector, shapes_only=True)


def _from_state(
    tensors_of_file: Mapping[str, torch.Tensor],
    title: str,
    pinned: PinnedWeights,
    model: str,
    backbone: Backbone,
    f0: int,
    gelu: Gelu,
) -> InternVideo2Encoder:
    """Build an encoder over the tensors of a file, which take their places: 6B is in memory once."""
    state, left_out = encoder_of(tensors_of_file, title)
    check_fit(state, model, backbone, f0, title)
    with torch.device("meta"):
        network = InternVideo2Encoder(backbone, f0, gelu, "vision_proj.weight" in state, "img_pos_embed" in state)
    exact = {name: value.float() for name, value in state.items()}
    tensors.load_strict(network, exact, f"{title} as {pinned.model}", assign=True)
    tensors.tell_left_out(left_out, f"{title} as {pinned.model}", logger)
    return network


def _title_and_place(pinned: PinnedWeights, backbone: Backbone, tag: str) -> tuple[str, str, str]:
    release = backbone.releases[tag]
    return f"{pinned.model} {tag!r} ({release.file} of {release.repository})", release.repository, release.file


def _untrained(backbone: Backbone, f0: int, gelu: Gelu, seed: int) -> InternVideo2Encoder:
    """Build an encoder from a seed, without touching the process's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InternVideo2Encoder(backbone, f0, gelu, projects=True)
    network.pos_embed.data.copy_(sine_positions(backbone.width, backbone.grid, f0))
    return network


def _load_projector(network: InternVideo2Encoder, pinned: PinnedWeights, shapes_only: bool = False) -> str:
    """Replace the attention pooling, and the layer behind it, by those of a file; return the file's digest."""
    path = weights.resolve(pinned, Path)
    assert path is not None  # a projector is a file
    title = weights.label(pinned, path)
    state, left_out = projector_of(tensors.read_state_dict(path, shapes_only=shapes_only), title)
    title = f"{title} as projector of {pinned.model}"
    network.vision_proj = None  # the layer that belonged to the other pooling
    if (projection := state.get("vision_proj.weight")) is not None:
        network.vision_proj = nn.Linear(projection.shape[1], projection.shape[0])
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith(_OF_PROJECTOR)}
    own = {name: value.float() for name, value in state.items()}
    tensors.load_strict(network, {**kept, **own}, title, assign=True)
    tensors.tell_left_out(left_out, title, logger)
    return weights.digest(path)
