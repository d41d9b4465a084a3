"""Cross-Modal Alignment: InfoNCE between grounded segments and their texts (facts/cra.md section 5.5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bidirectional(video: Tensor, text: Tensor, temperature: float) -> Tensor:
    """The mean of InfoNCE from video to text and from text to video; the rest of the batch are the negatives.

    Parameters
    ----------
    video : z ``[B, d]``; ``text`` ``[B, d]``. Row i of both belong together.

    Returns
    -------
    A scalar; 0 for a batch of one.
    """
    z, t = F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1)
    with torch.autocast(z.device.type, enabled=False):  # half precision would err by more than 1 % of exp(1 / tau)
        similarity = z @ t.T / temperature
    same = torch.arange(len(video), device=video.device)
    return (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2


def sampled(video: Tensor, text: Tensor, temperature: float, negatives: int) -> Tensor:
    """InfoNCE from text to video as published: ``negatives`` other videos each, with replacement, drawn anew.

    Draws from torch's default generator. A batch of one has no negatives: its loss is 0.
    """
    z, t = F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1)
    batch = len(z)
    own = torch.arange(batch, device=z.device)[:, None]
    if batch > 1:
        others = (own + torch.randint(1, batch, (batch, negatives), device=z.device)) % batch
        chosen = torch.cat([own, others], dim=1)
    else:
        chosen = own
    logits = (z[chosen] * t[:, None]).sum(-1) / temperature  # [B, 1 + negatives]
    return F.cross_entropy(logits, torch.zeros_like(own[:, 0]))
