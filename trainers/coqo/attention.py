"""Multi-head attention, and the sinusoids that tell it when and where.

B videos, T steps, d width of the network, h attention heads, Q queries and K keys of one attention.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Steps are 1 s apart, so they cannot show a period below 2 s; videos last a minute.
_TIME_PERIODS = (2.0, 240.0)
# In widths of the frame: from two cells of a 7x7 map to four frames.
_SPACE_PERIODS = (2 / 7, 4.0)


class Steps(NamedTuple):
    """One modality of a batch of videos.

    Attributes
    ----------
    features
        ``[B, T, *step]``, floating-point.
    valid
        ``[B, T] bool``, false for padding and where there is no sound.
    times
        ``[B, T]``, in seconds.
    """

    features: Tensor
    valid: Tensor
    times: Tensor


class Attention(nn.Module):
    """Scaled dot-product attention with ``heads`` heads."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, query: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Attend from queries to a memory.

        Parameters
        ----------
        query
            ``[B, Q, d]``.
        memory
            ``[B, K, d]``.
        valid
            ``[B, K] bool``, at least one true per row; None if all of the memory is valid.

        Returns
        -------
        ``[B, Q, d]``.
        """
        q, k, v = self._split(self.query(query)), self._split(self.key(memory)), self._split(self.value(memory))
        mask = None if valid is None else valid[:, None, None, :]
        # [B, h, Q, d / h]
        mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def with_weights(self, query: Tensor, memory: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` returns, and the weights ``[B, Q, K]``, averaged over the heads."""
        q, k, v = self._split(self.query(query)), self._split(self.key(memory)), self._split(self.value(memory))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # [B, h, Q, K]
        weights = scores.masked_fill(~valid[:, None, None, :], -math.inf).softmax(-1)
        mixed = F.dropout(weights, self.dropout, self.training) @ v
        return self.out(mixed.transpose(1, 2).flatten(2)), weights.mean(1)

    def _split(self, x: Tensor) -> Tensor:
        """Split ``[B, K, d]`` into heads: ``[B, h, K, d / h]``."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def feed_forward(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """Make the FFN of a transformer layer."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))


def time_encoding(times: Tensor, dim: int) -> Tensor:
    """Return sinusoids of times in seconds: ``[..., dim] float32`` of ``[...]``."""
    return _sinusoids(times, dim, _TIME_PERIODS)


def grid_encoding(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Return sinusoids of the centres of a map's cells, ``[height, width, dim] float32``: of rows, then of columns."""
    rows = (torch.arange(height, device=device) + 0.5) / height
    columns = (torch.arange(width, device=device) + 0.5) / width
    row_code = _sinusoids(rows, dim // 2, _SPACE_PERIODS)[:, None].expand(-1, width, -1)
    column_code = _sinusoids(columns, dim // 2, _SPACE_PERIODS)[None].expand(height, -1, -1)
    return torch.cat([row_code, column_code], dim=-1)


def _sinusoids(positions: Tensor, dim: int, periods: tuple[float, float]) -> Tensor:
    shortest, longest = map(math.log, periods)
    period = torch.linspace(shortest, longest, dim // 2, device=positions.device).exp()
    angles = positions.float()[..., None] * (2 * math.pi / period)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def nonempty(steps: Steps) -> Steps:
    """Return steps that attention can read: zeros where nothing is valid, and one zero step where no step is.

    A video without sound is thus read as silence, not as NaN, and the length of its padding changes nothing.
    """
    if not steps.valid.shape[1]:  # no video of the batch has a step
        features = steps.features.new_zeros(len(steps.valid), 1, *steps.features.shape[2:])
        steps = Steps(features, steps.valid.new_zeros(len(features), 1), steps.times.new_zeros(len(features), 1))
    valid = steps.valid
    mask = valid.reshape(*valid.shape, *[1] * (steps.features.dim() - 2))
    first = torch.zeros_like(valid)
    first[:, 0] = ~valid.any(1)
    return Steps(steps.features.masked_fill(~mask, 0), valid | first, steps.times.masked_fill(~valid, 0))


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Return the mean ``[..., d]`` of ``x [..., T, d]`` over the steps that are ``valid [..., T]``."""
    weights = valid.to(x.dtype)
    return (weights[..., None, :] @ x).squeeze(-2) / weights.sum(-1, keepdim=True).clamp(min=1)
