"""Gaussian Smoothing Grounding: which frames show the answer (``docs/facts/cra.md`` section 5.3, step 5).

B questions, T frames, d width of the network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HALF = 2  # the filter has 5 taps
_MIN_SIGMA = 1e-3


def gaussian_kernel(sigma: Tensor) -> Tensor:
    """Return ``[5]`` taps exp(-x^2 / (2 sigma^2)) at x = -2 … 2, scaled to sum 1; ``sigma`` is a scalar."""
    x = torch.arange(-_HALF, _HALF + 1, device=sigma.device, dtype=sigma.dtype)
    taps = torch.exp(-0.5 * (x / sigma.abs().clamp_min(_MIN_SIGMA)) ** 2)
    return taps / taps.sum()


def masked_softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Return the softmax over the last axis in float32; it is exactly 0 where not ``valid``."""
    return logits.float().masked_fill(~valid, -torch.inf).softmax(-1)


def smooth(p: Tensor, kernel: Tensor, valid: Tensor, double_softmax: bool) -> Tensor:
    """Smooth the weights of frames in time.

    Parameters
    ----------
    p
        ``[B, T]``, each row of sum 1.
    kernel
        ``[5]``; beyond the first and the last frame it meets zeros.
    valid
        ``[B, T] bool``.
    double_softmax
        Normalise by a softmax, whose input lies in [0, 1]: no weight is then more than e times another. Otherwise
        divide by the sum over valid frames.

    Returns
    -------
    w ``[B, T]``, each row of sum 1.
    """
    # Not conv1d: autocast would round its result to half precision.
    filtered = (F.pad(p, (_HALF, _HALF)).unfold(-1, 2 * _HALF + 1, 1) * kernel).sum(-1)
    if double_softmax:
        return masked_softmax(filtered, valid)
    filtered = filtered * valid
    return filtered / filtered.sum(-1, keepdim=True)


class Grounding(nn.Module):
    """Weights frames by how well they match a query, then smooths the weights in time.

    Parameters
    ----------
    dim
        d.
    gaussian
        Smooth the weights.
    double_softmax
        See ``smooth``.
    gated
        Score a frame as published, by an MLP of norm(v * tanh(v . q)). The norm undoes the size of the gate and leaves
        only its sign, so that hardly any gradient reaches the query. Otherwise the score is v . q / sqrt(d),
        cross-modal attention.
    """

    def __init__(self, dim: int, gaussian: bool = True, double_softmax: bool = False, gated: bool = False) -> None:
        super().__init__()
        self.video = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), *([nn.GELU()] if gated else []))
        self.query = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), *([nn.GELU()] if gated else []))
        self.score = (
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1))
            if gated
            else None
        )
        self.sigma = nn.Parameter(torch.ones(())) if gaussian else None
        self.double_softmax = double_softmax

    def forward(self, frames: Tensor, query: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of the frames before and after smoothing.

        Parameters
        ----------
        frames
            x_bar ``[B, T, d]``.
        query
            ``[B, d]``.
        valid
            ``[B, T] bool``.

        Returns
        -------
        p and w, ``[B, T] float32`` each; every row sums to 1.
        """
        v, q = self.video(frames), self.query(query)  # [B, T, d], [B, d]
        match = v @ q[:, :, None]  # [B, T, 1]
        if self.score is None:
            logits = match / math.sqrt(v.shape[-1])
        else:
            logits = self.score(v * torch.tanh(match))  # the dot product is not scaled, as published
        p = masked_softmax(logits.squeeze(-1), valid)  # [B, T]
        if self.sigma is None:
            return p, p
        return p, smooth(p, gaussian_kernel(self.sigma.float()), valid, self.double_softmax)


class FrameAttention(nn.Module):
    """Weights frames without a query, as Temp[CLIP] does: softmax_t of Linear - Tanh - Linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, dim // 2), nn.Tanh(), nn.Linear(dim // 2, 1))

    def forward(self, frames: Tensor, valid: Tensor) -> Tensor:
        """Weight frames ``[B, T, d]``; return ``[B, T] float32``, each row of sum 1."""
        return masked_softmax(self.score(frames).squeeze(-1), valid)


def pool(frames: Tensor, weights: Tensor) -> Tensor:
    """Return sum_t w_t x_t, ``[B, d]``, of frames ``[B, T, d]`` and weights ``[B, T]``."""
    return (weights[:, None].to(frames.dtype) @ frames).squeeze(1)
