"""One answer-relevant vector for each question and modality (``docs/facts/coqo.md`` section 3.6).

B videos, N questions of each, T steps, d width of the network. Features shared by all questions of a video are
``[B, 1, T, d]``, features of each question ``[B, N, T, d]``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.coqo.attention import Attention, feed_forward
from trainers.coqo.config import QgtConfig


class AudioAttention(nn.Module):
    """alpha = softmax_t((W_1 q_i) . (W_2 F_a,t) / sqrt(d)); F~_a,t = alpha_t F_a,t + F_a,t."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.question = nn.Linear(dim, dim, bias=False)  # W_1
        self.audio = nn.Linear(dim, dim, bias=False)  # W_2

    def forward(self, questions: Tensor, audio: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Stress the steps that a question is about.

        Parameters
        ----------
        questions
            q ``[B, N, d]``.
        audio
            F''_a ``[B, 1 or N, T, d]``.
        valid
            ``[B, T] bool``, at least one true per row.

        Returns
        -------
        F~_a ``[B, N, T, d]`` and alpha ``[B, N, T]``.
        """
        q, k = self.question(questions)[:, :, None], self.audio(audio)  # [B, N, 1, d], [B, 1 or N, T, d]
        if k.shape[1] == 1:
            scores = q[:, :, 0] @ k[:, 0].transpose(-1, -2)  # [B, N, T]
        else:
            scores = (q @ k.transpose(-1, -2)).squeeze(2)
        scores = (scores / math.sqrt(q.shape[-1])).masked_fill(~valid[:, None], -math.inf)
        alpha = scores.softmax(-1)
        return audio * alpha[..., None].to(audio.dtype) + audio, alpha


class Decoder(nn.Module):
    """CLS_i = CrossAttn(query = CLS + q_i, key = value = F~_m), with residual and FFN."""

    def __init__(self, dim: int, config: QgtConfig) -> None:
        super().__init__()
        self.cls = nn.Parameter(0.02 * torch.randn(dim))
        self.cross_attention = Attention(dim, config.heads, config.dropout)
        self.ffn = feed_forward(dim, config.ffn, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        names = ("query", "memory", "hidden", "output")
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in names})

    def forward(self, questions: Tensor, memory: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Read a modality for each question.

        Parameters
        ----------
        questions
            q ``[B, N, d]``.
        memory
            F~_m ``[B, 1 or N, T, d]``.
        valid
            ``[B, T] bool``, at least one true per row.

        Returns
        -------
        CLS ``[B, N, d]``, and the attention over steps ``[B, N, T]``, averaged over the heads.
        """
        batch, count, dim = questions.shape
        groups = memory.shape[1]  # 1, or N groups of one question each
        x = (self.cls + questions).view(batch * groups, count // groups, dim)  # [B * groups, N / groups, d]
        steps = valid.repeat_interleave(groups, dim=0)  # [B * groups, T]
        read, weights = self.cross_attention.with_weights(
            self.norms["query"](x), self.norms["memory"](memory.flatten(0, 1)), steps
        )
        x = x + self.dropout(read)
        x = x + self.dropout(self.ffn(self.norms["hidden"](x)))
        return self.norms["output"](x).view(batch, count, dim), weights.view(batch, count, -1)
