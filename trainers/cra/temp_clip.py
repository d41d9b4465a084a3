"""Temp[CLIP], the baseline that CRA builds on, with post-hoc or Gaussian grounding (facts/cra.md section 5.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.cra.config import ModelConfig
from trainers.cra.grounding import FrameAttention, pool
from trainers.cra.outputs import Grounded, query_of
from trainers.cra.video import SelfAttention, positions

_SIGMA = 9.0
_GAMMA = 1.0
_MIN_WIDTH = 0.01


class _Block(nn.Module):
    """Post-norm: norm(x + MHA x), then norm(x + FFN x)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-12)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, valid: Tensor, prior: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.attention(x, valid, prior))
        normed: Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        return normed


def gaussian_weights(centre: Tensor, width: Tensor, valid: Tensor) -> Tensor:
    """``[B, T]``: a bell of height 1 over the frames that are ``valid [B, T]``, the first at 0 and the last at 1.

    ``centre`` and ``width`` ``[B]`` are fractions of the video.
    """
    place = (valid.cumsum(1) - 1).clamp_min(0)
    t = place / place.amax(1, keepdim=True).clamp_min(1)
    s = width.clamp_min(_MIN_WIDTH)[:, None] / _SIGMA
    bell = torch.exp(-0.5 * ((t - centre[:, None]) / s) ** 2) * valid
    # A narrow bell between two frames must not vanish.
    return bell / bell.amax(1, keepdim=True).clamp_min(torch.finfo(bell.dtype).tiny)


class TempClip(nn.Module):
    """A transformer over frames, attention pooling, and a dot product with the candidates.

    Parameters
    ----------
    text : candidates to ``[B, K, d]``.
    feature_dim : F.
    """

    def __init__(self, config: ModelConfig, text: nn.Module, feature_dim: int) -> None:
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.video_linear = nn.Linear(feature_dim, dim)
        self.video_norm = nn.LayerNorm(dim, eps=1e-12)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, config.heads, dropout) for _ in range(config.layers))
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, dim))
        self.apply(_initialise)
        self.text = text
        self.frame_attention = FrameAttention(dim)
        self.proposal = (
            nn.ModuleDict(
                {
                    "attention": FrameAttention(dim),
                    "head": nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, 2), nn.Sigmoid()),
                }
            )
            if config.proposal == "gaussian"
            else None
        )

    def forward(
        self, video: Tensor, valid: Tensor, candidates: Tensor, exists: Tensor, right: Tensor | None = None
    ) -> Grounded:
        """As :meth:`trainers.cra.model.Cra.forward`."""
        texts = self.text(candidates)
        x = self.video_norm(F.gelu(self.video_linear(video)))
        x = self.dropout(self.embedding_norm(x + positions(x.shape[1], x.shape[2], x.device)))
        prior = interval = None
        if self.proposal is not None:
            query = query_of(texts, exists, right)
            centre, width = self._propose(x, valid, query)
            prior = gaussian_weights(centre, width, valid)
            half = _GAMMA * width / _SIGMA
            interval = torch.stack([(centre - half).clamp_min(0), (centre + half).clamp_max(1)], dim=1)
        frames = self._transform(x, valid, prior)
        weights = self.frame_attention(frames, valid)
        z = self.out(pool(frames, weights))
        return Grounded.of(texts, exists, z, weights, weights, interval)

    def _transform(self, x: Tensor, valid: Tensor, prior: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, valid, prior)
        return x

    def _propose(self, x: Tensor, valid: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and width ``[B]`` in (0, 1), from frames and query seen together."""
        assert self.proposal is not None
        valid = torch.cat([valid, torch.ones_like(valid[:, :1])], dim=1)
        seen = self._transform(torch.cat([x, query[:, None].to(x.dtype)], dim=1), valid)
        both = self.proposal["head"](pool(seen, self.proposal["attention"](seen, valid))).float()
        return both[:, 0], both[:, 1]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
