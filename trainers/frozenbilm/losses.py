"""FrozenBiLM's loss on several options of a question (``docs/facts/frozenbilm.md`` section 6).

B questions, O options of each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def balanced_bce(logits: Tensor, right: Tensor, exists: Tensor) -> Tensor:
    """Return (the mean BCE of right options + the mean BCE of all others) / 2, a scalar.

    Parameters
    ----------
    logits
        ``[B, O]``, log(P(Yes) / P(No)).
    right
        ``[B] int64``, index of the right option.
    exists
        ``[B, O] bool``, false for padding. Without any wrong option their half is 0.
    """
    is_right = torch.arange(exists.shape[1], device=right.device) == right[:, None]  # [B, O]
    # Padding has -inf, whose product with 0 is no number.
    each = F.binary_cross_entropy_with_logits(
        logits.float().masked_fill(~exists, 0), is_right.float(), reduction="none"
    )
    wrong = exists & ~is_right
    halves = [(each * chosen).sum() / chosen.sum().clamp_min(1) for chosen in (is_right, wrong)]
    return (halves[0] + halves[1]) / 2
