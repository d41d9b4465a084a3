"""Gaussian Smoothing Grounding: which frames show the answer (facts/cra.md section 5.3, step 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HALF = 2  # the filter has 5 taps
_MIN_SIGMA = 1e-3


def gaussian_kernel(sigma: Tensor) -> Tensor:
    """``[5]`` taps exp(-x^2 / (2 sigma^2)) at x = -2 … 2, of sum 1; ``sigma`` is a scalar."""
    x = torch.arange(-_HALF, _HALF + 1, device=sigma.device, dtype=sigma.dtype)
    taps = torch.exp(-0.5 * (x / sigma.abs().clamp_min(_MIN_SIGMA)) ** 2)
    return taps / taps.sum()


def masked_softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the last axis; exactly 0 where not ``valid``, in float32."""
    return logits.float().masked_fill(~valid, -torch.inf).softmax(-1)


def smooth(p: Tensor, kernel: Tensor, valid: Tensor, double_softmax: bool) -> Tensor:
    """w from p, both ``[B, T]`` of sum 1: filtered (zeros beyond the ends), then normalised over ``valid`` frames.

    ``double_softmax`` normalises by a softmax, whose input is within [0, 1]: no weight is more than e times another.
    """
    # Not conv1d: under autocast that would round the weights to half precision.
    filtered = (F.pad(p, (_HALF, _HALF)).unfold(-1, 2 * _HALF + 1, 1) * kernel).sum(-1)
    if double_softmax:
        return masked_softmax(filtered, valid)
    filtered = filtered * valid
    return filtered / filtered.sum(-1, keepdim=True)


class Grounding(nn.Module):
    """Weighs frames by their match with a query, then smooths the weights in time.

    Parameters
    ----------
    gaussian : with the filter.
    double_softmax : see :func:`smooth`.
    gated : the published score, an MLP of norm(v * tanh(v . q)). The norm undoes the size of the gate and leaves its
        sign, so that hardly a gradient reaches the query. Otherwise v . q / sqrt(d), cross-modal attention.
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
        """Weights before and after smoothing.

        Parameters
        ----------
        frames : x_bar ``[B, T, d]``.
        query : ``[B, d]``.
        valid : ``[B, T] bool``.

        Returns
        -------
        p, w : ``[B, T] float32``, each of sum 1.
        """
        v, q = self.video(frames), self.query(query)
        match = v @ q[:, :, None]  # [B, T, 1]
        if self.score is None:
            logits = match / math.sqrt(v.shape[-1])
        else:
            logits = self.score(v * torch.tanh(match))  # of an unscaled dot product, as published
        p = masked_softmax(logits.squeeze(-1), valid)
        if self.sigma is None:
            return p, p
        return p, smooth(p, gaussian_kernel(self.sigma.float()), valid, self.double_softmax)


class FrameAttention(nn.Module):
    """Temp[CLIP]'s weights: softmax_t of Linear - Tanh - Linear, without a query."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, dim // 2), nn.Tanh(), nn.Linear(dim // 2, 1))

    def forward(self, frames: Tensor, valid: Tensor) -> Tensor:
        """``[B, T, d]`` to ``[B, T] float32`` of sum 1."""
        return masked_softmax(self.score(frames).squeeze(-1), valid)


def pool(frames: Tensor, weights: Tensor) -> Tensor:
    """sum_t w_t x_t: ``[B, T, d]`` and ``[B, T]`` to ``[B, d]``."""
    return (weights[:, None].to(frames.dtype) @ frames).squeeze(1)
