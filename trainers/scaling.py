"""Features on one scale: every number is centred and divided by its standard deviation over the training videos.

The outputs of a trained network have similar sizes already. Hand-made features do not, and a first linear layer would
mostly see the largest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stores.loading import QuestionDataset, VideoDataset

_VIDEOS_AT_ONCE = 64
# A number that hardly varies keeps its size instead of being blown up.
_LEAST_DEVIATION = 1e-3


class Standardise(nn.Module):
    """(x - mean) / std over the last axis, in float32. Mean and std are saved with the model but not trained.

    Parameters
    ----------
    mean
        ``[C]``.
    std
        ``[C]``; values below 0.001 count as 0.001.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float().clamp_min(_LEAST_DEVIATION))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise ``[..., C]``; the result has the same shape."""
        return (x.float() - self.mean) / self.std


def standardise(dataset: QuestionDataset | VideoDataset, view: str) -> Standardise:
    """Measure the mean and standard deviation of a view over all valid steps (and cells) of a dataset's videos."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for first in range(0, len(dataset.videos), _VIDEOS_AT_ONCE):
        features, valid, _ = dataset.table.gather(range(first, min(first + _VIDEOS_AT_ONCE, len(dataset.videos))))
        steps = features[view].cpu()[valid[view]].double().flatten(0, -2)  # [steps * cells, C]
        count, total, squares = count + len(steps), total + steps.sum(0), squares + (steps**2).sum(0)
    mean = total / max(count, 1)
    return Standardise(mean, (squares / max(count, 1) - mean**2).clamp_min(0).sqrt())
