"""The numbers of a batch on which the shapes of a step depend.

A program that asks a GPU for them waits until it has done all that was asked of it before. They are known when a batch
is made, so they are computed there, on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainers.coqo.attention import Steps
from trainers.transfer import moved


class Layout(NamedTuple):
    """Places in a batch of B videos with N questions of each.

    Attributes
    ----------
    lengths
        ``[B, N] int64``, words of each question, 0 for padding. Always on the CPU.
    both
        ``[P] int64``, rows of the videos that have sound and picture.
    contrasted
        ``[Q] int64``, places in ``both`` of the rows for which another row of ``both`` shows another video.
    """

    lengths: Tensor
    both: Tensor
    contrasted: Tensor

    @classmethod
    def of(cls, words: Tensor, audio: Steps | None, visual: Steps | None, videos: Tensor) -> Layout:
        """Compute the layout of a batch, whose parts are those of ``trainers.coqo.data.Inputs``.

        The places are where the parts are. If those are on a GPU, it is waited for.
        """
        present = torch.ones_like(videos, dtype=torch.bool)
        for steps in (audio, visual):
            if steps is not None:
                present = present & steps.valid.any(1)
        both = present.nonzero().squeeze(1)
        return cls((words != 0).sum(-1).cpu(), both, contrasted(videos[both]))

    def to(self, device: torch.device, non_blocking: bool = False) -> Layout:
        """Return the layout with its places on ``device``."""
        return Layout(self.lengths, *(moved(part, device, non_blocking) for part in self[1:]))


def contrasted(videos: Tensor) -> Tensor:
    """Return the places ``[Q]`` of the rows for which another row shows another video.

    Parameters
    ----------
    videos
        ``[B] int64``, equal for rows of the same video.
    """
    return (videos[:, None] != videos[None]).any(1).nonzero().squeeze(1)
