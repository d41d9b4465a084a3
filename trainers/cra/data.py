"""Batches of the store as inputs of the model.

B questions, K candidates of each, T frames, F numbers of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from stores.loading import QuestionBatch
from trainers.cra.candidates import Draw
from trainers.cra.tokens import PADDING, Candidate, Encoder
from trainers.errors import TrainingError
from trainers.transfer import moved

VIDEO = "video"
"""Name of the view that holds the frames."""


@dataclass(frozen=True)
class Choice:
    """K candidates for each of B questions, of which one is right.

    Attributes
    ----------
    candidates
        ``[B, K, *]``, as the text module reads them.
    exists
        ``[B, K] bool``, false for padding.
    right
        ``[B] int64``, index of the right candidate; -1 if it is unknown.
    """

    candidates: Tensor
    exists: Tensor
    right: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Choice:
        """Return the same candidates on ``device``."""
        return Choice(**{field.name: moved(getattr(self, field.name), device, non_blocking) for field in fields(self)})


@dataclass(frozen=True)
class Inputs:
    """What a step needs.

    Attributes
    ----------
    video
        ``[B, T, F]``, features of the frames.
    valid
        ``[B, T] bool``, false for padding.
    options
        Each question with its options: which option answers it.
    questions
        Questions alone: which one belongs to the video. None in evaluation, and if training leaves it out.
    """

    video: Tensor
    valid: Tensor
    options: Choice
    questions: Choice | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Inputs:
        """Return the same inputs on ``device``."""
        return replace(
            self,
            video=moved(self.video, device, non_blocking),
            valid=moved(self.valid, device, non_blocking),
            options=self.options.to(device, non_blocking),
            questions=None if self.questions is None else self.questions.to(device, non_blocking),
        )


def choice(encoder: Encoder, rows: Sequence[Sequence[Candidate]], right: Sequence[int]) -> Choice:
    """Encode rows of candidates, and pad the shorter rows."""
    width = max(map(len, rows))
    exists = torch.tensor([[k < len(row) for k in range(width)] for row in rows])
    padded = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return Choice(encoder(padded), exists, torch.tensor(right, dtype=torch.int64))


def evaluation_inputs(batch: QuestionBatch, encoder: Encoder) -> Inputs:
    """Encode the questions of a batch with the options that they came with."""
    rows = [
        [(question, option) for option in options]
        for question, options in zip(batch.questions, batch.options, strict=True)
    ]
    return Inputs(*_video(batch), choice(encoder, rows, batch.answer_index.tolist()))


def training_inputs(batch: QuestionBatch, draws: Sequence[Draw], encoder: Encoder, questions: bool) -> Inputs:
    """Encode the questions of a batch as an epoch draws them.

    Parameters
    ----------
    batch
        The questions and their videos.
    draws
        One draw for each question of the batch.
    encoder
        Encodes candidates for the text module.
    questions
        Also encode the questions that may belong to the video.

    Raises
    ------
    TrainingError
        If all frames of a video are padding.
    """
    options = choice(
        encoder,
        [[(draw.question, option) for option in draw.options] for draw in draws],
        [draw.answer for draw in draws],
    )
    matched = None
    if questions:
        matched = choice(
            encoder,
            [[(text, None) for text in draw.questions] for draw in draws],
            [draw.right for draw in draws],
        )
    return Inputs(*_video(batch), options, matched)


def _video(batch: QuestionBatch) -> tuple[Tensor, Tensor]:
    valid = batch.valid[VIDEO]
    empty = ~valid.any(1)
    if empty.any():
        video = batch.video_ids[int(empty.nonzero()[0])]
        raise TrainingError(f"video {video!r}: all its frames are padding; leave the video out, or extract it again")
    return batch.features[VIDEO], valid
