"""The network behind ``beats``, written from its formulas, and its strictly loaded weights.

Paper: Sanyuan Chen, Yu Wu, Chengyi Wang, Shujie Liu, Daniel Tompkins, Zhuo Chen, Furu Wei, "BEATs: Audio Pre-Training
with Acoustic Tokenizers", ICML 2023, https://arxiv.org/abs/2212.09058. The gate of the relative positions is WavLM's:
Sanyuan Chen, Chengyi Wang, Zhengyang Chen et al., "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack
Speech Processing", 2021, https://arxiv.org/abs/2110.13900; the residuals are those of Hongyu Wang, Shuming Ma, Li Dong
et al., "DeepNet: Scaling Transformers to 1,000 Layers", 2022, https://arxiv.org/abs/2203.00555.

Weights: https://github.com/microsoft/unilm/tree/master/beats, MIT licence. A checkpoint is ``{cfg, model}``; one that
was fine-tuned has a ``predictor`` and a ``label_dict``, too.

Formulas, for tokens x of width D, B = 12 blocks and h heads of d channels:

- x₀ = LN(p), a patch of 16 frames and 16 bands embedded without bias in 512 channels, projected to D;
- x₁ = LN(x₀ + GELU(conv(x₀))), a grouped convolution over 128 neighbours, whose kernel has a norm per place;
- each block: y = LN(α x + A(x)), then LN(α y + W₂ GELU(W₁ y)), with α = (2B)^(1/4);
- A adds a bias to the scores of queries qᵢ and keys kⱼ: rᵢⱼ ρ(j - i), with a table ρ of 320 distances per head that all
  blocks share, and a gate r = a (b s - 1) + 2, where a and b are sigmoids of sums of four outputs of a layer over qᵢ
  each, and s is learnt per head.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from extractors import tensors, weights
from extractors.base import Execution, OutputSpec, WeightsError
from extractors.beats_models import Backbone, check_cfg
from extractors.tensors import LeftOut
from extractors.torch_model import TorchModel, dtype_of
from extractors.weights import PinnedWeights, WeightsFile

logger = logging.getLogger("reelstore.extractors.beats")

Form = Literal["pooled", "map"]
State = dict[str, torch.Tensor]

_TOKENS = 48  # of a window of one second
_GATES = 4  # outputs that are summed to one of the two gates
_TABLE = "relative_attention_bias.weight"
_KERNEL = "encoder.pos_conv.0."
_LEFT_OUT = {"predictor": "classifies"}
_TOKENIZER = "quantize."


class SelfAttention(nn.Module):
    """Attention with a gated bias of relative positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // heads, 2 * _GATES)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Turn tokens ``[M,N,D]`` and the biases of their distances ``[heads,N,N]`` into ``[M,N,D]``."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        gates = self.grep_linear(q).unflatten(-1, (2, _GATES)).sum(-1).sigmoid()  # [M,N,heads,2]
        q, k, v, gates = (each.transpose(1, 2) for each in (q, k, v, gates))  # [M,heads,N,d], [M,heads,N,2]
        gate = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1.0) + 2.0
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=gate * positions)
        return cast(torch.Tensor, self.out_proj(attended.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """LN(α x + A(x)), then LN(α y + M(y))."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.self_attn = SelfAttention(backbone.width, backbone.heads)
        self.self_attn_layer_norm = nn.LayerNorm(backbone.width)
        self.fc1 = nn.Linear(backbone.width, backbone.hidden)
        self.fc2 = nn.Linear(backbone.hidden, backbone.width)
        self.final_layer_norm = nn.LayerNorm(backbone.width)
        self._alpha = (2 * backbone.depth) ** 0.25

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,N,D]`` and the biases ``[heads,N,N]`` into ``[M,N,D]``."""
        x = self.self_attn_layer_norm(torch.add(self.self_attn(x, positions), x, alpha=self._alpha))
        branch = self.fc2(functional.gelu(self.fc1(x)))
        return cast(torch.Tensor, self.final_layer_norm(torch.add(branch, x, alpha=self._alpha)))


class Encoder(nn.Module):
    """The blocks, and what tells them positions."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.pos_conv = nn.Conv1d(
            backbone.width, backbone.width, backbone.kernel, padding=backbone.kernel // 2, groups=backbone.groups
        )
        self.layer_norm = nn.LayerNorm(backbone.width)
        self.relative_attention_bias = nn.Embedding(backbone.buckets, backbone.heads)
        self.layers = nn.ModuleList(Block(backbone) for _ in range(backbone.depth))
        self._farthest = backbone.farthest
        rows = distance_rows(_TOKENS, backbone.buckets, backbone.farthest)
        self.rows = nn.Buffer(rows, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,N,D]`` into ``[M,N,D]``."""
        # A kernel of an even size gives one place too many, which is the last.
        told = functional.gelu(self.pos_conv(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        x = self.layer_norm(x + told)
        positions = self.positions(x.shape[1])
        for layer in self.layers:
            x = layer(x, positions)
        return x

    def positions(self, tokens: int) -> torch.Tensor:
        """Return the bias of every pair of tokens before it is gated, ``[heads,N,N]``."""
        table = self.relative_attention_bias
        rows = self.rows[:tokens, :tokens]  # a distance has one row, whatever the number of tokens
        if tokens > len(rows):
            rows = distance_rows(tokens, table.num_embeddings, self._farthest).to(table.weight.device)
        return cast(torch.Tensor, table(rows).permute(2, 0, 1))


def distance_rows(tokens: int, buckets: int, farthest: int) -> torch.Tensor:
    """Return the row of the table for the distance from token i to token j, int64 ``[N,N]``.

    One half of the rows is for what comes before, the other for what comes after. In each half, half of the rows is for
    one distance each; the others are for ranges that widen with the logarithm, up to ``farthest``.
    """
    places = torch.arange(tokens, device="cpu")  # never on the meta device
    distance = places[None, :] - places[:, None]
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    growth = torch.log(size.float() / exact) / math.log(farthest / exact) * (half - exact)
    far = (exact + growth.clamp(min=0).long()).clamp(max=half - 1)
    return (distance > 0).long() * half + torch.where(size < exact, size, far)


class BeatsEncoder(nn.Module):
    """BEATs without a classifier: patches of log-mel energies to tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, backbone.embedded, backbone.patch, backbone.patch, bias=False)
        self.layer_norm = nn.LayerNorm(backbone.embedded)
        self.post_extract_proj = nn.Linear(backbone.embedded, backbone.width)
        self.encoder = Encoder(backbone)

    def forward(self, energies: torch.Tensor) -> torch.Tensor:
        """Turn ``[M,frames,bands]`` into ``[M,times,bands/16,D]``: a token per patch, times ascending, bands too."""
        patches = self.patch_embedding(energies[:, None])  # [M,512,times,bands/16]
        x = self.post_extract_proj(self.layer_norm(patches.flatten(2).transpose(1, 2)))
        return cast(torch.Tensor, self.encoder(x).unflatten(1, patches.shape[2:]))


class BeatsModel(TorchModel):
    """BEATs on one device.

    Parameters
    ----------
    network
        The encoder.
    form
        ``pooled``, the mean of the tokens, or ``map``.
    output, execution, weights_sha256
        As for every ``TorchModel``.
    """

    def __init__(
        self, network: BeatsEncoder, form: Form, output: OutputSpec, execution: Execution, weights_sha256: str | None
    ) -> None:
        # numpy computes the energies.
        super().__init__(network, output, execution, {"numpy": np.__version__}, weights_sha256)
        self._form = form

    def _features(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Turn energies ``float32 [M,frames,bands]`` into ``[M,D]`` or ``[M,times,bands/16,D]``."""
        tokens: torch.Tensor = network(batch.to(dtype_of(network)))
        return tokens.float().mean((1, 2)) if self._form == "pooled" else tokens


def load(pinned: PinnedWeights, backbone: Backbone, form: Form, output: OutputSpec, execution: Execution) -> BeatsModel:
    """Build an encoder and load its weights.

    Raises
    ------
    WeightsError
        If the weights cannot be read or do not fit.
    ExtractorError
        If the device cannot be used.
    """
    network, sha256 = build_network(pinned, backbone)
    return BeatsModel(network, form, output, execution, sha256)


def build_network(pinned: PinnedWeights, backbone: Backbone) -> tuple[BeatsEncoder, str | None]:
    """Build an encoder and load its weights strictly.

    Returns
    -------
    network
        The encoder, on the CPU.
    sha256
        Digest of the file that the weights came from; None for random weights.

    Raises
    ------
    WeightsError
        If the weights cannot be read or do not fit.
    """
    path = weights.resolve(pinned, Path)  # there are no tags
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(pinned.seed)
            return BeatsEncoder(backbone), None
    state, beside = tensors.read_checkpoint(path)
    return from_checkpoint(state, beside, backbone, f"weights file {path} as {pinned.model}"), weights.digest(path)


def check_file(pinned: PinnedWeights, backbone: Backbone) -> None:
    """Check that a file fits, by its ``cfg`` and the names and shapes of its tensors; their numbers are not read.

    Raises
    ------
    WeightsError
        If it does not.
    """
    if isinstance(pinned.source, WeightsFile):
        path = pinned.source.path
        state, beside = tensors.read_checkpoint(path, shapes_only=True)
        from_checkpoint(state, beside, backbone, f"weights file {path} as {pinned.model}")


def from_checkpoint(
    state: Mapping[str, torch.Tensor], beside: Mapping[str, Any], backbone: Backbone, title: str
) -> BeatsEncoder:
    """Build an encoder over the tensors of a checkpoint.

    Parameters
    ----------
    state, beside
        Its tensors, and the ``cfg`` that lies beside them. Without one, the encoder has the rules of the published.
    backbone
        Shapes.
    title
        Names the file in messages.

    Raises
    ------
    WeightsError
        If they do not fit; the message says what differs.
    """
    if any(name.startswith(_TOKENIZER) for name in state):
        raise WeightsError(f"{title} does not fit: it is a tokenizer of BEATs, not a model")
    cfg = beside.get("cfg")
    if isinstance(cfg, Mapping):
        check_cfg(cfg, backbone, title)
    elif cfg is not None:
        raise WeightsError(f"{title} is not known to be this encoder: its cfg is {type(cfg).__name__}, not a dict")
    with torch.device("meta"):
        network = BeatsEncoder(backbone)
    kept, left_out = _select(state)
    if (table := kept.get(_table_of(0))) is not None:  # files without copies of shared tensors hold it once
        kept = {**{_table_of(layer): table for layer in range(backbone.depth)}, **kept}
    tensors.check_fit(_published(network.state_dict(), backbone), kept, title)
    network.load_state_dict({name: value.float() for name, value in _own(kept, title).items()}, assign=True)
    tensors.tell_left_out(left_out, title, logger)
    return network


def _select(state: Mapping[str, torch.Tensor]) -> tuple[State, tuple[LeftOut, ...]]:
    """Return the tensors of the encoder, under their published names, and what is left out."""
    kept: State = {}
    counts: Counter[str] = Counter()
    for name, value in state.items():
        group = name.partition(".")[0]
        if group in _LEFT_OUT:
            counts[group] += 1
        else:
            # torch's newer weight norm calls the two parts of a kernel so.
            name = name.replace("parametrizations.weight.original0", "weight_g")
            kept[name.replace("parametrizations.weight.original1", "weight_v")] = value
    return kept, tuple(LeftOut(group, count, _LEFT_OUT[group]) for group, count in counts.items())


def _table_of(layer: int) -> str:
    return f"encoder.layers.{layer}.self_attn.{_TABLE}"


def _published(own: Mapping[str, torch.Tensor], backbone: Backbone) -> State:
    """Return our tensors under their published names and in their published shapes; the numbers mean nothing."""
    names = {
        name: value for name, value in own.items() if not name.startswith(("encoder.pos_conv.", f"encoder.{_TABLE}"))
    }
    kernel = own["encoder.pos_conv.weight"]
    names[f"{_KERNEL}bias"] = own["encoder.pos_conv.bias"]
    names[f"{_KERNEL}weight_g"] = kernel.new_empty(1, 1, kernel.shape[2])
    names[f"{_KERNEL}weight_v"] = kernel
    for layer in range(backbone.depth):
        names[_table_of(layer)] = own[f"encoder.{_TABLE}"]
    return names


def _own(published: State, title: str) -> State:
    """Return published tensors under our names: the kernel with its norm, and the one table of distances."""
    own: State = {}
    first = published[_table_of(0)]
    for name, value in published.items():
        if name.endswith(_TABLE):
            if not value.is_meta and not torch.equal(value, first):
                raise WeightsError(f"{title} does not fit: {name} is not that of the first layer, which all share")
        elif not name.startswith(_KERNEL):
            own[name] = value
    direction = published[f"{_KERNEL}weight_v"].double()
    norms = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    own["encoder.pos_conv.weight"] = published[f"{_KERNEL}weight_g"].double() * direction / norms
    own["encoder.pos_conv.bias"] = published[f"{_KERNEL}bias"]
    own[f"encoder.{_TABLE}"] = first
    return own
