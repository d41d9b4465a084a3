"""AVST, MUSIC-AVQA's own baseline (facts 4.2): spatial, then temporal grounding, one question at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.coqo.alignment import MatchingHead, matching_loss, other_videos
from trainers.coqo.attention import Attention, Steps, masked_mean, nonempty
from trainers.coqo.config import ModelConfig
from trainers.coqo.model import Answers, AudioProjection, Sizes
from trainers.coqo.question import QuestionEncoder

_HEADS = 4


class SpatialGrounding(nn.Module):
    """Where in a frame its sound comes from."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(2 * dim, dim)  # Lin_gl

    def forward(self, audio: Tensor, frames: Tensor) -> Tensor:
        """a ``[..., d]`` and V ``[..., H, W, d]`` or, pooled, ``[..., d]`` → v ``[..., d]``.

        s = softmax over cells of V^ . a^ (both of unit length), g = s V^, v = Lin(tanh[mean V; g]). A pooled frame is a
        map of one cell.
        """
        cells = frames.flatten(-3, -2) if frames.dim() > audio.dim() else frames[..., None, :]
        unit = F.normalize(cells, dim=-1)  # V^
        weights = (unit @ F.normalize(audio, dim=-1)[..., None]).softmax(-2)  # s, [..., HW, 1]
        grounded = (weights * unit).sum(-2)  # g
        out: Tensor = self.out(torch.tanh(torch.cat([cells.mean(-2), grounded], dim=-1)))
        return out


class TemporalGrounding(nn.Module):
    """When a question's answer happens: LayerNorm(x + MLP(x)) of x = MHA(q, steps, steps)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, _HEADS, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, question: Tensor, steps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """q ``[B, d]``, ``[B, T, d]``, bool ``[B, T]`` → ``[B, d]`` and weights ``[B, T]``."""
        read, weights = self.attention.with_weights(question[:, None], steps, valid)
        return self.norm(read[:, 0] + self.mlp(read[:, 0])), weights[:, 0]


class AVST(nn.Module):
    """The published network, with one projection more where the maps are not d wide (the paper's are).

    The matching loss takes its wrong pictures from other videos of the batch, a random valid frame of one for each
    step; the published loader reads ten more files for them.
    """

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        dim, width = config.dim, sizes.visual[-1]
        self.question = QuestionEncoder(sizes.words, config.question.embed, config.question.hidden, dim)
        self.audio = AudioProjection(sizes.audio, dim)
        self.visual = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.spatial = SpatialGrounding(dim)
        self.match = MatchingHead(dim)
        self.temporal_audio = TemporalGrounding(dim, config.dropout)
        self.temporal_visual = TemporalGrounding(dim, config.dropout)
        self.join = nn.Linear(2 * dim, dim)
        self.classifier = nn.Linear(dim, sizes.answers)

    def forward(self, words: Tensor, q_mask: Tensor, audio: Steps, visual: Steps, videos: Tensor) -> Answers:
        """As :meth:`CoQo.forward`, for N = 1 and modalities of the same steps."""
        if words.shape[1] != 1 or audio.valid.shape != visual.valid.shape:
            raise ValueError(
                f"AVST takes one question, and audio and frames of the same steps; got {words.shape[1]}, "
                f"{audio.valid.shape[1]} and {visual.valid.shape[1]}"
            )
        audio, visual = nonempty(audio), nonempty(visual)
        question = self.question(words)[:, 0]  # q
        a = self.audio(audio.features.float())
        frames = self.visual(visual.features.float())  # V
        v = self.spatial(a, frames)
        heard, audio_weights = self.temporal_audio(question, a, audio.valid)
        seen, visual_weights = self.temporal_visual(question, v, visual.valid)
        both = [heard + masked_mean(a, audio.valid), seen + masked_mean(v, visual.valid)]
        z = self.join(torch.tanh(torch.cat(both, dim=-1)))
        logits = self.classifier(torch.tanh(z * question))
        losses = {"match": self._match(a, v, frames, audio.valid & visual.valid, videos)} if self.training else {}
        attention = {"audio": audio_weights[:, None], "visual": visual_weights[:, None]}
        return Answers(logits[:, None], losses, attention)

    def _match(self, a: Tensor, v: Tensor, frames: Tensor, valid: Tensor, videos: Tensor) -> Tensor:
        """Mean CE over the right and the wrong pair of every valid step, which the published batch interleaves."""
        rows, steps = valid.nonzero(as_tuple=True)
        pairs, partners = other_videos(videos[rows])
        row, step = rows[pairs], steps[pairs]
        wrong = self.spatial(a[row, step], frames[rows[partners], steps[partners]])
        return matching_loss(self.match(a[row, step], v[row, step]), self.match(a[row, step], wrong)) / 2
