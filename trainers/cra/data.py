"""Batches of the store as the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from stores.loading import QuestionBatch
from trainers.cra.candidates import Draw
from trainers.cra.tokens import PADDING, Candidate, Encoder
from trainers.errors import TrainingError

VIDEO = "video"  # the name of the view


@dataclass(frozen=True)
class Choice:
    """One right among K candidates, for each of B questions.

    Attributes
    ----------
    candidates : ``[B, K, *]``, as the text module reads them.
    exists : ``[B, K] bool``.
    right : ``[B] int64``, -1 unknown.
    """

    candidates: Tensor
    exists: Tensor
    right: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Choice:
        moved = {each.name: getattr(self, each.name).to(device, non_blocking=non_blocking) for each in fields(self)}
        return Choice(**moved)


@dataclass(frozen=True)
class Inputs:
    """What a step needs.

    Attributes
    ----------
    video : ``[B, T, F]``; ``valid [B, T] bool``.
    options : question and option; ``questions``: which one belongs to the video, in training.
    """

    video: Tensor
    valid: Tensor
    options: Choice
    questions: Choice | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Inputs:
        return replace(
            self,
            video=self.video.to(device, non_blocking=non_blocking),
            valid=self.valid.to(device, non_blocking=non_blocking),
            options=self.options.to(device, non_blocking),
            questions=None if self.questions is None else self.questions.to(device, non_blocking),
        )


def choice(encoder: Encoder, rows: Sequence[Sequence[Candidate]], right: Sequence[int]) -> Choice:
    """Encode candidates; shorter rows are padded."""
    width = max(map(len, rows))
    exists = torch.tensor([[k < len(row) for k in range(width)] for row in rows])
    padded = [[*row, *[PADDING] * (width - len(row))] for row in rows]
    return Choice(encoder(padded), exists, torch.tensor(right, dtype=torch.int64))


def evaluation_inputs(batch: QuestionBatch, encoder: Encoder) -> Inputs:
    """Questions with the options that they came with."""
    rows = [
        [(question, option) for option in options]
        for question, options in zip(batch.questions, batch.options, strict=True)
    ]
    return Inputs(*_video(batch), choice(encoder, rows, batch.answer_index.tolist()))


def training_inputs(batch: QuestionBatch, draws: Sequence[Draw], encoder: Encoder, questions: bool) -> Inputs:
    """Questions as this epoch draws them; ``questions``: also which one belongs to the video."""
    options = choice(
        encoder,
        [[(draw.question, option) for option in draw.options] for draw in draws],
        [draw.answer for draw in draws],
    )
    asked = None
    if questions:
        asked = choice(
            encoder,
            [[(text, None) for text in draw.questions] for draw in draws],
            [draw.right for draw in draws],
        )
    return Inputs(*_video(batch), options, asked)


def _video(batch: QuestionBatch) -> tuple[Tensor, Tensor]:
    valid = batch.valid[VIDEO]
    empty = ~valid.any(1)
    if empty.any():
        video = batch.video_ids[int(empty.nonzero()[0])]
        raise TrainingError(f"video {video!r}: all its frames are padding; leave it out, or extract it again")
    return batch.features[VIDEO], valid
