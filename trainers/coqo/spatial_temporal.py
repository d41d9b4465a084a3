"""Divided attention for video: within each frame, then over time (``docs/facts/coqo.md`` section 3.5).

B videos, N questions of each, m learnable tokens, T frames, H x W cells of a map, d width of the network; G = B guides
under reading (A), B * N under (B).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainers.coqo.attention import grid_encoding
from trainers.coqo.config import ModelConfig
from trainers.coqo.qgt import QGT, Guide


class SpatialQGT(nn.Module):
    """Guides the cells of each frame and averages them.

    A frame costs (HW)^2 + HW (N + m) attention products instead of the (T HW)^2 / T of joint attention. The
    activations of the layers fill the memory, not the maps. Frames therefore go through in chunks, each recomputed in
    the backward pass: the input and the mean of every chunk are kept, but only one chunk at a time is held in full.
    """

    def __init__(self, config: ModelConfig, tokens: nn.Parameter | None = None) -> None:
        super().__init__()
        self.config = config
        self.qgt = QGT(config.dim, config.qgt, tokens)

    def forward(self, x: Tensor, questions: Tensor, q_mask: Tensor) -> Tensor:
        """Guide maps F_v ``[B, T, H, W, d]`` with questions F_q ``[B, N, d]``; return ``[G, T, d]``."""
        guides = self.qgt.guides(questions, q_mask)
        if self.config.positions == "sinusoidal":
            height, width, dim = x.shape[2:]
            x = x + grid_encoding(height, width, dim, x.device).to(x.dtype)
        recompute = self.config.checkpoint and torch.is_grad_enabled()
        pooled = [
            checkpoint(self._frames, chunk, guides, use_reentrant=False) if recompute else self._frames(chunk, guides)
            for chunk in torch.split(x.flatten(2, 3), self.config.spatial_chunk, dim=1)
        ]
        return torch.cat(pooled, dim=1)

    def _frames(self, x: Tensor, guides: list[Guide]) -> Tensor:
        """Guide frames ``[B, t, HW, d]`` and average their cells; return ``[G, t, d]``."""
        x = x.repeat_interleave(guides[0].tokens.shape[0] // len(x), dim=0)
        return self.qgt.guide(x, guides, None).mean(2)


class DividedQGT(nn.Module):
    """A spatial, then a temporal transformer; pooled features skip the spatial one.

    Parameters
    ----------
    config
        The settings of the model.
    spatial
        Whether the features are maps.
    tokens
        R ``[m, d]``, shared by both transformers; None gives each its own.
    """

    def __init__(self, config: ModelConfig, spatial: bool, tokens: nn.Parameter | None = None) -> None:
        super().__init__()
        self.spatial = SpatialQGT(config, tokens) if spatial else None
        self.temporal = QGT(config.dim, config.qgt, tokens)

    def forward(self, x: Tensor, clock: Tensor, valid: Tensor, questions: Tensor, q_mask: Tensor) -> Tensor:
        """Guide a video.

        Parameters
        ----------
        x
            F_v ``[B, T, H, W, d]`` with a spatial stage, else ``[B, T, d]``.
        clock
            Encoding of time, ``[B, T, d]``; zeros for none.
        valid
            ``[B, T] bool``, at least one true per row.
        questions
            F_q ``[B, N, d]``.
        q_mask
            ``[B, N] bool``, false for padded questions.

        Returns
        -------
        F''_v ``[B, 1, T, d]`` under reading (A), ``[B, N, T, d]`` under (B).
        """
        if self.spatial is not None:
            x = self.spatial(x, questions, q_mask)  # [G, T, d]
        x = x + clock.to(x.dtype).repeat_interleave(len(x) // len(clock), dim=0)
        out: Tensor = self.temporal(x, valid, questions, q_mask)
        return out
