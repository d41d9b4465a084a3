"""The training objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.coqo.config import LossConfig
from trainers.coqo.model import Answers


def objective(said: Answers, labels: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """L = L_qa + w1 L_inter + w2 L_intra (CoQo), or L_qa + w L_match (AVST).

    Parameters
    ----------
    labels : int64 ``[B, N]``; -1 is left out. L_qa is the mean over the others, 0 without any.

    Returns
    -------
    ``total`` and each unweighted part, scalars.
    """
    known = labels >= 0
    qa = F.cross_entropy(said.logits[known].float(), labels[known], reduction="sum") / known.sum().clamp(min=1)
    weights = {"inter": config.inter, "intra": config.intra, "match": config.match}
    total = torch.stack([qa, *(weights[name] * loss for name, loss in said.losses.items())]).sum()
    return {"total": total, "qa": qa, **said.losses}
