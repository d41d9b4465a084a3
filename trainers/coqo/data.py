"""Batches of the store as inputs of the model.

B videos, N questions of each, L words of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stores.loading import QuestionBatch, VideoBatch
from trainers.coqo.attention import Steps
from trainers.coqo.heads import Options
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
        ``[B, N] int64``, answer classes, options or numbers; -1 for padding, for hidden answers, and for answers
        outside the classes.
    known
        ``[K] int64``, places of the other labels among all B * N; None if not computed beforehand.
    layout
        Places on which the shapes of a step depend; None if not computed beforehand.
    options
        The options of the questions; None unless the model scores them.
    """

    words: Tensor
    q_mask: Tensor
    audio: Steps | None
    visual: Steps | None
    videos: Tensor
    labels: Tensor
    known: Tensor | None = None
    layout: Layout | None = None
    options: Options | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Inputs:
        """Return the same inputs on ``device``."""

        def move(part: Tensor) -> Tensor:
            return moved(part, device, non_blocking)

        audio = Steps(*map(move, self.audio)) if self.audio is not None else None
        visual = Steps(*map(move, self.visual)) if self.visual is not None else None
        known = move(self.known) if self.known is not None else None
        layout = self.layout.to(device, non_blocking) if self.layout is not None else None
        options = self.options.to(device, non_blocking) if self.options is not None else None
        words, q_mask, videos, labels = map(move, (self.words, self.q_mask, self.videos, self.labels))
        return Inputs(words, q_mask, audio, visual, videos, labels, known, layout, options)


class Labels(Protocol):
    """Turns the texts of answers into numbers."""

    def encode(self, answers: Sequence[Sequence[str | None]], count: int) -> Tensor:
        """Return ``[B, count] int64`` for B lists of at most ``count`` answers; -1 where nothing is to be learned."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns batches into ``Inputs``; the views of a batch are called ``audio`` and ``visual``.

    Attributes
    ----------
    vocabulary
        The words of questions, and of options if there are no ``answers``.
    answers
        What answers are learned as; None learns which option is right.
    """

    vocabulary: Vocabulary
    answers: Labels | None

    def videos(self, batch: VideoBatch) -> Inputs:
        """Encode N questions of each video: collective training."""
        return self._inputs(batch, batch.questions, batch.answers, batch.q_mask, batch.options)

    def questions(self, batch: QuestionBatch) -> Inputs:
        """Encode single questions: N = 1."""
        single = torch.ones(len(batch), 1, dtype=torch.bool)
        texts, answers = [[text] for text in batch.questions], [[text] for text in batch.answers]
        return self._inputs(batch, texts, answers, single, [[own] for own in batch.options])

    def _inputs(
        self,
        batch: VideoBatch | QuestionBatch,
        questions: list[list[str]],
        answers: list[list[str | None]],
        q_mask: Tensor,
        options: list[list[list[str]]],
    ) -> Inputs:
        number = {video: index for index, video in enumerate(dict.fromkeys(batch.video_ids))}
        words = self.vocabulary.encode(questions)
        if self.answers is None:
            labels, scored = batch.answer_index.view(q_mask.shape), Options.of(options, self.vocabulary)
        else:
            labels, scored = self.answers.encode(answers, q_mask.shape[1]), None
        audio, visual = _steps(batch, "audio"), _steps(batch, "visual")
        videos = torch.tensor([number[video] for video in batch.video_ids])
        known = (labels.flatten() >= 0).nonzero().squeeze(1)
        layout = Layout.of(words, audio, visual, videos)
        return Inputs(words, q_mask, audio, visual, videos, labels, known, layout, scored)


def _steps(batch: VideoBatch | QuestionBatch, name: str) -> Steps | None:
    if name not in batch.features:
        return None
    return Steps(batch.features[name], batch.valid[name], batch.times[name])
