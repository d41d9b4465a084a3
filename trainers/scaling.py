"""Features on one scale: centred and divided by their deviation over the training videos, number by number.

The outputs of a trained tower are of one size already; hand-made features are not, and a first linear layer would
mostly see the largest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stores.loading import QuestionDataset, VideoDataset

_VIDEOS = 64  # at a time
# A number that hardly changes is not blown up.
_LEAST_DEVIATION = 1e-3


class Standardise(nn.Module):
    """(x - mean) / std over the last axis, in float32. What it divides by is saved with the model, and not trained.

    Parameters
    ----------
    mean, std : ``[C]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float().clamp_min(_LEAST_DEVIATION))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to the same."""
        return (x.float() - self.mean) / self.std


def standardise(dataset: QuestionDataset | VideoDataset, view: str) -> Standardise:
    """The scale of a view: each number's mean and deviation over all valid steps (and cells) of the videos."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for first in range(0, len(dataset.videos), _VIDEOS):
        features, valid, _ = dataset.table.gather(range(first, min(first + _VIDEOS, len(dataset.videos))))
        steps = features[view][valid[view]].double().flatten(0, -2)
        count, total, squares = count + len(steps), total + steps.sum(0), squares + (steps**2).sum(0)
    mean = total / max(count, 1)
    return Standardise(mean, (squares / max(count, 1) - mean**2).clamp_min(0).sqrt())
