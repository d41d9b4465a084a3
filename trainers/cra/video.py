"""Frames in context: the video embedding and a pre-norm transformer (facts/cra.md sections 5.1 and 5.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def positions(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """``[length, dim]`` sinusoids: sine in even, cosine in odd columns; dim is even."""
    rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10_000.0) / dim))
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class UnbiasedLayerNorm(nn.Module):
    """gamma * (x - mean) / (std + eps) + beta, with the sample's standard deviation (the published code's own)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d]`` to ``[..., d]``."""
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        normed: Tensor = self.weight * (x - mean) / (std + self.eps) + self.bias
        return normed


class VideoEmbedding(nn.Module):
    """Frame features ``[B, T, F]`` to ``[B, T, d]``: linear, GELU, norm, plus the place in time."""

    def __init__(self, feature_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, video: Tensor) -> Tensor:
        x = self.norm(F.gelu(self.linear(video)))
        embedded: Tensor = self.dropout(x + positions(x.shape[1], x.shape[2], x.device))
        return embedded


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d / heads)) V, with four linear maps."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, valid: Tensor, prior: Tensor | None = None) -> Tensor:
        """``[B, T, d]`` to the same.

        Parameters
        ----------
        valid : ``[B, T] bool``, what may be attended to; at least one step each.
        prior : ``[B, T]``, at least 0; the attention is multiplied by it and made to sum to 1 again.
        """
        q, k, v = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        mask = valid
        if prior is not None:  # a factor of the weights is a summand of the logits
            mask = (prior + 1e-10).log().masked_fill(~valid, -torch.inf).to(q.dtype)
        dropout = self.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, mask[:, None, None], dropout)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed


class DecoderLayer(nn.Module):
    """x + MHA(norm x), then x + FFN(norm x); the FFN is as wide as the model."""

    def __init__(self, dim: int, heads: int, dropout: float, attention_dropout: float, norm: type[nn.Module]) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = norm(dim), norm(dim)
        self.attention = SelfAttention(dim, heads, attention_dropout)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), valid))
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return x


class Decoder(nn.Module):
    """A stack of :class:`DecoderLayer` and a last norm: ``[B, T, d]`` to x_bar ``[B, T, d]``."""

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        dropout: float,
        attention_dropout: float,
        norm: type[nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, dropout, attention_dropout, norm) for _ in range(layers))
        self.norm = norm(dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, valid)
        normed: Tensor = self.norm(x)
        return normed
