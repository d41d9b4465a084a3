"""What a grounded question-answering model returns, and the query that it looks for in the video.

B questions, K candidates of each, T frames, d width of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grounded:
    """Answers, and where in the video they show.

    Attributes
    ----------
    logits
        ``[B, K]``, dot products of candidates and video; -inf where there is no candidate.
    attention
        p ``[B, T]``, weights of the frames before smoothing; they sum to 1.
    weights
        w ``[B, T]``, the same after smoothing.
    video
        z ``[B, d]``, the grounded video.
    texts
        ``[B, K, d]``, the candidates.
    interval
        ``[B, 2]``, start and end as fractions of the video, from models that predict them; else None.
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
        # Not a matrix product: autocast would round that to half precision.
        logits = (texts.float() * video.float()[:, None]).sum(-1)  # [B, K]
        logits = logits.masked_fill(~exists, -torch.inf)
        return cls(logits, attention, weights, video, texts, interval)

    def text(self, right: Tensor) -> Tensor:
        """Return the candidates ``[B, d]`` with the indices ``right [B]``."""
        return select(self.texts, right)


def select(texts: Tensor, index: Tensor) -> Tensor:
    """Pick candidate ``index [B]`` from each row of ``texts [B, K, d]``; return ``[B, d]``."""
    return texts[torch.arange(len(texts), device=texts.device), index]


def query_of(texts: Tensor, exists: Tensor, right: Tensor | None) -> Tensor:
    """Return what to look for in the video, ``[B, d]``.

    That is the candidate with index ``right [B]`` if it is given (questions that may belong to the video), else the
    elementwise maximum over the candidates that exist (options).
    """
    if right is not None:
        return select(texts, right)
    return texts.masked_fill(~exists[:, :, None], -torch.inf).amax(1)
