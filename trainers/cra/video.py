"""Frames in context: the video embedding and a pre-norm transformer (``docs/facts/cra.md`` sections 5.1 and 5.3).

B videos, T frames, F numbers of a frame's feature, d width of the network, h attention heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def positions(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Return sinusoids ``[length, dim]``: sines in even columns, cosines in odd ones; ``dim`` is even."""
    rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10_000.0) / dim))
    angle = torch.arange(length, device=device)[:, None] * rate  # [length, dim / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class UnbiasedLayerNorm(nn.Module):
    """gamma * (x - mean) / (std + eps) + beta, with the sample's standard deviation, as in the published code."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., d]`` over its last axis."""
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        normed: Tensor = self.weight * (x - mean) / (std + self.eps) + self.bias
        return normed


class VideoEmbedding(nn.Module):
    """Linear map, GELU and norm of each frame, plus its place in time."""

    def __init__(self, feature_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, video: Tensor) -> Tensor:
        """Embed frame features ``[B, T, F]`` as ``[B, T, d]``."""
        x = self.norm(F.gelu(self.linear(video)))  # [B, T, d]
        embedded: Tensor = self.dropout(x + positions(x.shape[1], x.shape[2], x.device))
        return embedded


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d / h)) V, with linear maps for Q, K, V and the output."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, valid: Tensor, prior: Tensor | None = None) -> Tensor:
        """Attend from every step to every valid step.

        Parameters
        ----------
        x
            ``[B, T, d]``.
        valid
            ``[B, T] bool``, steps that may be attended to; at least one per row.
        prior
            ``[B, T]``, at least 0. Attention weights are multiplied by it and normalised again.

        Returns
        -------
        ``[B, T, d]``.
        """
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )  # [B, h, T, d / h] each
        mask = valid
        if prior is not None:  # multiplying the weights is adding to the logits
            mask = (prior + 1e-10).log().masked_fill(~valid, -torch.inf).to(q.dtype)
        dropout = self.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, mask[:, None, None], dropout)  # [B, h, T, d / h]
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))  # [B, T, d]
        return mixed


class DecoderLayer(nn.Module):
    """x + MHA(norm x), then x + FFN(norm x). The FFN is as wide as the network."""

    def __init__(self, dim: int, heads: int, dropout: float, attention_dropout: float, norm: type[nn.Module]) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = norm(dim), norm(dim)
        self.attention = SelfAttention(dim, heads, attention_dropout)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map ``[B, T, d]``, of which steps are ``valid [B, T] bool``, to ``[B, T, d]``."""
        x = x + self.dropout(self.attention(self.attention_norm(x), valid))
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x


class Decoder(nn.Module):
    """A stack of ``DecoderLayer`` and a last norm.

    Parameters
    ----------
    dim, heads, layers
        Width, attention heads and number of layers.
    dropout, attention_dropout
        See ``DecoderLayer``.
    norm
        The layer normalisation.
    cloned
        Start all layers with equal weights, and in each the query, key, value and output maps, as the published code
        does (``docs/facts/cra.md`` section 11.2). They are parameters of their own and part in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        dropout: float,
        attention_dropout: float,
        norm: type[nn.Module] = nn.LayerNorm,
        cloned: bool = False,
    ) -> None:
        super().__init__()
        stack = [DecoderLayer(dim, heads, dropout, attention_dropout, norm) for _ in range(layers)]
        if cloned:
            first = stack[0].attention
            for linear in (first.key, first.value, first.out):
                linear.load_state_dict(first.query.state_dict())
            for layer in stack[1:]:
                layer.load_state_dict(stack[0].state_dict())
        self.layers = nn.ModuleList(stack)
        self.norm = norm(dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map ``[B, T, d]``, of which steps are ``valid [B, T] bool``, to x_bar ``[B, T, d]``."""
        for layer in self.layers:
            x = layer(x, valid)
        normed: Tensor = self.norm(x)
        return normed
