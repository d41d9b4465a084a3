"""Temp[CLIP], the baseline that CRA builds on, with post-hoc or Gaussian grounding.

"Can I Trust Your Answer? Visually Grounded Video Question Answering", Xiao et al., CVPR 2024, arXiv:2309.01327;
``docs/facts/cra.md`` section 5.2.

B questions, K candidates of each, T frames, F numbers of a frame's feature, d width of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.cra.config import ModelConfig
from trainers.cra.grounding import FrameAttention, pool
from trainers.cra.outputs import Grounded, query_of
from trainers.cra.video import SelfAttention, positions

# Names and values of the published settings.
_SIGMA = 9.0
_GAMMA = 1.0
_MIN_WIDTH = 0.01


class PostNormBlock(nn.Module):
    """A post-norm transformer layer: norm(x + MHA x), then norm(x + FFN x)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-12)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, valid: Tensor, prior: Tensor | None = None) -> Tensor:
        """Map ``[B, T, d]`` to ``[B, T, d]``; ``valid`` and ``prior`` are those of ``SelfAttention``."""
        x = self.attention_norm(x + self.attention(x, valid, prior))
        normed: Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        return normed


def gaussian_weights(centre: Tensor, width: Tensor, valid: Tensor) -> Tensor:
    """Weight the valid frames by a Gaussian over time whose largest weight is 1.

    Parameters
    ----------
    centre
        ``[B]``, as a fraction of the video: its first valid frame is at 0, the last at 1.
    width
        ``[B]``, as a fraction of the video.
    valid
        ``[B, T] bool``.

    Returns
    -------
    ``[B, T]``, 0 where a frame is not valid.
    """
    place = (valid.cumsum(1) - 1).clamp_min(0)
    t = place / place.amax(1, keepdim=True).clamp_min(1)  # [B, T] in 0 … 1
    s = width.clamp_min(_MIN_WIDTH)[:, None] / _SIGMA  # [B, 1]
    bell = torch.exp(-0.5 * ((t - centre[:, None]) / s) ** 2) * valid
    # A narrow bell between two frames must not vanish.
    return bell / bell.amax(1, keepdim=True).clamp_min(torch.finfo(bell.dtype).tiny)


def gaussian_interval(centre: Tensor, width: Tensor) -> Tensor:
    """Return the span of a Gaussian of centre and width ``[B]``, as fractions of the video: ``[B, 2]`` in 0 … 1."""
    half = _GAMMA * width / _SIGMA
    return torch.stack([(centre - half).clamp_min(0), (centre + half).clamp_max(1)], dim=1)


class TempClip(nn.Module):
    """A transformer over frames, attention pooling, and a dot product with the candidates.

    Parameters
    ----------
    config
        Width, layers and dropout, and how spans are found.
    text
        Maps candidates to ``[B, K, d]``.
    feature_dim
        F.
    """

    def __init__(self, config: ModelConfig, text: nn.Module, feature_dim: int) -> None:
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.video_linear = nn.Linear(feature_dim, dim)
        self.video_norm = nn.LayerNorm(dim, eps=1e-12)
        self.embedding_norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(PostNormBlock(dim, config.heads, dropout) for _ in range(config.layers))
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
        """Ground and answer; see ``trainers.cra.model.Cra.forward``."""
        texts = self.text(candidates)  # [B, K, d]
        x = self.video_norm(F.gelu(self.video_linear(video)))  # [B, T, d]
        x = self.dropout(self.embedding_norm(x + positions(x.shape[1], x.shape[2], x.device)))
        prior = interval = None
        if self.proposal is not None:
            query = query_of(texts, exists, right)  # [B, d]
            centre, width = self._propose(x, valid, query)
            prior = gaussian_weights(centre, width, valid)  # [B, T]
            interval = gaussian_interval(centre, width)  # [B, 2]
        frames = self._transform(x, valid, prior)  # [B, T, d]
        weights = self.frame_attention(frames, valid)  # [B, T]
        z = self.out(pool(frames, weights))  # [B, d]
        return Grounded.of(texts, exists, z, weights, weights, interval)

    def _transform(self, x: Tensor, valid: Tensor, prior: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, valid, prior)
        return x

    def _propose(self, x: Tensor, valid: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Predict centre and width, ``[B]`` in (0, 1) each, from the frames and the query together."""
        assert self.proposal is not None
        valid = torch.cat([valid, torch.ones_like(valid[:, :1])], dim=1)  # [B, T + 1]
        joint = self._transform(torch.cat([x, query[:, None].to(x.dtype)], dim=1), valid)  # [B, T + 1, d]
        both = self.proposal["head"](pool(joint, self.proposal["attention"](joint, valid))).float()  # [B, 2]
        return both[:, 0], both[:, 1]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
