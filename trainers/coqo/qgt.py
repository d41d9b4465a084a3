"""The Question Guided Transformer of CoQo (``docs/facts/coqo.md`` section 3.4).

"Guiding Audio-Visual Question Answering with Collective Question Reasoning", Pei et al., IJCV 133(10), 2025.

B videos, N questions of each, m learnable tokens R, d width of the network. G guides of K tokens each: under reading
(A), G = B and K = N + m; under reading (B), G = B * N and K = 1 + m. Each guides P sequences of S tokens of a modality:
the cells of P frames, or P = 1 sequence of steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainers.coqo.attention import Attention, feed_forward
from trainers.coqo.config import QgtConfig


class Guide(NamedTuple):
    """What the cross attention of one layer reads.

    Attributes
    ----------
    tokens
        F^_t ``[G, K, d]``, questions and R after their self-attention.
    valid
        ``[G, K] bool``, false for padded questions.
    """

    tokens: Tensor
    valid: Tensor


class QGTLayer(nn.Module):
    """One layer. Layer normalisation, heads and widths are assumed; see ``QgtConfig``."""

    def __init__(self, dim: int, config: QgtConfig) -> None:
        super().__init__()
        self.config = config
        self.question_attention = Attention(dim, config.heads, config.dropout)
        self.self_attention = Attention(dim, config.heads, config.dropout)  # theta_sa
        self.cross_attention = Attention(dim, config.heads, config.dropout)  # theta_ca
        self.ffn = feed_forward(dim, config.ffn, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        weight = torch.tensor(config.lambda_init)
        self.weight: Tensor  # lambda
        if config.lambda_learnable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
        names = ("question", "modality", "cross", "output") if config.norm == "pre" else ("question", "cross", "output")
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in names})

    def questions(self, guide: Guide) -> Guide:
        """Return F^_t = SelfAttn(F_t); both are ``[B, N + m, d]``."""
        pre = self.config.norm == "pre"
        x = guide.tokens
        y = self.norms["question"](x) if pre else x
        updated = self.dropout(self.question_attention(y, y, guide.valid))
        if self.config.question_update == "residual":
            updated = x + updated
        return Guide(updated if pre else self.norms["question"](updated), guide.valid)

    def forward(self, x: Tensor, guide: Guide, valid: Tensor | None) -> Tensor:
        """Guide one modality.

        Parameters
        ----------
        x
            F_m ``[G, P, S, d]``.
        guide
            F^_t of this layer, ``[G, K, d]``.
        valid
            ``[G, P, S] bool``, at least one true per sequence; None if every token is valid.

        Returns
        -------
        F''_m ``[G, P, S, d]``.
        """
        pre = self.config.norm == "pre"
        y = self.norms["modality"](x) if pre else x
        flat = y.flatten(0, 1)  # [G * P, S, d]
        mask = None if valid is None else valid.flatten(0, 1)
        itself = self.self_attention(flat, flat, mask).view_as(x)  # F^_m
        y = self.norms["cross"](itself) if pre else itself
        # Every cell of every frame reads the same guide, so it is not repeated for each frame: [G, P * S, d].
        clues = self.cross_attention(y.flatten(1, 2), guide.tokens, guide.valid).view_as(x)  # F^_c
        x = self.dropout(itself + self.weight * clues) + x  # F'_m
        if not pre:
            x = self.norms["cross"](x)
        y = self.norms["output"](x) if pre else x
        out: Tensor = self.dropout(self.ffn(y)) + x  # F''_m
        return out if pre else self.norms["output"](out)


class QGT(nn.Module):
    """A stack of layers and its learnable tokens R.

    F_t = [F_q; R] enters the first layer; each further layer takes the F^_t of the one before.

    Parameters
    ----------
    dim
        d.
    config
        Layers, heads, tokens, and the choices that the sources leave open.
    tokens
        R ``[m, d]``, shared with other stacks; None gives this stack its own.
    """

    def __init__(self, dim: int, config: QgtConfig, tokens: nn.Parameter | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokens = learnable_tokens(dim, config) if tokens is None else tokens
        self.layers = nn.ModuleList(QGTLayer(dim, config) for _ in range(config.layers))
        # A stack of pre-norm layers ends in a normalisation; post-norm layers bring their own.
        self.norm = nn.LayerNorm(dim) if config.norm == "pre" else nn.Identity()

    def guides(self, questions: Tensor, q_mask: Tensor) -> list[Guide]:
        """Return what each layer reads from the questions, ``[G, K, d]`` per layer.

        Parameters
        ----------
        questions
            F_q ``[B, N, d]``.
        q_mask
            ``[B, N] bool``, false for padded questions.
        """
        batch, count = q_mask.shape
        tokens = self.tokens.to(questions.dtype).expand(batch, -1, -1)  # F_r [B, m, d]
        valid = torch.cat([q_mask, q_mask.new_ones(batch, tokens.shape[1])], dim=1)  # [B, N + m]
        guide = Guide(torch.cat([questions, tokens], dim=1), valid)  # F_t [B, N + m, d]
        guides = []
        for layer in self.layers:
            assert isinstance(layer, QGTLayer)
            guide = layer.questions(guide)
            guides.append(guide if self.config.guidance == "shared" else _single_questions(guide, count))
        return guides

    def guide(self, x: Tensor, guides: list[Guide], valid: Tensor | None) -> Tensor:
        """Guide F_m ``[G, P, S, d]`` through all layers; return F''_m ``[G, P, S, d]``."""
        for layer, guide in zip(self.layers, guides, strict=True):
            x = layer(x, guide, valid)
        out: Tensor = self.norm(x)
        return out

    def forward(self, x: Tensor, valid: Tensor, questions: Tensor, q_mask: Tensor) -> Tensor:
        """Guide sequences of steps: the temporal transformer.

        Parameters
        ----------
        x
            F_m ``[B, T, d]``, or ``[G, T, d]`` if an earlier stage was guided already.
        valid
            ``[B, T] bool``, at least one true per row.
        questions
            F_q ``[B, N, d]``.
        q_mask
            ``[B, N] bool``, false for padded questions.

        Returns
        -------
        F''_m ``[B, 1, T, d]`` under reading (A), ``[B, N, T, d]`` under (B).
        """
        guides = self.guides(questions, q_mask)
        groups = guides[0].tokens.shape[0]
        x = x.repeat_interleave(groups // len(x), dim=0)  # [G, T, d]
        steps = valid.repeat_interleave(groups // len(valid), dim=0)  # [G, T]
        out = self.guide(x[:, None], guides, steps[:, None])  # [G, 1, T, d]
        return out.view(len(valid), -1, *x.shape[1:])  # [B, G / B, T, d]


def learnable_tokens(dim: int, config: QgtConfig) -> nn.Parameter:
    """Make R, ``[m, d]``."""
    return nn.Parameter(0.02 * torch.randn(config.tokens, dim))


def _single_questions(guide: Guide, count: int) -> Guide:
    """Return ``[q^_i; R^]`` for every question, ``[B * N, 1 + m, d]``: reading (B)."""
    questions, tokens = guide.tokens[:, :count, None], guide.tokens[:, None, count:]  # [B, N, 1, d], [B, 1, m, d]
    single = torch.cat([questions, tokens.expand(-1, count, -1, -1)], dim=2).flatten(0, 1)  # [B * N, 1 + m, d]
    # A padded question guides only its own copy, which nobody reads. Masking it could leave attention without any key.
    return Guide(single, torch.ones(single.shape[:2], dtype=torch.bool, device=single.device))
