"""FrozenBiLM with what is put on top of it, as one network that scores options and says where they show.

B questions, O options of each, T frames, C numbers of a frame, L tokens of a text, H width of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.cra.outputs import select
from trainers.frozenbilm.config import FrozenBilmConfig
from trainers.frozenbilm.grounding import CraTop, GaussianTop, Options, Top
from trainers.frozenbilm.tower import LanguageModel
from trainers.scaling import Standardise


@dataclass(frozen=True, slots=True)
class Predicted:
    """Scores of all options, and what the predicted one shows; the attributes are those of ``Answered``."""

    logits: Tensor
    attention: Tensor
    weights: Tensor
    interval: Tensor | None


@dataclass(frozen=True, slots=True)
class Scored:
    """Every option by itself.

    Attributes
    ----------
    logits
        ``[B, O] float32``, log(P(Yes) / P(No)); -inf where there is no option.
    attention, weights
        p and w ``[B, O, T] float32``, weights of the frames before and after smoothing. Those of the language model
        sum to what [MASK] leaves for the frames, the others to 1. None in training where the loss does not need them.
    interval
        ``[B, O, 2] float32``, start and end as fractions of the video, from models that propose them; else None.
    text, video
        x_dot and x_bar ``[B, O, H]``, which CRA aligns; else None.
    """

    logits: Tensor
    attention: Tensor | None
    weights: Tensor | None
    interval: Tensor | None
    text: Tensor | None
    video: Tensor | None

    def predicted(self) -> Predicted:
        """Return what the predicted option of each question shows; the first among equal ones is predicted."""
        assert self.attention is not None and self.weights is not None, "asked for in evaluation"
        chosen = self.logits.argmax(1)  # [B]
        interval = None if self.interval is None else select(self.interval, chosen)
        return Predicted(self.logits, select(self.attention, chosen), select(self.weights, chosen), interval)


class FrozenBilm(nn.Module):
    """Reads each option of a question with the frames, and scores it by Yes against No at [MASK].

    All options of a batch are read at once. Published code reads one option after another, which is the same but for
    padding.

    Parameters
    ----------
    language
        The language model.
    top
        What grounds; None reads the language model's attention.
    mask
        The id of [MASK]; each text has one at least, and the last counts.
    mask_padding
        Leave padding out of the words that ``top`` reads.
    scale
        Standardises frames first.
    slots
        Shorter videos are padded to so many frames. Texts stand behind the frames, and would else move with the longest
        video of their batch.
    """

    def __init__(
        self,
        language: LanguageModel,
        top: GaussianTop | CraTop | None,
        mask: int,
        mask_padding: bool = True,
        scale: Standardise | None = None,
        slots: int = 0,
    ) -> None:
        super().__init__()
        self.scale, self.language, self.top = scale, language, top
        self.mask, self.mask_padding, self.slots = mask, mask_padding, slots
        self._left_out: frozenset[str] = frozenset()
        self.register_load_state_dict_post_hook(_forgive)  # type: ignore[no-untyped-call]  # torch does not annotate it

    def forward(self, video: Tensor, valid: Tensor, candidates: Tensor, exists: Tensor) -> Scored:
        """Score options.

        Parameters
        ----------
        video
            ``[B, T, C]``.
        valid
            ``[B, T] bool``, false for padding; at least one frame per row.
        candidates
            ``[B, O, L] int64``, token ids.
        exists
            ``[B, O] bool``, false for padding.
        """
        if self.scale is not None:
            video = self.scale(video)
        given = video.shape[1]
        if given < self.slots:
            video, valid = (
                functional.pad(video, (0, 0, 0, self.slots - given)),
                functional.pad(valid, (0, self.slots - given)),
            )
        options, ids = candidates.shape[1], candidates.flatten(0, 1)  # O, [N, L] of N = B * O
        places = torch.arange(ids.shape[1], device=ids.device)
        at = torch.where(ids == self.mask, places, 0).amax(1)  # [N], the last [MASK]
        each = [tensor.repeat_interleave(options, 0) for tensor in (video, valid)]
        read = self.language(*each, ids, at, attention=not self.training and not isinstance(self.top, CraTop))
        top = Top(read.masked) if self.top is None else self.top(read, Options(exists, self._counted(candidates)))
        logits = self.language.log_odds(top.state).view_as(exists).masked_fill(~exists, -torch.inf)

        def by_question(found: Tensor | None, width: int | None = None) -> Tensor | None:
            return None if found is None else found.view(*exists.shape, *found.shape[1:])[..., :width]

        attention = by_question(read.attention if top.attention is None else top.attention, given)
        weights = by_question(read.attention if top.weights is None else top.weights, given)
        return Scored(logits, attention, weights, *map(by_question, (top.interval, top.text, top.video)))

    def _counted(self, candidates: Tensor) -> Tensor:
        """Return which tokens are words, ``[N, L] bool``."""
        real = candidates != self.language.deberta.embeddings.word_embeddings.padding_idx  # [B, O, L]
        if not self.mask_padding:  # to the end of the longest text of the same option in the batch
            longest = real.sum(-1).amax(0)  # [O]
            real = (torch.arange(real.shape[-1], device=real.device) < longest[:, None]).expand_as(real)
        counted: Tensor = real.flatten(0, 1)
        return counted

    def leave_out_frozen(self) -> None:
        """Leave frozen parameters out of checkpoints from now on: whoever loads one has them from their own file."""
        self._left_out = frozenset(name for name, one in self.named_parameters() if not one.requires_grad)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state without what is left out of checkpoints."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in self._left_out:
            state.pop(prefix + name, None)
        return state


def _forgive(model: Any, found: Any) -> None:
    """Do not miss what is left out of checkpoints."""
    found.missing_keys[:] = [name for name in found.missing_keys if name not in model._left_out]


def build_model(
    config: FrozenBilmConfig,
    language: LanguageModel,
    mask: int,
    feature_dim: int,
    dictionaries: Mapping[str, Tensor],
    scale: Standardise | None = None,
    slots: int = 0,
) -> FrozenBilm:
    """Put on a language model what the settings ask for, with random weights except for its dictionaries.

    Parameters
    ----------
    config
        Which modules there are.
    language
        The language model.
    mask
        The id of [MASK].
    feature_dim
        C.
    dictionaries
        See ``CraTop``.
    scale
        Standardises the frames, and the visual dictionary, whose centres are frames too.
    slots
        See ``FrozenBilm``.
    """
    if scale is not None and "visual_dictionary" in dictionaries:
        dictionaries = {**dictionaries, "visual_dictionary": scale(dictionaries["visual_dictionary"])}
    top: GaussianTop | CraTop | None = None
    if config.model.method == "gaussian":
        top = GaussianTop(language.width, config.model)
    elif config.model.method == "cra":
        top = CraTop(language.width, config.model, feature_dim, dictionaries)
    return FrozenBilm(language, top, mask, config.text.mask_padding, scale, slots)
