"""Cross-Modal Alignment: InfoNCE between grounded segments and their texts (``docs/facts/cra.md`` section 5.5).

B samples of a batch, d width of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bidirectional(video: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Return the mean of InfoNCE from video to text and from text to video; all other samples are negatives.

    Parameters
    ----------
    video
        z ``[B, d]``.
    text
        ``[B, d]``; row i belongs to row i of ``video``.
    temperature
        tau.

    Returns
    -------
    A scalar; 0 for a batch of one.
    """
    z, t = F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1)
    with torch.autocast(z.device.type, enabled=False):  # half precision would err by more than 1 % of exp(1 / tau)
        similarity = z @ t.T / temperature  # [B, B]
    same = torch.arange(len(video), device=video.device)
    return (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2


def sampled(video: Tensor, text: Tensor, temperature: float, negatives: int) -> Tensor:
    """Return InfoNCE from text to video as published: each text has ``negatives`` other videos, with replacement.

    They are drawn with torch's default generator. A batch of one has no negatives, so its loss is 0.

    Parameters
    ----------
    video
        z ``[B, d]``.
    text
        ``[B, d]``; row i belongs to row i of ``video``.
    temperature
        tau.
    negatives
        Negatives per text.
    """
    z, t = F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1)
    batch = len(z)
    own = torch.arange(batch, device=z.device)[:, None]
    if batch > 1:
        others = (own + torch.randint(1, batch, (batch, negatives), device=z.device)) % batch
        chosen = torch.cat([own, others], dim=1)  # [B, 1 + negatives]
    else:
        chosen = own
    logits = (z[chosen] * t[:, None]).sum(-1) / temperature  # [B, 1 + negatives]
    return F.cross_entropy(logits, torch.zeros_like(own[:, 0]))
