"""How the last vector of a network becomes an answer: one of a list of classes, one of the options, or a number.

The network is the same under each head; only the length of its last layer differs. ``answer.head`` chooses.

B videos, N questions of each, K options of a question, L words of an option, d width of the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.coqo.answers import AnswerVocabulary
from trainers.coqo.attention import Steps
from trainers.coqo.config import AnswerConfig, ModelConfig
from trainers.coqo.layout import Layout
from trainers.coqo.losses import cross_entropy
from trainers.coqo.model import Answers, family_encoder
from trainers.coqo.question import Vocabulary
from trainers.errors import TrainingError
from trainers.metrics.numbers import decided, expected
from trainers.task import Json
from trainers.transfer import moved

_MOST = 2**31 - 1


class Options(NamedTuple):
    """The options of a batch of questions.

    Attributes
    ----------
    words
        ``[B, N, K, L] int64``, word ids; 0 pads words, and the options of a question that has fewer than K.
    lengths
        ``[B, N, K] int64``, numbers of words, 0 for padding. Always on the CPU.
    """

    words: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, options: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary) -> Options:
        """Encode the texts of B lists of N lists of options; shorter lists are padded."""
        count = max(len(video) for video in options)
        most = max(1, *(len(own) for video in options for own in video))
        texts = [
            [text for number in range(count) for text in _padded(video[number] if number < len(video) else (), most)]
            for video in options
        ]
        words = vocabulary.encode(texts).view(len(options), count, most, -1)
        return cls(words, (words != 0).sum(-1))

    def to(self, device: torch.device, non_blocking: bool = False) -> Options:
        """Return the options with their words on ``device``."""
        return Options(moved(self.words, device, non_blocking), self.lengths)


def _padded(options: Sequence[str], count: int) -> list[str]:
    return [*options, *[""] * (count - len(options))]


class OptionScores(nn.Module):
    """Scores options by their product with what a network makes of a question.

    score_k = s . o_k / sqrt(d), where s is the network's last vector and o_k the option, read by an encoder of its own
    as questions are. Assumed: the sources do not say how the QGT scores options; HCRN joins the option to the inputs of
    its classifier.

    Parameters
    ----------
    network
        A network whose last layer has d numbers.
    config
        Its settings.
    words
        Length of the vocabulary.
    """

    def __init__(self, network: nn.Module, config: ModelConfig, words: int) -> None:
        super().__init__()
        self.network = network
        self.options = family_encoder(config, words)

    def forward(
        self,
        words: Tensor,
        q_mask: Tensor,
        audio: Steps | None,
        visual: Steps | None,
        videos: Tensor,
        layout: Layout | None,
        options: Options,
    ) -> Answers:
        """Answer questions with ``logits [B, N, K]``, the least number for padding; see ``CoQo.forward``."""
        answers: Answers = self.network(words, q_mask, audio, visual, videos, layout)
        state = answers.logits  # s [B, N, d]
        vectors = self.options(options.words.flatten(1, 2), options.lengths.flatten(1, 2))  # o [B, N * K, d]
        vectors = vectors.view(*options.words.shape[:3], -1)  # [B, N, K, d]
        scores = (state[:, :, None] * vectors).sum(-1) / state.shape[-1] ** 0.5  # [B, N, K]
        padding = options.words[..., 0] == 0
        return replace(answers, logits=scores.float().masked_fill(padding, torch.finfo(torch.float32).min))


class Head(ABC):
    """What a network answers with.

    Attributes
    ----------
    takes_options
        Whether the network scores the options of a question.
    outputs
        Length of the network's last layer.
    """

    takes_options: ClassVar[bool] = False
    outputs: int

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the losses of K questions: outputs ``[K, *] float32``, labels ``[K] int64``."""

    @abstractmethod
    def texts(self, outputs: Tensor, options: Sequence[Sequence[str]]) -> list[str]:
        """Return the answers of K questions, outputs ``[K, *]``, as texts."""

    def confidences(self, outputs: Tensor) -> list[float | None]:
        """Return the softmax of the answer of each of K questions, outputs ``[K, *]``; None if scores are no such."""
        return list(outputs.float().softmax(-1).amax(-1).clamp(max=1).tolist())

    def is_right(self, prediction: str, answer: str) -> bool:
        """Return whether an answer that ``texts`` gave is right."""
        return prediction == answer

    @abstractmethod
    def describe(self) -> dict[str, Json]:
        """Return what a checkpoint says about its answers."""


@dataclass(frozen=True, slots=True)
class ClassHead(Head):
    """One of the answers of a closed list, by cross entropy."""

    vocabulary: AnswerVocabulary

    @property
    def outputs(self) -> int:  # type: ignore[override]  # the length of a list
        return len(self.vocabulary)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(outputs, labels)

    def texts(self, outputs: Tensor, options: Sequence[Sequence[str]]) -> list[str]:
        return [self.vocabulary.answers[index] for index in outputs.argmax(-1).tolist()]

    def describe(self) -> dict[str, Json]:
        return {"digest": self.vocabulary.digest, "answers": self.vocabulary.answers}


@dataclass(frozen=True, slots=True)
class OptionHead(Head):
    """One of the options of the question.

    Attributes
    ----------
    outputs
        d, the width of the network.
    kind
        ``cross_entropy`` over the options, or HCRN's ``hinge``: max(0, 1 + s_k - s_right), summed over wrong options.
    """

    takes_options: ClassVar[bool] = True

    outputs: int
    kind: str

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.kind == "cross_entropy":
            return cross_entropy(outputs, labels)
        right = outputs.gather(1, labels[:, None])  # [K, 1]
        wrong = (1 + outputs - right).clamp(min=0).scatter(1, labels[:, None], 0)
        return wrong.sum()

    def texts(self, outputs: Tensor, options: Sequence[Sequence[str]]) -> list[str]:
        return [own[index] for own, index in zip(options, outputs.argmax(-1).tolist(), strict=True)]

    def describe(self) -> dict[str, Json]:
        return {"head": "options"}


@dataclass(frozen=True, slots=True)
class NumberHead(Head):
    """A whole number, by the squared error; it is rounded and clamped as the rule of the dataset says.

    Attributes
    ----------
    config
        Its ``rule``; under ``raw``, a number is rounded and at least 0.
    """

    config: AnswerConfig
    outputs: int = 1

    def encode(self, answers: Sequence[Sequence[str | None]], count: int) -> Tensor:
        """Return the number of each answer, ``[B, count] int64``; -1 for padding and hidden answers.

        Raises
        ------
        TrainingError
            If an answer is not a whole number, 0 or more.
        """
        out = torch.full((len(answers), count), -1, dtype=torch.int64)
        for b, video in enumerate(answers):
            for n, answer in enumerate(video):
                if answer is not None:
                    out[b, n] = int(expected(whole_number(answer), self.config.rule))
        return out

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, 0], labels.to(outputs.dtype), reduction="sum")

    def texts(self, outputs: Tensor, options: Sequence[Sequence[str]]) -> list[str]:
        numbers = outputs[:, 0].float().tolist()
        return [str(max(0, round(decided(number, self.config.rule)))) for number in numbers]

    def confidences(self, outputs: Tensor) -> list[float | None]:
        return [None] * len(outputs)

    def is_right(self, prediction: str, answer: str) -> bool:
        return int(prediction) == whole_number(answer)

    def describe(self) -> dict[str, Json]:
        return {"head": "number", "rule": self.config.rule}


def whole_number(answer: str) -> int:
    """Return the number that an answer is.

    Raises
    ------
    TrainingError
        If it is not a whole number, 0 or more.
    """
    if not (answer.isascii() and answer.isdecimal() and int(answer) <= _MOST):
        raise TrainingError(f"answer {answer!r}: answer.head=number needs whole numbers, 0 or more")
    return int(answer)
