"""AVST, the baseline of MUSIC-AVQA: spatial, then temporal grounding, one question at a time.

"Learning to Answer Questions in Dynamic Audio-Visual Scenarios", Li et al., CVPR 2022, arXiv:2203.14072;
``docs/facts/coqo.md`` section 4.2.

B videos, T steps, H x W cells of a map, d width of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.coqo.alignment import MatchingHead, matching_loss, other_videos
from trainers.coqo.attention import Attention, Steps, masked_mean, nonempty
from trainers.coqo.config import ModelConfig
from trainers.coqo.layout import Layout
from trainers.coqo.model import Answers, AudioProjection, Sizes, family_encoder

_HEADS = 4


class SpatialGrounding(nn.Module):
    """Finds where in a frame its sound comes from."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(2 * dim, dim)  # Lin_gl

    def forward(self, audio: Tensor, frames: Tensor) -> Tensor:
        """Ground the sound of each step in its frame.

        s = softmax over cells of V^ . a^ (both of unit length), g = s V^, v = Lin(tanh[mean V; g]).

        Parameters
        ----------
        audio
            a ``[..., d]``.
        frames
            V ``[..., H, W, d]``, or ``[..., d]`` if pooled: a pooled frame is a map of one cell.

        Returns
        -------
        v ``[..., d]``.
        """
        cells = frames.flatten(-3, -2) if frames.dim() > audio.dim() else frames[..., None, :]  # [..., HW, d]
        unit = F.normalize(cells, dim=-1)  # V^
        weights = (unit @ F.normalize(audio, dim=-1)[..., None]).softmax(-2)  # s, [..., HW, 1]
        grounded = (weights * unit).sum(-2)  # g, [..., d]
        out: Tensor = self.out(torch.tanh(torch.cat([cells.mean(-2), grounded], dim=-1)))
        return out


class TemporalGrounding(nn.Module):
    """Finds when the answer to a question happens: LayerNorm(x + MLP(x)) of x = MHA(q, steps, steps)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, _HEADS, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, question: Tensor, steps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Read valid steps for a question.

        Parameters
        ----------
        question
            q ``[B, d]``.
        steps
            ``[B, T, d]``.
        valid
            ``[B, T] bool``, at least one true per row.

        Returns
        -------
        ``[B, d]``, and the weights of the steps ``[B, T]``.
        """
        read, weights = self.attention.with_weights(question[:, None], steps, valid)  # [B, 1, d], [B, 1, T]
        return self.norm(read[:, 0] + self.mlp(read[:, 0])), weights[:, 0]


class AVST(nn.Module):
    """The published network, with one more projection if the maps are not d wide, as the paper's are.

    With ``model.question.padded_to`` 14, as in the preset ``avst``, equal weights give the published logits; null ends
    each question at its last word. The published ids of words follow the rows of the training file, ours the alphabet,
    so that the word vectors of a published checkpoint must be reordered.

    Two things differ in training. For each step, the matching loss takes its wrong picture from a random valid frame of
    another video of the batch; the published loader reads ten more files for these pictures. And the published trainer
    starts the projection of sound, the spatial grounding and the matching head from weights that were trained on
    grounding alone (``docs/facts/coqo.md`` section 4.3); here they start at random.
    """

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        dim, width = config.dim, sizes.visual[-1]
        self.question = family_encoder(config, sizes.words)
        self.audio = AudioProjection(sizes.audio, dim)
        self.visual = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.spatial = SpatialGrounding(dim)
        self.match = MatchingHead(dim)
        self.temporal_audio = TemporalGrounding(dim, config.dropout)
        self.temporal_visual = TemporalGrounding(dim, config.dropout)
        self.join = nn.Linear(2 * dim, dim)
        self.classifier = nn.Linear(dim, sizes.answers)

    def forward(
        self, words: Tensor, q_mask: Tensor, audio: Steps, visual: Steps, videos: Tensor, layout: Layout | None = None
    ) -> Answers:
        """Answer one question per video; both modalities must have the same steps. See ``CoQo.forward``.

        Raises
        ------
        ValueError
            If there are several questions per video, or the modalities differ in their steps.
        """
        if words.shape[1] != 1 or audio.valid.shape != visual.valid.shape:
            raise ValueError(
                "AVST takes one question per video, and as many steps of audio as frames; got "
                f"{words.shape[1]} questions, {audio.valid.shape[1]} steps and {visual.valid.shape[1]} frames"
            )
        audio, visual = nonempty(audio), nonempty(visual)
        question = self.question(words, layout.lengths if layout is not None else None)[:, 0]  # q [B, d]
        a = self.audio(audio.features.float())  # [B, T, d]
        frames = self.visual(visual.features.float())  # V [B, T, H, W, d] or [B, T, d]
        v = self.spatial(a, frames)  # [B, T, d]
        heard, audio_weights = self.temporal_audio(question, a, audio.valid)  # att_a [B, d], [B, T]
        seen, visual_weights = self.temporal_visual(question, v, visual.valid)  # att_v [B, d], [B, T]
        both = [heard + masked_mean(a, audio.valid), seen + masked_mean(v, visual.valid)]
        z = self.join(torch.tanh(torch.cat(both, dim=-1)))  # [B, d]
        logits = self.classifier(torch.tanh(z * question))  # [B, answers]
        losses = {"match": self._match(a, v, frames, audio.valid & visual.valid, videos)} if self.training else {}
        attention = {"audio": audio_weights[:, None], "visual": visual_weights[:, None]}
        return Answers(logits[:, None], losses, attention)

    def _match(self, a: Tensor, v: Tensor, frames: Tensor, valid: Tensor, videos: Tensor) -> Tensor:
        """Return the mean CE over the right and the wrong pair of each valid step."""
        rows, steps = valid.nonzero(as_tuple=True)  # one entry per valid step
        pairs, partners = other_videos(videos[rows])
        row, step = rows[pairs], steps[pairs]
        wrong = self.spatial(a[row, step], frames[rows[partners], steps[partners]])
        return matching_loss(self.match(a[row, step], v[row, step]), self.match(a[row, step], wrong)) / 2
