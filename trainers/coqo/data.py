"""Batches of the store as inputs of the model.

B videos, N questions of each, L words of a question.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stores.loading import QuestionBatch, VideoBatch
from trainers.coqo.answers import AnswerVocabulary
from trainers.coqo.attention import Steps
from trainers.coqo.layout import Layout
from trainers.coqo.question import Vocabulary
from trainers.transfer import moved


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model takes, and what it should answer.

    Attributes
    ----------
    words
        ``[B, N, L] int64``, word ids.
    q_mask
        ``[B, N] bool``, false for padded questions.
    audio
        The sound; None if the batch has no such feature.
    visual
        The frames; None if the batch has no such feature.
    videos
        ``[B] int64``, equal for rows of the same video.
    labels
        ``[B, N] int64``, answer classes; -1 for padding and for answers outside the classes.
    known
        ``[K] int64``, places of the other labels among all B * N; None if not computed beforehand.
    layout
        Places on which the shapes of a step depend; None if not computed beforehand.
    """

    words: Tensor
    q_mask: Tensor
    audio: Steps | None
    visual: Steps | None
    videos: Tensor
    labels: Tensor
    known: Tensor | None = None
    layout: Layout | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Inputs:
        """Return the same inputs on ``device``."""

        def move(part: Tensor) -> Tensor:
            return moved(part, device, non_blocking)

        audio = Steps(*map(move, self.audio)) if self.audio is not None else None
        visual = Steps(*map(move, self.visual)) if self.visual is not None else None
        known = move(self.known) if self.known is not None else None
        layout = self.layout.to(device, non_blocking) if self.layout is not None else None
        words, q_mask, videos, labels = map(move, (self.words, self.q_mask, self.videos, self.labels))
        return Inputs(words, q_mask, audio, visual, videos, labels, known, layout)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns batches into ``Inputs``; the views of a batch are called ``audio`` and ``visual``."""

    vocabulary: Vocabulary
    answers: AnswerVocabulary

    def videos(self, batch: VideoBatch) -> Inputs:
        """Encode N questions of each video: collective training."""
        return self._inputs(batch, batch.questions, batch.answers, batch.q_mask)

    def questions(self, batch: QuestionBatch) -> Inputs:
        """Encode single questions: N = 1."""
        single = torch.ones(len(batch), 1, dtype=torch.bool)
        return self._inputs(batch, [[text] for text in batch.questions], [[text] for text in batch.answers], single)

    def _inputs(
        self,
        batch: VideoBatch | QuestionBatch,
        questions: list[list[str]],
        answers: list[list[str | None]],
        q_mask: Tensor,
    ) -> Inputs:
        number = {video: index for index, video in enumerate(dict.fromkeys(batch.video_ids))}
        words, labels = self.vocabulary.encode(questions), self.answers.encode(answers, q_mask.shape[1])
        audio, visual = _steps(batch, "audio"), _steps(batch, "visual")
        videos = torch.tensor([number[video] for video in batch.video_ids])
        known = (labels.flatten() >= 0).nonzero().squeeze(1)
        return Inputs(words, q_mask, audio, visual, videos, labels, known, Layout.of(words, audio, visual, videos))


def _steps(batch: VideoBatch | QuestionBatch, name: str) -> Steps | None:
    if name not in batch.features:
        return None
    return Steps(batch.features[name], batch.valid[name], batch.times[name])
