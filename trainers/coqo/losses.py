"""The training objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.coqo.config import LossConfig
from trainers.coqo.model import Answers


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the cross entropies of outputs ``[K, classes]`` and labels ``[K] int64``."""
    return F.cross_entropy(outputs, labels, reduction="sum")


def objective(
    answers: Answers,
    labels: Tensor,
    config: LossConfig,
    known: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> dict[str, Tensor]:
    """Return L = L_qa + w1 L_inter + w2 L_intra (CoQo), or L_qa + w L_match (AVST).

    Parameters
    ----------
    answers
        What the model answers.
    labels
        ``[B, N] int64``, answer classes, options or numbers; -1 is left out. L_qa is the mean over the others, 0 if
        there are none.
    config
        The weights.
    known
        ``[K] int64``, places of the labels that are not left out, among all B * N; None finds them, for which the
        device is waited for.
    loss
        The sum of the losses of K questions, of their outputs ``[K, *] float32`` and labels ``[K] int64``.

    Returns
    -------
    Scalars: ``total``, and each part without its weight.
    """
    logits, classes = answers.logits.flatten(0, 1), labels.flatten()
    if known is None:
        known = (classes >= 0).nonzero().squeeze(1)
    qa = loss(logits[known].float(), classes[known]) / max(len(known), 1)
    weights = {"inter": config.inter, "intra": config.intra, "match": config.match}
    total = torch.stack([qa, *(weights[name] * loss for name, loss in answers.losses.items())]).sum()
    return {"total": total, "qa": qa, **answers.losses}
