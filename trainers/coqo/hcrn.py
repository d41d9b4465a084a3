"""HCRN, a VideoQA network that hosts the QGT as a plug-in.

"Hierarchical Conditional Relation Networks for Video Question Answering", Le et al., CVPR 2020, arXiv:2002.10698; the
published code is thaolmk54/hcrn-videoqa, whose open-ended network this is but for these differences:

- HCRN reads a motion feature of each clip from a 3-D network. A store holds features of frames only, so the mean
  absolute change between neighbouring frames of a clip takes its place.
- Frames are taken evenly from the whole video, 8 in a clip; HCRN takes 16 consecutive ones around each clip's centre.
- A relation unit draws its subsets once for all clips of a step, not for each clip. When it answers, it takes evenly
  spaced objects, where HCRN draws again.
- The classifier has layer normalisation in place of batch normalisation, so that a row never depends on its batch.
- Word vectors start uniform in -1 … 1, as published without GloVe.

B videos, N questions of each, R = B * N rows of the hierarchy, T steps, F numbers of a step's stored feature, L words
of a question, d width of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.coqo.attention import Steps, nonempty
from trainers.coqo.config import HcrnConfig, ModelConfig
from trainers.coqo.layout import Layout
from trainers.coqo.model import Answers, AudioProjection, Sizes, clock
from trainers.coqo.qgt import QGT
from trainers.coqo.question import last_states
from trainers.coqo.spatial_temporal import DividedQGT


class RelationUnit(nn.Module):
    """CRN: relations of 2 … n - 1 of n objects under a condition.

    For each size, one subset of the objects is averaged (g), joined with the condition and mapped (h). As in HCRN,
    there is one subset per size. Each training step draws other subsets; answering takes evenly spaced objects.
    """

    def __init__(self, dim: int, objects: int, gated: bool) -> None:
        super().__init__()
        self.sizes = range(2, objects)
        self.objects = objects
        self.fuse = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in self.sizes)
        self.gates = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in self.sizes) if gated else None

    def forward(self, objects: Tensor, condition: Tensor) -> Tensor:
        """Relate objects ``[R, n, *, d]``; return ``[R, n - 2, *, d]``.

        Parameters
        ----------
        objects
            ``[R, n, *, d]``.
        condition
            A shape that broadcasts to ``[R, *, d]``.
        """
        relations = []
        for number, size in enumerate(self.sizes):
            mean = objects[:, self._subset(size, objects.device)].mean(1)  # g [R, *, d]
            joined = torch.cat([mean, condition.expand_as(mean)], dim=-1)  # [R, *, 2 d]
            relation = F.elu(self.fuse[number](joined))  # h [R, *, d]
            if self.gates is not None:
                relation = relation * torch.sigmoid(self.gates[number](joined))
            relations.append(relation)
        return torch.stack(relations, dim=1)

    def _subset(self, size: int, device: torch.device) -> Tensor:
        if self.training:
            return torch.randperm(self.objects, device=device)[:size]
        return torch.arange(size, device=device) * (self.objects - 1) // (size - 1)


class WordsEncoder(nn.Module):
    """Embedding, dropout, tanh and an LSTM in both directions; q = dropout([h forward; h backward])."""

    def __init__(self, config: ModelConfig, words: int) -> None:
        super().__init__()
        question = config.question
        self.embedding = nn.Embedding(words, question.embed)
        self.word_dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(question.embed, question.hidden // 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(question.hidden, config.dim) if question.hidden != config.dim else nn.Identity()
        self.dropout = nn.Dropout(config.hcrn.question_dropout)

    def forward(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode word ids ``[B, N, L] int64``, padded with 0 on the right, as q ``[B, N, d]``.

        ``lengths`` are those of ``QuestionEncoder.forward``.
        """
        x = torch.tanh(self.word_dropout(self.embedding(words.flatten(0, 1))))  # [R, L, E]
        h, _ = last_states(self.lstm, x, words, lengths)  # [2, R, hidden / 2]
        q: Tensor = self.dropout(self.out(torch.cat([h[0], h[1]], dim=-1)))
        return q.view(*words.shape[:2], -1)


class Aggregation(nn.Module):
    """Averages objects by how well they match the question."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.seen, self.asked = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.join, self.score = nn.Linear(2 * dim, dim), nn.Linear(dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, objects: Tensor, question: Tensor) -> Tensor:
        """Average objects o ``[R, n, d]`` for q ``[R, d]``; return ``[R, d]``.

        v = W_v o, u = W_q q, weights = softmax_n Lin(ELU(Lin([v; u * v]))).
        """
        objects = self.dropout(objects)
        seen = self.seen(objects)
        joined = torch.cat([seen, self.asked(question)[:, None] * seen], dim=-1)  # [R, n, 2 d]
        weights = self.score(F.elu(self.join(joined))).softmax(1)
        out: Tensor = (weights * objects).sum(1)
        return out


class Hierarchy(nn.Module):
    """Relates frames to clips and clips to a video, conditioned on motion, then on the question.

    The question then attends to what remains.

    Parameters
    ----------
    dim
        d.
    width
        F.
    config
        Clips and frames of a clip.
    dropout
        Dropout on the objects that the question attends to.
    """

    def __init__(self, dim: int, width: int, config: HcrnConfig, dropout: float) -> None:
        super().__init__()
        self.clips, self.frames = config.clips, config.frames
        self.clip_motion = RelationUnit(dim, self.frames, gated=False)
        self.clip_question = RelationUnit(dim, self.frames - 2, gated=True)
        self.video_motion = RelationUnit(dim, self.clips, gated=False)
        self.video_question = RelationUnit(dim, self.clips - 2, gated=True)
        self.motion, self.whole_motion = nn.Linear(width, dim), nn.Linear(dim, dim)
        self.motion_sequence = nn.LSTM(width, dim, batch_first=True)
        self.question = nn.Linear(dim, dim)
        self.aggregation = Aggregation(dim, dropout)

    def forward(self, x: Tensor, changes: Tensor, valid: Tensor, question: Tensor) -> Tensor:
        """Read a video for a question.

        Parameters
        ----------
        x
            Steps ``[R, T, d]``.
        changes
            What ``changes`` returns, ``[R, clips, F]``.
        valid
            ``[R, T] bool``, at least one true per row.
        question
            q ``[R, d]``.

        Returns
        -------
        ``[R, d]``.
        """
        motion = self.motion(changes)  # [R, clips, d]
        with torch.autocast(x.device.type, enabled=False):  # few processors have half-precision LSTM kernels
            _, (last, _) = self.motion_sequence(changes.float())  # [1, R, d]
        whole = self.whole_motion(last[0])  # [R, d]
        asked = self.question(question)  # [R, d]
        objects = self.split(x, valid).transpose(1, 2)  # [R, frames, clips, d]
        objects = self.clip_motion(objects, motion)  # [R, frames - 2, clips, d]
        objects = self.clip_question(objects, asked[:, None])  # [R, frames - 4, clips, d]
        clips = objects.transpose(1, 2)  # [R, clips, frames - 4, d]
        clips = self.video_motion(clips, whole[:, None])  # [R, clips - 2, frames - 4, d]
        clips = self.video_question(clips, asked[:, None])  # [R, clips - 4, frames - 4, d]
        out: Tensor = self.aggregation(clips.flatten(1, 2), question)
        return out

    def changes(self, stored: Tensor, valid: Tensor) -> Tensor:
        """Return the mean absolute change between neighbouring frames of each clip.

        Parameters
        ----------
        stored
            Steps ``[B, T, F]`` as the store has them.
        valid
            ``[B, T] bool``, at least one true per row.

        Returns
        -------
        ``[B, clips, F]``.
        """
        frames = self.split(stored, valid)  # [B, clips, frames, F]
        return (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean(2)

    def split(self, x: Tensor, valid: Tensor) -> Tensor:
        """Take evenly spaced valid steps of ``[R, T, *]`` as ``[R, clips, frames, *]``; if too few, steps repeat."""
        count = self.clips * self.frames
        order = torch.argsort(~valid, dim=1, stable=True)  # the valid steps come first, in order of time
        at = torch.arange(count, device=x.device) * valid.sum(1, keepdim=True) // count
        rows = torch.arange(len(x), device=x.device)[:, None]
        return x[rows, order.gather(1, at)].view(len(x), self.clips, self.frames, -1)


class HCRN(nn.Module):
    """One hierarchy per modality, with or without a QGT before it.

    ``inputs: visual`` is the published host but for the differences at the head of this module; sound has a hierarchy
    of its own. HCRN adds no times to its features, and neither does the preset ``hcrn`` (``model.positions: none``).
    """

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.question = WordsEncoder(config, sizes.words)
        self.names = config.modalities
        self.project, self.qgt, self.hierarchy = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        if "audio" in self.names:
            width = torch.Size(sizes.audio).numel()
            self.hierarchy["audio"] = Hierarchy(dim, width, config.hcrn, config.dropout)
            self.project["audio"] = AudioProjection(sizes.audio, dim)
            if config.hcrn.qgt:
                self.qgt["audio"] = QGT(dim, config.qgt)
        if "visual" in self.names:
            self.hierarchy["visual"] = Hierarchy(dim, sizes.visual[-1], config.hcrn, config.dropout)
            self.project["visual"] = nn.Linear(sizes.visual[-1], dim)
            if config.hcrn.qgt:
                self.qgt["visual"] = DividedQGT(config, spatial=len(sizes.visual) == 3)
        self.asked = nn.Linear(dim, dim)
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear((1 + len(self.names)) * dim, dim),
            nn.ELU(),
            nn.LayerNorm(dim),
            nn.Dropout(config.dropout),
            nn.Linear(dim, sizes.answers),
        )
        for part in (self.question, self.project, self.hierarchy, self.asked, self.classifier):
            part.apply(_initialise)

    def forward(
        self,
        words: Tensor,
        q_mask: Tensor,
        audio: Steps | None,
        visual: Steps | None,
        videos: Tensor,
        layout: Layout | None = None,
    ) -> Answers:
        """Answer questions, without auxiliary losses and attention. See ``CoQo.forward``."""
        questions = self.question(words, layout.lengths if layout is not None else None)  # [B, N, d]
        parts = [
            self._stream(name, nonempty(steps), questions, q_mask)
            for name, steps in (("audio", audio), ("visual", visual))
            if steps is not None and name in self.names
        ]
        parts.append(self.asked(questions.flatten(0, 1)))
        logits = self.classifier(torch.cat(parts, dim=-1))  # [R, answers]
        return Answers(logits.view(*q_mask.shape, -1))  # [B, N, answers]

    def _stream(self, name: str, steps: Steps, questions: Tensor, q_mask: Tensor) -> Tensor:
        """Read one modality for every question; return ``[R, d]``."""
        stored, hierarchy = steps.features.float(), self.hierarchy[name]
        assert isinstance(hierarchy, Hierarchy)
        x = self.project[name](stored)  # [B, T, d], or [B, T, H, W, d] for maps
        time = clock(steps, self.config).to(x.dtype)
        if not self.config.hcrn.qgt:
            guided = ((x.mean((2, 3)) if x.dim() == 5 else x) + time)[:, None]
        elif name == "audio":
            guided = self.qgt[name](x + time, steps.valid, questions, q_mask)
        else:
            guided = self.qgt[name](x, time, steps.valid, questions, q_mask)
        count = q_mask.shape[1]
        rows = guided.expand(-1, count, -1, -1).flatten(0, 1)  # [R, T, d] of [B, 1 or N, T, d]
        pooled = stored.mean((2, 3)) if name == "visual" and stored.dim() == 5 else stored.flatten(2)  # [B, T, F]
        changes = hierarchy.changes(pooled, steps.valid).repeat_interleave(count, dim=0)  # [R, clips, F]
        valid = steps.valid.repeat_interleave(count, dim=0)  # [R, T]
        out: Tensor = hierarchy(rows, changes, valid, questions.flatten(0, 1))
        return out


def _initialise(module: nn.Module) -> None:
    """Start as HCRN does: Xavier-uniform maps and LSTMs without biases, word vectors uniform in -1 … 1."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LSTM):
        for name, parameter in module.named_parameters():
            (nn.init.zeros_ if "bias" in name else nn.init.xavier_uniform_)(parameter)
    elif isinstance(module, nn.Embedding):
        nn.init.uniform_(module.weight, -1.0, 1.0)
