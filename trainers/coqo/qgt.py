"""The Question Guided Transformer (facts 3.4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainers.coqo.attention import Attention, feed_forward
from trainers.coqo.config import QgtConfig


class Guide(NamedTuple):
    """What one layer's cross attention reads.

    Attributes
    ----------
    tokens : ``[G, K, d]``, F^_t: questions and R after their self-attention.
    valid : bool ``[G, K]``; false for padded questions.
    """

    tokens: Tensor
    valid: Tensor


class QGTLayer(nn.Module):
    """One layer. Layer normalisation, heads and widths are assumed; see :class:`QgtConfig`."""

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
        """F_t ``[B, N + m, d]`` → F^_t = SelfAttn(F_t) of the same shape."""
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
        x : F_m ``[G, P, S, d]``: P sequences of S tokens (frames of cells, or one sequence of steps) for each guide.
        guide : F^_t of this layer, ``[G, K, d]``.
        valid : bool ``[G, P, S]``, at least one true in each sequence; None where every token is.

        Returns
        -------
        F''_m ``[G, P, S, d]``.
        """
        pre = self.config.norm == "pre"
        y = self.norms["modality"](x) if pre else x
        flat = y.flatten(0, 1)
        mask = None if valid is None else valid.flatten(0, 1)
        itself = self.self_attention(flat, flat, mask).view_as(x)  # F^_m
        y = self.norms["cross"](itself) if pre else itself
        # Every cell of every frame asks the same questions: the guide need not be repeated for each frame.
        clues = self.cross_attention(y.flatten(1, 2), guide.tokens, guide.valid).view_as(x)  # F^_c
        x = self.dropout(itself + self.weight * clues) + x  # F'_m
        if not pre:
            x = self.norms["cross"](x)
        y = self.norms["output"](x) if pre else x
        out: Tensor = self.dropout(self.ffn(y)) + x  # F''_m
        return out if pre else self.norms["output"](out)


class QGT(nn.Module):
    """Layers of :class:`QGTLayer` and their learnable tokens R.

    F_t = [F_q; R] enters the first layer; each further layer takes the F^_t of the one before.

    Parameters
    ----------
    tokens : R ``[m, d]`` to share with other stacks; None makes this stack's own.
    """

    def __init__(self, dim: int, config: QgtConfig, tokens: nn.Parameter | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokens = learnable_tokens(dim, config) if tokens is None else tokens
        self.layers = nn.ModuleList(QGTLayer(dim, config) for _ in range(config.layers))
        # A stack of pre-norm layers ends in a normalisation; post-norm layers have done theirs.
        self.norm = nn.LayerNorm(dim) if config.norm == "pre" else nn.Identity()

    def guides(self, questions: Tensor, q_mask: Tensor) -> list[Guide]:
        """What each layer reads of the questions.

        Parameters
        ----------
        questions : F_q ``[B, N, d]``.
        q_mask : bool ``[B, N]``, false for padded questions.

        Returns
        -------
        For each layer ``[G, K, d]``. Reading (A): G = B, K = N + m. Reading (B): G = B * N, K = 1 + m.
        """
        batch, count = q_mask.shape
        tokens = self.tokens.to(questions.dtype).expand(batch, -1, -1)  # F_r
        valid = torch.cat([q_mask, q_mask.new_ones(batch, tokens.shape[1])], dim=1)
        guide = Guide(torch.cat([questions, tokens], dim=1), valid)  # F_t
        out = []
        for layer in self.layers:
            assert isinstance(layer, QGTLayer)
            guide = layer.questions(guide)
            out.append(guide if self.config.guidance == "shared" else _one_question_each(guide, count))
        return out

    def guide(self, x: Tensor, guides: list[Guide], valid: Tensor | None) -> Tensor:
        """F_m ``[G, P, S, d]`` (see :class:`QGTLayer`) → F''_m of the last layer."""
        for layer, guide in zip(self.layers, guides, strict=True):
            x = layer(x, guide, valid)
        out: Tensor = self.norm(x)
        return out

    def forward(self, x: Tensor, valid: Tensor, questions: Tensor, q_mask: Tensor) -> Tensor:
        """Guide sequences of steps: the temporal transformer.

        Parameters
        ----------
        x : F_m ``[B, T, d]``, or ``[G, T, d]`` when an earlier stage was guided by each question.
        valid : bool ``[B, T]``.

        Returns
        -------
        F''_m ``[B, 1, T, d]`` under reading (A), ``[B, N, T, d]`` under (B).
        """
        guides = self.guides(questions, q_mask)
        groups = guides[0].tokens.shape[0]
        x = x.repeat_interleave(groups // len(x), dim=0)
        steps = valid.repeat_interleave(groups // len(valid), dim=0)
        out = self.guide(x[:, None], guides, steps[:, None])
        return out.view(len(valid), -1, *x.shape[1:])


def learnable_tokens(dim: int, config: QgtConfig) -> nn.Parameter:
    """R, ``[m, d]``."""
    return nn.Parameter(0.02 * torch.randn(config.tokens, dim))


def _one_question_each(guide: Guide, count: int) -> Guide:
    """Reading (B): ``[q^_i; R^]`` for every question, ``[B * N, 1 + m, d]``."""
    questions, tokens = guide.tokens[:, :count, None], guide.tokens[:, None, count:]
    each = torch.cat([questions, tokens.expand(-1, count, -1, -1)], dim=2).flatten(0, 1)
    # A padded question guides only its own copy, which nobody reads; masking it could leave attention no key at all.
    return Guide(each, torch.ones(each.shape[:2], dtype=torch.bool, device=each.device))
