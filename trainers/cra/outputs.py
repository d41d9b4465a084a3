"""What a grounded question-answering model gives, and its query."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grounded:
    """Answers and where they were seen.

    Attributes
    ----------
    logits : ``[B, K]``, unnormalised dot products; -inf where there is no candidate.
    attention : p ``[B, T]``, weights of the frames before smoothing; sum 1.
    weights : w ``[B, T]``, after smoothing; sum 1.
    video : z ``[B, d]``, the grounded video.
    texts : the candidates ``[B, K, d]``.
    interval : ``[B, 2]``, fractions of the video, from models that predict one.
    """

    logits: Tensor
    attention: Tensor
    weights: Tensor
    video: Tensor
    texts: Tensor
    interval: Tensor | None = None

    @classmethod
    def of(
        cls,
        texts: Tensor,
        exists: Tensor,
        video: Tensor,
        attention: Tensor,
        weights: Tensor,
        interval: Tensor | None = None,
    ) -> Grounded:
        """Score candidates by their dot product with the grounded video."""
        logits = (texts.float() * video.float()[:, None]).sum(-1)  # not a matrix product: that would be autocast
        logits = logits.masked_fill(~exists, -torch.inf)
        return cls(logits, attention, weights, video, texts, interval)

    def text(self, right: Tensor) -> Tensor:
        """``[B, d]``: the candidates number ``right [B]``."""
        return select(self.texts, right)


def select(texts: Tensor, index: Tensor) -> Tensor:
    """``[B, K, d]`` and ``[B]`` to ``[B, d]``."""
    return texts[torch.arange(len(texts), device=texts.device), index]


def query_of(texts: Tensor, exists: Tensor, right: Tensor | None) -> Tensor:
    """What is looked for in the video, ``[B, d]``: the right question, or the elementwise maximum over the options."""
    if right is not None:
        return select(texts, right)
    return texts.masked_fill(~exists[:, :, None], -torch.inf).amax(1)
