"""HCRN, a VideoQA network that hosts the QGT as a plug-in.

"Hierarchical Conditional Relation Networks for Video Question Answering", Le et al., CVPR 2020, arXiv:2002.10698. HCRN
also reads a motion feature of each clip from a 3-D network. A store holds features of frames only, so the mean absolute
change between neighbouring frames of a clip takes its place.

B videos, N questions of each, R = B * N rows of the hierarchy, T steps, d width of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.coqo.attention import Steps, nonempty
from trainers.coqo.config import ModelConfig
from trainers.coqo.model import Answers, AudioProjection, Sizes, clock
from trainers.coqo.qgt import QGT
from trainers.coqo.question import QuestionEncoder
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


class Hierarchy(nn.Module):
    """Relates frames to clips and clips to a video, conditioned on motion, then on the question.

    The question then attends to what remains.
    """

    def __init__(self, dim: int, clips: int, frames: int) -> None:
        super().__init__()
        self.clips, self.frames = clips, frames
        self.clip_motion = RelationUnit(dim, frames, gated=False)
        self.clip_question = RelationUnit(dim, frames - 2, gated=True)
        self.video_motion = RelationUnit(dim, clips, gated=False)
        self.video_question = RelationUnit(dim, clips - 2, gated=True)
        self.motion = nn.Linear(dim, dim)
        self.motion_sequence = nn.LSTM(dim, dim, batch_first=True)
        self.seen, self.asked, self.score = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(2 * dim, 1)

    def forward(self, x: Tensor, valid: Tensor, question: Tensor) -> Tensor:
        """Read a video for a question.

        Parameters
        ----------
        x
            Steps ``[R, T, d]``.
        valid
            ``[R, T] bool``, at least one true per row.
        question
            q ``[R, d]``.

        Returns
        -------
        ``[R, d]``.
        """
        frames = self.split(x, valid)  # [R, clips, frames, d]
        motion = self.motion((frames[:, :, 1:] - frames[:, :, :-1]).abs().mean(2))  # [R, clips, d]
        with torch.autocast(x.device.type, enabled=False):  # few processors have half-precision LSTM kernels
            _, (whole, _) = self.motion_sequence(motion.float())  # [1, R, d]
        objects = frames.transpose(1, 2)  # [R, frames, clips, d]
        objects = self.clip_motion(objects, motion)  # [R, frames - 2, clips, d]
        objects = self.clip_question(objects, question[:, None])  # [R, frames - 4, clips, d]
        clips = objects.transpose(1, 2)  # [R, clips, frames - 4, d]
        clips = self.video_motion(clips, whole[0][:, None])  # [R, clips - 2, frames - 4, d]
        clips = self.video_question(clips, question[:, None])  # [R, clips - 4, frames - 4, d]
        return self._read(clips.flatten(1, 2), question)

    def split(self, x: Tensor, valid: Tensor) -> Tensor:
        """Take evenly spaced valid steps as ``[R, clips, frames, d]``; if there are too few, steps repeat."""
        count = self.clips * self.frames
        order = torch.argsort(~valid, dim=1, stable=True)  # the valid steps come first, in order of time
        at = torch.arange(count, device=x.device) * valid.sum(1, keepdim=True) // count
        rows = torch.arange(len(x), device=x.device)[:, None]
        return x[rows, order.gather(1, at)].view(len(x), self.clips, self.frames, -1)

    def _read(self, x: Tensor, question: Tensor) -> Tensor:
        """Average objects ``[R, n, d]`` by how well they match the question ``[R, d]``; return ``[R, d]``."""
        seen = self.seen(x)
        joined = F.elu(torch.cat([seen, self.asked(question)[:, None] * seen], dim=-1))
        weights = self.score(joined).softmax(1)
        out: Tensor = (weights * x).sum(1)
        return out


class HCRN(nn.Module):
    """One hierarchy per modality, with or without a QGT before it.

    ``inputs: visual`` is the published host; sound has a hierarchy of its own. Where HCRN's classifier has batch
    normalisation, this one has layer normalisation, so that an answer never depends on the batch.
    """

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.question = QuestionEncoder(sizes.words, config.question.embed, config.question.hidden, dim)
        self.names = config.modalities
        self.project, self.qgt, self.hierarchy = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name in self.names:
            self.hierarchy[name] = Hierarchy(dim, config.hcrn.clips, config.hcrn.frames)
        if "audio" in self.names:
            self.project["audio"] = AudioProjection(sizes.audio, dim)
            if config.hcrn.qgt:
                self.qgt["audio"] = QGT(dim, config.qgt)
        if "visual" in self.names:
            self.project["visual"] = nn.Linear(sizes.visual[-1], dim)
            if config.hcrn.qgt:
                self.qgt["visual"] = DividedQGT(config, spatial=len(sizes.visual) == 3)
        width = (1 + len(self.names)) * dim
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(width, dim),
            nn.ELU(),
            nn.LayerNorm(dim),
            nn.Dropout(config.dropout),
            nn.Linear(dim, sizes.answers),
        )

    def forward(
        self, words: Tensor, q_mask: Tensor, audio: Steps | None, visual: Steps | None, videos: Tensor
    ) -> Answers:
        """Answer questions, without auxiliary losses and attention. See ``CoQo.forward``."""
        questions = self.question(words)  # [B, N, d]
        parts = [questions.flatten(0, 1)]
        for name, steps in (("audio", audio), ("visual", visual)):
            if steps is not None and name in self.names:
                parts.append(self._stream(name, nonempty(steps), questions, q_mask))
        logits = self.classifier(torch.cat(parts, dim=-1))  # [R, answers]
        return Answers(logits.view(*q_mask.shape, -1))  # [B, N, answers]

    def _stream(self, name: str, steps: Steps, questions: Tensor, q_mask: Tensor) -> Tensor:
        """Read one modality for every question; return ``[R, d]``."""
        x = self.project[name](steps.features.float())  # [B, T, d], or [B, T, H, W, d] for maps
        time = clock(steps, self.config).to(x.dtype)
        if not self.config.hcrn.qgt:
            guided = ((x.mean((2, 3)) if x.dim() == 5 else x) + time)[:, None]
        elif name == "audio":
            guided = self.qgt[name](x + time, steps.valid, questions, q_mask)
        else:
            guided = self.qgt[name](x, time, steps.valid, questions, q_mask)
        count = q_mask.shape[1]
        rows = guided.expand(-1, count, -1, -1).flatten(0, 1)  # [R, T, d] of [B, 1 or N, T, d]
        valid = steps.valid.repeat_interleave(count, dim=0)  # [R, T]
        out: Tensor = self.hierarchy[name](rows, valid, questions.flatten(0, 1))
        return out
