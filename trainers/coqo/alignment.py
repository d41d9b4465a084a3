"""Alignment of picture and sound between videos and within one (``docs/facts/coqo.md`` sections 3.7 and 3.8).

B videos, N questions of each, L words of a question, d width of the network, P pairs.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.coqo.layout import contrasted


class MatchingHead(nn.Module):
    """Classifies whether a picture and a sound belong together.

    The ReLU pyramid 2d → d → d/2 → d/4 → 2 is that of the MUSIC-AVQA family.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (2 * dim, dim, dim // 2, dim // 4)
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(dim // 4, 2))

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Classify pairs ``[..., d]``; return logits ``[..., 2]``, of which class 1 is a match."""
        out: Tensor = self.net(torch.cat([audio, visual], dim=-1))
        return out


def matching_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return CE(1, y_pos) + CE(0, y_neg) of logits ``[P, 2]``; 0 without pairs."""
    if not len(positive):
        return positive.sum()
    ones = torch.ones(len(positive), dtype=torch.int64, device=positive.device)
    return F.cross_entropy(positive.float(), ones) + F.cross_entropy(negative.float(), torch.zeros_like(ones))


def other_videos(videos: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw a random row of another video for each row.

    Parameters
    ----------
    videos
        ``[B] int64``, equal for rows of the same video.
    rows
        What ``layout.contrasted`` returns for them; None computes it, for which the device is waited for.

    Returns
    -------
    The indices ``[P] int64`` of the rows for which there is another video, and the indices ``[P]`` of their partners.
    """
    rows = rows if rows is not None else contrasted(videos)
    if not len(rows):
        return rows, rows
    others = (videos[rows][:, None] != videos[None]).float()  # [P, B]
    # What torch.multinomial draws, which also asks the device whether the weights are valid and waits for its answer.
    return rows, (others / torch.empty_like(others).exponential_()).argmax(1)


class InterAlignment(nn.Module):
    """L_inter = L_AVM + L_AVC over the videos of a batch."""

    def __init__(self, dim: int, temperature: float) -> None:
        super().__init__()
        self.head = MatchingHead(dim)
        self.temperature = temperature

    def forward(self, audio: Tensor, visual: Tensor, videos: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the loss of pooled features ``[B, d]``; rows of the same video are never each other's negatives.

        Parameters
        ----------
        audio
            ``[B, d]``.
        visual
            ``[B, d]``.
        videos
            ``[B] int64``, equal for rows of the same video.
        rows
            As in ``other_videos``.
        """
        return self.matching(audio, visual, videos, rows) + self.contrast(audio, visual, videos)

    def matching(self, audio: Tensor, visual: Tensor, videos: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return L_AVM: each negative takes either its picture or its sound from another video, at random."""
        rows, partners = other_videos(videos, rows)
        swap = torch.rand(len(rows), 1, device=audio.device) < 0.5
        negative_audio = torch.where(swap, audio[partners], audio[rows])
        negative_visual = torch.where(swap, visual[rows], visual[partners])
        return matching_loss(self.head(audio[rows], visual[rows]), self.head(negative_audio, negative_visual))

    def contrast(self, audio: Tensor, visual: Tensor, videos: Tensor) -> Tensor:
        """Return L_AVC: InfoNCE of cosines in both directions."""
        itself = torch.eye(len(videos), dtype=torch.bool, device=videos.device)
        pairs = (videos[:, None] != videos[None]) | itself
        rows = torch.ones_like(pairs[:1])
        return _info_nce(audio[None], visual[None], pairs[None], rows, self.temperature)


def intra_alignment(audio: Tensor, visual: Tensor, q_mask: Tensor, words: Tensor, temperature: float) -> Tensor:
    """Return L_intra: InfoNCE over the N x N questions of each video in both directions.

    A positive pair belongs to one question, a negative pair to two. A video with one question adds 0.

    Parameters
    ----------
    audio
        CLS^a ``[B, N, d]``.
    visual
        CLS^v ``[B, N, d]``.
    q_mask
        ``[B, N] bool``, false for padded questions.
    words
        ``[B, N, L] int64``. Rows with equal words are the same question, so they are no negatives of each other.
    temperature
        tau.
    """
    same = (words[:, :, None] == words[:, None]).all(-1)  # [B, N, N]
    itself = torch.eye(q_mask.shape[1], dtype=torch.bool, device=words.device)
    pairs = (q_mask[:, None] & q_mask[:, :, None] & ~same) | itself
    return _info_nce(audio, visual, pairs, q_mask, temperature)


def _info_nce(a: Tensor, v: Tensor, pairs: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Return -1/2 times the mean over rows of log softmax_j(s_ij)_i + log softmax_j(s_ji)_i; s is the cosine over tau.

    Parameters
    ----------
    a, v
        ``[B, N, d]``.
    pairs
        ``[B, N, N] bool``, the pairs that count: symmetric, with the diagonal.
    rows
        ``[B, N] bool``, the rows that count.
    """
    with torch.autocast(a.device.type, enabled=False):  # cosines over tau reach 14, where bfloat16 has steps of 1/16
        a, v = F.normalize(a.float(), dim=-1), F.normalize(v.float(), dim=-1)
        scores = (a @ v.transpose(-1, -2) / temperature).masked_fill(~pairs, -math.inf)
    both = scores.log_softmax(-1) + scores.log_softmax(-2)  # [B, N, N]
    losses = -0.5 * both.diagonal(dim1=-2, dim2=-1)  # [B, N]
    return losses.masked_fill(~rows, 0).sum() / rows.sum().clamp(min=1)
