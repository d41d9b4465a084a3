"""Alignment of sight and sound between videos (facts 3.7) and within one (3.8)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MatchingHead(nn.Module):
    """Do this picture and this sound belong together? The family's ReLU pyramid, 2d → d → d/2 → d/4 → 2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (2 * dim, dim, dim // 2, dim // 4)
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(dim // 4, 2))

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """``[..., d]`` each → logits ``[..., 2]``; class 1 is a match."""
        out: Tensor = self.net(torch.cat([audio, visual], dim=-1))
        return out


def matching_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """CE(1, y_pos) + CE(0, y_neg) of logits ``[P, 2]``; 0 for no pairs."""
    if not len(positive):
        return positive.sum()
    ones = torch.ones(len(positive), dtype=torch.int64, device=positive.device)
    return F.cross_entropy(positive.float(), ones) + F.cross_entropy(negative.float(), torch.zeros_like(ones))


def other_videos(videos: Tensor) -> tuple[Tensor, Tensor]:
    """A random row of another video for each row.

    Parameters
    ----------
    videos : int64 ``[B]``, equal for rows of the same video.

    Returns
    -------
    Row numbers int64 ``[P]`` of the rows that have such a partner, and the partners' row numbers ``[P]``.
    """
    others = videos[:, None] != videos[None]
    rows = others.any(1).nonzero().squeeze(1)
    if not len(rows):
        return rows, rows
    return rows, torch.multinomial(others[rows].float(), 1).squeeze(1)


class InterAlignment(nn.Module):
    """L_inter = L_AVM + L_AVC over the videos of a batch."""

    def __init__(self, dim: int, temperature: float) -> None:
        super().__init__()
        self.head = MatchingHead(dim)
        self.temperature = temperature

    def forward(self, audio: Tensor, visual: Tensor, videos: Tensor) -> Tensor:
        """Pooled ``[B, d]`` each; rows of one video (``videos`` equal) are never each other's negatives."""
        return self.matching(audio, visual, videos) + self.contrast(audio, visual, videos)

    def matching(self, audio: Tensor, visual: Tensor, videos: Tensor) -> Tensor:
        """L_AVM: a negative has either its picture or its sound from another video, by the toss of a coin."""
        rows, partners = other_videos(videos)
        swap = torch.rand(len(rows), 1, device=audio.device) < 0.5
        negative_audio = torch.where(swap, audio[partners], audio[rows])
        negative_visual = torch.where(swap, visual[rows], visual[partners])
        return matching_loss(self.head(audio[rows], visual[rows]), self.head(negative_audio, negative_visual))

    def contrast(self, audio: Tensor, visual: Tensor, videos: Tensor) -> Tensor:
        """L_AVC: InfoNCE of cosines, both directions."""
        itself = torch.eye(len(videos), dtype=torch.bool, device=videos.device)
        pairs = (videos[:, None] != videos[None]) | itself
        rows = torch.ones_like(pairs[:1])
        return _info_nce(audio[None], visual[None], pairs[None], rows, self.temperature)


def intra_alignment(audio: Tensor, visual: Tensor, q_mask: Tensor, words: Tensor, temperature: float) -> Tensor:
    """L_intra: InfoNCE over the N x N questions of each video, both directions; a video with one adds 0.

    Parameters
    ----------
    audio, visual : CLS^a, CLS^v ``[B, N, d]``. Positives are of the same question, negatives of another question.
    q_mask : bool ``[B, N]``, false for padded questions.
    words : int64 ``[B, N, L]``; two rows of equal words are one question, so neither is the other's negative.
    """
    same = (words[:, :, None] == words[:, None]).all(-1)
    itself = torch.eye(q_mask.shape[1], dtype=torch.bool, device=words.device)
    pairs = (q_mask[:, None] & q_mask[:, :, None] & ~same) | itself
    return _info_nce(audio, visual, pairs, q_mask, temperature)


def _info_nce(a: Tensor, v: Tensor, pairs: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """-1/2 mean over rows of log softmax_j(s_ij)_i + log softmax_j(s_ji)_i, s the cosine over tau.

    ``a``, ``v`` ``[B, N, d]``; ``pairs`` ``[B, N, N]``: what counts, symmetric, with the diagonal; ``rows`` ``[B, N]``.
    """
    with torch.autocast(a.device.type, enabled=False):  # cosines over tau reach 14, where bfloat16 has steps of 1/16
        a, v = F.normalize(a.float(), dim=-1), F.normalize(v.float(), dim=-1)
        scores = (a @ v.transpose(-1, -2) / temperature).masked_fill(~pairs, -math.inf)
    both = scores.log_softmax(-1) + scores.log_softmax(-2)
    each = -0.5 * both.diagonal(dim1=-2, dim2=-1)
    return each.masked_fill(~rows, 0).sum() / rows.sum().clamp(min=1)
