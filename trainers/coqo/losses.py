"""The training objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.coqo.config import LossConfig
from trainers.coqo.model import Answers


def objective(answers: Answers, labels: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Return L = L_qa + w1 L_inter + w2 L_intra (CoQo), or L_qa + w L_match (AVST).

    Parameters
    ----------
    answers
        What the model answers.
    labels
        ``[B, N] int64``, answer classes; -1 is left out. L_qa is the mean over the others, 0 if there are none.
    config
        The weights.

    Returns
    -------
    Scalars: ``total``, and each part without its weight.
    """
    known = labels >= 0
    qa = F.cross_entropy(answers.logits[known].float(), labels[known], reduction="sum") / known.sum().clamp(min=1)
    weights = {"inter": config.inter, "intra": config.intra, "match": config.match}
    total = torch.stack([qa, *(weights[name] * loss for name, loss in answers.losses.items())]).sum()
    return {"total": total, "qa": qa, **answers.losses}
