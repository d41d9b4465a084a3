"""CoQo: answer a video's questions together, or any one of them alone (facts 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainers.coqo.alignment import InterAlignment, intra_alignment
from trainers.coqo.attention import Steps, masked_mean, nonempty, time_encoding
from trainers.coqo.config import LossConfig, ModelConfig
from trainers.coqo.decoder import AudioAttention, Decoder
from trainers.coqo.qgt import QGT, learnable_tokens
from trainers.coqo.question import QuestionEncoder
from trainers.coqo.spatial_temporal import DividedQGT


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the data says about a model's shapes.

    Attributes
    ----------
    words, answers : lengths of the vocabularies.
    audio, visual : step shapes, e.g. ``(128,)`` and ``(7, 7, 1024)``.
    """

    words: int
    answers: int
    audio: tuple[int, ...]
    visual: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says.

    Attributes
    ----------
    logits : ``[B, N, answers]``.
    losses : unweighted auxiliary losses, scalars; only while training.
    attention : by modality (``audio``, ``visual``), ``[B, N, T]``: each question's weights over the steps.
    """

    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """One modality on its way to the answer.

    Attributes
    ----------
    cls : ``[B, N, d]``, what each question reads.
    pooled : ``[B, d]``, the video's mean over time (and questions, under reading (B)).
    present : bool ``[B]``; false where the video lacks the modality.
    attention : ``[B, N, T]``.
    """

    cls: Tensor
    pooled: Tensor
    present: Tensor
    attention: Tensor


class AudioProjection(nn.Sequential):
    """F_a = Lin(ReLU(Lin(A))), ``[B, T, *step]`` → ``[B, T, d]`` (facts 3.2, AVST's)."""

    def __init__(self, step: tuple[int, ...], dim: int) -> None:
        width = torch.Size(step).numel()
        super().__init__(nn.Flatten(2), nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))


def clock(steps: Steps, config: ModelConfig) -> Tensor:
    """The encoding of each step's time ``[B, T, d]``, zeros without positions."""
    if config.positions == "none":
        return torch.zeros(*steps.times.shape, config.dim, device=steps.times.device)
    return time_encoding(steps.times, config.dim)


class Fusion(nn.Module):
    """F_av = FC(tanh([CLS^a; CLS^v])), mixed with F_q, then the classifier (facts 3.9).

    Parameters
    ----------
    streams :
        How many modalities there are; with none the question answers alone.
    """

    def __init__(self, config: ModelConfig, streams: int, answers: int) -> None:
        super().__init__()
        self.kind = config.fusion
        self.join = nn.Linear(streams * config.dim, config.dim) if streams else None
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, answers)

    def forward(self, questions: Tensor, streams: list[Tensor]) -> Tensor:
        """F_q and each CLS ``[B, N, d]`` → logits ``[B, N, answers]``."""
        fused = questions
        if self.join is not None:
            joined = self.join(torch.tanh(torch.cat(streams, dim=-1)))  # F_av
            fused = joined * questions
            if self.kind == "product_sum":
                fused = fused + joined + questions
        out: Tensor = self.classifier(self.dropout(torch.tanh(fused)))
        return out


class AudioStream(nn.Module):
    """Sound: projection, temporal QGT, audio attention, decoder."""

    def __init__(self, config: ModelConfig, step: tuple[int, ...], tokens: nn.Parameter | None) -> None:
        super().__init__()
        self.config = config
        self.project = AudioProjection(step, config.dim)
        self.qgt = QGT(config.dim, config.qgt, tokens)
        self.attention = AudioAttention(config.dim)
        self.decoder = Decoder(config.dim, config.qgt)

    def forward(self, steps: Steps, questions: Tensor, q_mask: Tensor, level: str) -> Stream:
        present, steps = steps.valid.any(1), nonempty(steps)
        projected = self.project(steps.features.float())  # F_a
        x = projected + clock(steps, self.config).to(projected.dtype)
        guided = self.qgt(x, steps.valid, questions, q_mask)  # F''_a
        stressed, alpha = self.attention(questions, guided, steps.valid)  # F~_a
        cls, _ = self.decoder(questions, stressed, steps.valid)
        pooled = pool(guided, q_mask, steps.valid) if level == "guided" else masked_mean(projected, steps.valid)
        return Stream(cls, pooled, present, alpha)


class VisualStream(nn.Module):
    """Sight: projection, divided spatial and temporal QGT, decoder."""

    def __init__(self, config: ModelConfig, step: tuple[int, ...], tokens: nn.Parameter | None) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(step[-1], config.dim)
        self.qgt = DividedQGT(config, spatial=len(step) == 3, tokens=tokens)
        self.decoder = Decoder(config.dim, config.qgt)

    def forward(self, steps: Steps, questions: Tensor, q_mask: Tensor, level: str) -> Stream:
        present, steps = steps.valid.any(1), nonempty(steps)
        projected = self.project(steps.features.float())  # F_v
        guided = self.qgt(projected, clock(steps, self.config), steps.valid, questions, q_mask)  # F''_v
        cls, weights = self.decoder(questions, guided, steps.valid)
        if level == "guided":
            pooled = pool(guided, q_mask, steps.valid)
        else:
            frames = projected.mean((2, 3)) if projected.dim() == 5 else projected
            pooled = masked_mean(frames, steps.valid)
        return Stream(cls, pooled, present, weights)


def pool(guided: Tensor, q_mask: Tensor, valid: Tensor) -> Tensor:
    """F'' ``[B, 1 or N, T, d]`` → its mean over steps, and over questions where each has its own, ``[B, d]``."""
    steps = masked_mean(guided, valid[:, None])
    return steps[:, 0] if steps.shape[1] == 1 else masked_mean(steps, q_mask)


class CoQo(nn.Module):
    """The full model, or an ablation that lacks a modality.

    Training takes N questions of each video at once, padded and masked; answering takes N = 1. Nothing else differs.
    """

    def __init__(self, config: ModelConfig, loss: LossConfig, sizes: Sizes) -> None:
        super().__init__()
        self.loss = loss
        dim, qgt = config.dim, config.qgt
        self.question = QuestionEncoder(sizes.words, config.question.embed, config.question.hidden, dim)
        tokens = learnable_tokens(dim, qgt) if qgt.token_sharing == "model" else None
        modalities = config.modalities
        self.audio = AudioStream(config, sizes.audio, tokens) if "audio" in modalities else None
        self.visual = VisualStream(config, sizes.visual, tokens) if "visual" in modalities else None
        self.inter = InterAlignment(dim, loss.temperature) if len(modalities) == 2 and loss.inter else None
        self.fusion = Fusion(config, len(modalities), sizes.answers)

    def forward(
        self, words: Tensor, q_mask: Tensor, audio: Steps | None, visual: Steps | None, videos: Tensor
    ) -> Answers:
        """Answer questions.

        Parameters
        ----------
        words : int64 ``[B, N, L]``.
        q_mask : bool ``[B, N]``, false for padded questions; at least one true in each row.
        audio, visual : features ``[B, T, *step]``; None where the model has no such input.
        videos : int64 ``[B]``, equal for rows of the same video.
        """
        questions = self.question(words)  # F_q
        streams: dict[str, Stream] = {}
        if self.audio is not None and audio is not None:
            streams["audio"] = self.audio(audio, questions, q_mask, self.loss.inter_level)
        if self.visual is not None and visual is not None:
            streams["visual"] = self.visual(visual, questions, q_mask, self.loss.inter_level)
        logits = self.fusion(questions, [stream.cls for stream in streams.values()])
        losses = self._alignment(**streams, words=words, q_mask=q_mask, videos=videos) if len(streams) == 2 else {}
        return Answers(logits, losses, {name: stream.attention for name, stream in streams.items()})

    def _alignment(
        self, audio: Stream, visual: Stream, words: Tensor, q_mask: Tensor, videos: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted L_inter and L_intra over the videos that have both modalities."""
        if not self.training:
            return {}
        both = audio.present & visual.present
        losses = {}
        if self.inter is not None:
            losses["inter"] = self.inter(audio.pooled[both], visual.pooled[both], videos[both])
        if self.loss.intra:
            losses["intra"] = intra_alignment(
                audio.cls, visual.cls, q_mask & both[:, None], words, self.loss.temperature
            )
        return losses
