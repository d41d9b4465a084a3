"""CoQo: answer all questions of a video together, or any one of them alone.

"Guiding Audio-Visual Question Answering with Collective Question Reasoning", Pei et al., IJCV 133(10), 2025. The
forward pass follows ``docs/facts/coqo.md`` section 3, and the symbols in comments are those of that page.

B videos, N questions of each, L words of a question, T steps, H x W cells of a map, d width of the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainers.coqo.alignment import InterAlignment, intra_alignment
from trainers.coqo.attention import Steps, masked_mean, nonempty, time_encoding
from trainers.coqo.config import LossConfig, ModelConfig
from trainers.coqo.decoder import AudioAttention, Decoder
from trainers.coqo.layout import Layout
from trainers.coqo.qgt import QGT, learnable_tokens
from trainers.coqo.question import QuestionEncoder
from trainers.coqo.spatial_temporal import DividedQGT


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a model that depend on its data.

    Attributes
    ----------
    words
        Length of the vocabulary of questions.
    answers
        Number of answer classes.
    audio
        Shape of one step of sound, e.g. ``(128,)``.
    visual
        Shape of one frame, e.g. ``(7, 7, 1024)``.
    """

    words: int
    answers: int
    audio: tuple[int, ...]
    visual: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model answers.

    Attributes
    ----------
    logits
        ``[B, N, answers]``.
    losses
        Auxiliary losses by name, scalars without their weights; only in training mode.
    attention
        Modality (``audio``, ``visual``) to ``[B, N, T]``, each question's weights over the steps.
    """

    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """One modality on its way to the answer.

    Attributes
    ----------
    cls
        ``[B, N, d]``, what each question reads.
    pooled
        ``[B, d]``, the mean over time, and under reading (B) over questions.
    present
        ``[B] bool``, false if the video lacks the modality.
    attention
        ``[B, N, T]``, each question's weights over the steps.
    """

    cls: Tensor
    pooled: Tensor
    present: Tensor
    attention: Tensor


class AudioProjection(nn.Sequential):
    """F_a = Lin(ReLU(Lin(A))): maps ``[B, T, *step]`` to ``[B, T, d]``, as in AVST (section 3.2)."""

    def __init__(self, step: tuple[int, ...], dim: int) -> None:
        width = torch.Size(step).numel()
        super().__init__(nn.Flatten(2), nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))


def family_encoder(config: ModelConfig, words: int) -> QuestionEncoder:
    """Make the question encoder of the MUSIC-AVQA family for a vocabulary of ``words`` ids."""
    question = config.question
    return QuestionEncoder(words, question.embed, question.hidden, config.dim, question.padded_to)


def clock(steps: Steps, config: ModelConfig) -> Tensor:
    """Return the encoding of each step's time, ``[B, T, d]``; zeros if the settings have no positions, or time none."""
    if config.positions == "none":
        return torch.zeros(*steps.times.shape, config.dim, device=steps.times.device)
    known = ~steps.times.isnan()
    return time_encoding(steps.times.nan_to_num(), config.dim) * known[..., None]


class Fusion(nn.Module):
    """F_av = FC(tanh([CLS^a; CLS^v])), mixed with F_q, then the classifier (section 3.9).

    Parameters
    ----------
    config
        Width, dropout, and how F_av and F_q are mixed.
    streams
        Number of modalities; without any, the question answers alone.
    answers
        Number of answer classes.
    """

    def __init__(self, config: ModelConfig, streams: int, answers: int) -> None:
        super().__init__()
        self.kind = config.fusion
        self.join = nn.Linear(streams * config.dim, config.dim) if streams else None
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, answers)

    def forward(self, questions: Tensor, streams: list[Tensor]) -> Tensor:
        """Classify F_q and the CLS of each stream, ``[B, N, d]`` each; return logits ``[B, N, answers]``."""
        fused = questions
        if self.join is not None:
            joined = self.join(torch.tanh(torch.cat(streams, dim=-1)))  # F_av [B, N, d]
            fused = joined * questions
            if self.kind == "product_sum":
                fused = fused + joined + questions
        out: Tensor = self.classifier(self.dropout(torch.tanh(fused)))
        return out


class AudioStream(nn.Module):
    """The sound: projection, temporal QGT, audio attention, decoder."""

    def __init__(self, config: ModelConfig, step: tuple[int, ...], tokens: nn.Parameter | None) -> None:
        super().__init__()
        self.config = config
        self.project = AudioProjection(step, config.dim)
        self.qgt = QGT(config.dim, config.qgt, tokens)
        self.attention = AudioAttention(config.dim)
        self.decoder = Decoder(config.dim, config.qgt)

    def forward(self, steps: Steps, questions: Tensor, q_mask: Tensor, level: str) -> Stream:
        """Read the sound for questions F_q ``[B, N, d]``; ``level`` is ``LossConfig.inter_level``."""
        present, steps = steps.valid.any(1), nonempty(steps)
        projected = self.project(steps.features.float())  # F_a [B, T, d]
        x = projected + clock(steps, self.config).to(projected.dtype)
        guided = self.qgt(x, steps.valid, questions, q_mask)  # F''_a [B, 1 or N, T, d]
        stressed, alpha = self.attention(questions, guided, steps.valid)  # F~_a [B, N, T, d], [B, N, T]
        cls, _ = self.decoder(questions, stressed, steps.valid)  # CLS^a [B, N, d]
        pooled = pool(guided, q_mask, steps.valid) if level == "guided" else masked_mean(projected, steps.valid)
        return Stream(cls, pooled, present, alpha)


class VisualStream(nn.Module):
    """The picture: projection, divided spatial and temporal QGT, decoder."""

    def __init__(self, config: ModelConfig, step: tuple[int, ...], tokens: nn.Parameter | None) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(step[-1], config.dim)
        self.qgt = DividedQGT(config, spatial=len(step) == 3, tokens=tokens)
        self.decoder = Decoder(config.dim, config.qgt)

    def forward(self, steps: Steps, questions: Tensor, q_mask: Tensor, level: str) -> Stream:
        """Read the frames for questions F_q ``[B, N, d]``; ``level`` is ``LossConfig.inter_level``."""
        present, steps = steps.valid.any(1), nonempty(steps)
        projected = self.project(steps.features.float())  # F_v [B, T, H, W, d] or [B, T, d]
        # F''_v [B, 1 or N, T, d]
        guided = self.qgt(projected, clock(steps, self.config), steps.valid, questions, q_mask)
        cls, weights = self.decoder(questions, guided, steps.valid)  # CLS^v [B, N, d], [B, N, T]
        if level == "guided":
            pooled = pool(guided, q_mask, steps.valid)
        else:
            frames = projected.mean((2, 3)) if projected.dim() == 5 else projected
            pooled = masked_mean(frames, steps.valid)
        return Stream(cls, pooled, present, weights)


def pool(guided: Tensor, q_mask: Tensor, valid: Tensor) -> Tensor:
    """Average F'' ``[B, 1 or N, T, d]`` over steps, and over questions if each has its own; return ``[B, d]``."""
    steps = masked_mean(guided, valid[:, None])  # [B, 1 or N, d]
    return steps[:, 0] if steps.shape[1] == 1 else masked_mean(steps, q_mask)


class CoQo(nn.Module):
    """CoQo, or an ablation that lacks a modality.

    Training takes N questions of each video at once, padded and masked; answering takes N = 1. Nothing else differs.
    """

    def __init__(self, config: ModelConfig, loss: LossConfig, sizes: Sizes) -> None:
        super().__init__()
        self.loss = loss
        dim, qgt = config.dim, config.qgt
        self.question = family_encoder(config, sizes.words)
        tokens = learnable_tokens(dim, qgt) if qgt.token_sharing == "model" else None
        modalities = config.modalities
        self.audio = AudioStream(config, sizes.audio, tokens) if "audio" in modalities else None
        self.visual = VisualStream(config, sizes.visual, tokens) if "visual" in modalities else None
        self.inter = InterAlignment(dim, loss.temperature) if len(modalities) == 2 and loss.inter else None
        self.fusion = Fusion(config, len(modalities), sizes.answers)

    def forward(
        self,
        words: Tensor,
        q_mask: Tensor,
        audio: Steps | None,
        visual: Steps | None,
        videos: Tensor,
        layout: Layout | None = None,
    ) -> Answers:
        """Answer questions.

        Parameters
        ----------
        words
            ``[B, N, L] int64``, word ids.
        q_mask
            ``[B, N] bool``, false for padded questions; at least one true per row.
        audio
            The sound, ``[B, T, *step]``; None if the model has no such input.
        visual
            The frames, ``[B, T, *step]``; None if the model has no such input.
        videos
            ``[B] int64``, equal for rows of the same video.
        layout
            Places in the batch; None computes them, for which the device is waited for.
        """
        layout = layout if layout is not None else Layout.of(words, audio, visual, videos)
        questions = self.question(words, layout.lengths)  # F_q [B, N, d]
        streams: dict[str, Stream] = {}
        if self.audio is not None and audio is not None:
            streams["audio"] = self.audio(audio, questions, q_mask, self.loss.inter_level)
        if self.visual is not None and visual is not None:
            streams["visual"] = self.visual(visual, questions, q_mask, self.loss.inter_level)
        logits = self.fusion(questions, [stream.cls for stream in streams.values()])
        losses: dict[str, Tensor] = {}
        if self.training and len(streams) == 2:
            losses = self._alignment(**streams, words=words, q_mask=q_mask, videos=videos, layout=layout)
        return Answers(logits, losses, {name: stream.attention for name, stream in streams.items()})

    def _alignment(
        self, audio: Stream, visual: Stream, words: Tensor, q_mask: Tensor, videos: Tensor, layout: Layout
    ) -> dict[str, Tensor]:
        """Return L_inter and L_intra, without weights, over the videos that have both modalities."""
        losses, both = {}, layout.both
        if self.inter is not None:
            pooled = audio.pooled[both], visual.pooled[both]
            losses["inter"] = self.inter(*pooled, videos[both], layout.contrasted)
        if self.loss.intra:
            asked = q_mask & (audio.present & visual.present)[:, None]
            losses["intra"] = intra_alignment(audio.cls, visual.cls, asked, words, self.loss.temperature)
        return losses
