"""What is put on the language model: NExT-GQA's Gaussian (NG, NG+), and CRA.

``docs/facts/frozenbilm.md`` sections 8 and 9; the names of variables are those of these sections. The modules are those
of ``trainers.cra``, as wide as the language model.

N texts, F frames, L tokens of a text, S = F + L, H width of a state, C numbers of a frame, K clusters of a dictionary,
E numbers of a node's text embedding. The N texts are those of B questions with O options each, N = B * O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.cra.grounding import Grounding, masked_softmax, pool
from trainers.cra.intervention import NODES, Adjustment, BackDoor
from trainers.cra.temp_clip import PostNormBlock, gaussian_interval, gaussian_weights
from trainers.frozenbilm.config import BLOCK_HEADS, ModelConfig
from trainers.frozenbilm.tower import JointStates, pick


@dataclass(frozen=True, slots=True)
class Options:
    """Which texts belong together.

    Attributes
    ----------
    exists
        ``[B, O] bool``, false for padding.
    counted
        ``[N, L] bool``, tokens of the texts that words may be read from.
    """

    exists: Tensor
    counted: Tensor


@dataclass(frozen=True, slots=True)
class Top:
    """What a module on top finds.

    Attributes
    ----------
    state
        ``[N, H]``, the state from which the answer is read.
    attention, weights
        p and w ``[N, F] float32``, weights of the frames before and after smoothing, each row of sum 1; None where the
        language model's own attention is read.
    interval
        ``[N, 2] float32``, start and end as fractions of the video; None if none is proposed.
    text, video
        x_dot and x_bar ``[N, H]``, which are aligned; None if nothing is.
    """

    state: Tensor
    attention: Tensor | None = None
    weights: Tensor | None = None
    interval: Tensor | None = None
    text: Tensor | None = None
    video: Tensor | None = None


class GaussianTop(nn.Module):
    """Predicts a centre and a width from the state at [MASK], and weights the frames by them (section 8)."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.repaired = config.grounding == "repaired"
        self.block = PostNormBlock(width, BLOCK_HEADS, config.dropout)
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, 2))

    def forward(self, read: JointStates, options: Options) -> Top:
        """Propose a span for each text."""
        frames, valid = read.states[:, : read.frames], read.present[:, : read.frames]
        joint = pick(self.block(read.states, read.present), read.at)  # T(h)[MASK], [N, H]
        centre, width = torch.sigmoid(self.head(joint)).float().unbind(-1)  # [N] each
        # Published time runs over all slots, padding included.
        g = gaussian_weights(centre, width, valid if self.repaired else torch.ones_like(valid))  # [N, F]
        changed = self.block(frames, valid, g)  # v' [N, F, H]
        if self.repaired:
            kept = g * valid
            state = read.masked + pool(changed, kept / kept.sum(1, keepdim=True))
        else:
            # The answer is read at [MASK] and v' stands at the frames: no gradient goes through it, as published.
            state = pick(torch.cat([changed, read.states[:, read.frames :]], dim=1), read.at)
        return Top(state, interval=gaussian_interval(centre, width))


def _fusion(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width))


class CraTop(nn.Module):
    """CRA's grounding and interventions on the states of the language model (section 9).

    Parameters
    ----------
    width
        H.
    config
        Which modules there are.
    feature_dim
        C, the width of the interventions' attention.
    dictionaries
        ``linguistic_dictionary [K, 8, E]`` if ``config.back``, ``visual_dictionary [K, C]`` if ``config.front``.
    """

    def __init__(self, width: int, config: ModelConfig, feature_dim: int, dictionaries: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.repaired, self.mixes = config.grounding == "repaired", config.batch_mixing
        self.word = nn.Linear(width, 1)
        self.fusion_lin, self.fusion = _fusion(width), _fusion(width)
        nodes = len(NODES) * math.ceil(feature_dim / len(NODES))  # C, but each node gives as many numbers
        self.back = BackDoor(dictionaries["linguistic_dictionary"], width, nodes) if config.back else None
        self.grounding = Grounding(width, config.gaussian, config.double_softmax, config.gated)
        self.block = PostNormBlock(width, BLOCK_HEADS, config.dropout)
        self.front = (
            Adjustment(dictionaries["visual_dictionary"], width, config.batch_mixing, feature_dim)
            if config.front
            else None
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, read: JointStates, options: Options) -> Top:
        """Ground each text, and adjust the state at its [MASK]."""
        frames, valid = read.states[:, : read.frames], read.present[:, : read.frames]
        words, x_phi = read.states[:, read.frames :], read.masked  # [N, L, H], [N, H]
        own = torch.arange(words.shape[1], device=words.device) == (read.at - read.frames)[:, None]  # [N, L]
        alpha = masked_softmax(self.word(words).squeeze(-1), options.counted & ~own)  # [N, L]
        x_dot = self.fusion_lin(torch.cat([x_phi, pool(words, alpha)], dim=-1))  # [N, H]
        if self.back is not None:
            x_dot = self.back(x_dot)
        p, w = self.grounding(frames, x_dot, valid)  # [N, F] each
        z = self.block(frames, valid)  # [N, F, H]
        x_bar = self.fusion(torch.cat([x_phi, pool(z, w)], dim=-1))  # [N, H]
        mean = valid / valid.sum(1, keepdim=True)  # [N, F]
        x_star = self.fusion(torch.cat([x_phi, pool(z, mean)], dim=-1))  # [N, H]
        state = x_phi + x_bar if self.repaired else x_phi
        if self.front is not None:
            state = state + self._adjust(self.front, x_star, x_bar, options.exists)
        return Top(self.norm(state), p, w, text=x_dot, video=x_bar)

    def _adjust(self, front: Adjustment, x_star: Tensor, x_bar: Tensor, exists: Tensor) -> Tensor:
        """Return y ``[N, H]``. Where samples mix, they do so with those of the same option, as published."""
        if not self.mixes:
            return front.adjust(x_star, x_bar)
        by_option = [tensor.view(*exists.shape, -1).unbind(1) for tensor in (x_star, x_bar)]  # [B, H] each
        added = [front.adjust(x, m, rows) for x, m, rows in zip(*by_option, exists.unbind(1), strict=True)]
        return torch.stack(added, dim=1).flatten(0, 1)
