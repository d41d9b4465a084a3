"""The language model: DeBERTa-v2 of transformers, with adapters, frames before the text, and its two decoder passes.

``docs/facts/frozenbilm.md`` sections 1 to 4; section 10 tells how it is built from transformers. Names of parameters
are the published ones.

N texts, F frames, C numbers of a frame, L tokens of a text, S = F + L, H width of a state, V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainers.errors import TrainingError
from trainers.frozenbilm.config import ModelConfig

DECODER_PASSES = 2
_STD, _SMALL_STD, _SMALL_LIMIT = 0.02, 1e-3, 2e-3


@dataclass(frozen=True, slots=True)
class JointStates:
    """Frames and text in one sequence, after the language model.

    Attributes
    ----------
    states
        h ``[N, S, H]``, the decoder's states; the first F belong to frames.
    present
        ``[N, S] bool``, false for padding.
    at
        ``[N] int64``, the place of [MASK].
    frames
        F.
    attention
        ``[N, F] float32``, what the plain last layer at [MASK] attends to in the frames, a mean over its heads; None if
        it was not asked for.
    """

    states: Tensor
    present: Tensor
    at: Tensor
    frames: int
    attention: Tensor | None

    @property
    def masked(self) -> Tensor:
        """``[N, H]``, the states at [MASK]."""
        return pick(self.states, self.at)


def pick(states: Tensor, at: Tensor) -> Tensor:
    """Return ``[N, *]``: of each row of ``[N, S, *]`` the entry at ``[N]``."""
    return states[torch.arange(len(states), device=states.device), at]


class Adapter(nn.Module):
    """x + Up(Dropout(ReLU(Down x))) on ``[..., H]``."""

    def __init__(self, width: int, reduction: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // reduction)
        self.up = nn.Linear(width // reduction, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., H]`` to ``[..., H]``."""
        adapted: Tensor = x + self.up(self.dropout(functional.relu(self.down(x))))
        return adapted


class AdaptedOutput(nn.Module):
    """The end of attention, or of a feed-forward network, with an adapter before dropout and norm.

    Parameters
    ----------
    plain
        What transformers has there: a linear map, dropout, and the norm of the sum with the input.
    adapter
        The adapter.
    """

    def __init__(self, plain: Any, adapter: Adapter) -> None:
        super().__init__()
        self.dense, self.LayerNorm, self.dropout, self.adapter = plain.dense, plain.LayerNorm, plain.dropout, adapter

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Map ``[N, S, *]`` to ``[N, S, H]``; ``input_tensor`` is the residual."""
        ended: Tensor = self.LayerNorm(self.dropout(self.adapter(self.dense(hidden_states))) + input_tensor)
        return ended


def _see_nothing_from_padding(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Zero what attention gives to padding, as published.

    transformers lets padding attend to everything, and CRA's published words include padding.
    """
    seeing = inputs[1].bool().any(-1).squeeze(1)[..., None]  # of the pairs [N, 1, S, S]: [N, S, 1]
    if isinstance(output, tuple):
        return (output[0] * seeing, *output[1:])
    return output * seeing


class LmHead(nn.Module):
    """t = norm(GELU(dense h)); words are scored by their embeddings, with ``bias [V]``."""

    def __init__(self, width: int, words: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, states: Tensor) -> Tensor:
        """Map states ``[..., H]`` to t ``[..., H]``."""
        transformed: Tensor = self.LayerNorm(functional.gelu(self.dense(states)))
        return transformed


def language_config(config: ModelConfig, words: int, pad: int) -> Any:
    """Return the settings of transformers for a language model of the sizes in ``config.language``.

    Raises
    ------
    TrainingError
        If transformers is not installed.
    """
    sizes = config.language
    return deberta().DebertaV2Config(
        vocab_size=words,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        attention_head_size=sizes.width // sizes.heads,
        intermediate_size=sizes.inner,
        hidden_act="gelu",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=sizes.positions,
        type_vocab_size=0,
        initializer_range=sizes.deviation,
        layer_norm_eps=1e-7,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=sizes.buckets,
        pad_token_id=pad,
        position_biased_input=False,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        conv_kernel_size=3,
        conv_act="gelu",
    )


def deberta() -> Any:
    """Return transformers' module of DeBERTa-v2's networks and settings.

    Raises
    ------
    TrainingError
        If transformers is not installed.
    """
    try:
        from transformers.models import deberta_v2
    except ImportError as error:
        raise TrainingError("method frozenbilm needs transformers: pip install transformers") from error
    return deberta_v2


class LanguageModel(nn.Module):
    """DeBERTa-v2 with adapters that reads frames before a text, and answers Yes or No at the text's [MASK].

    Parameters
    ----------
    language
        A ``DebertaV2Config`` of transformers.
    feature_dim
        C.
    config
        Adapters, dropout, and what is trained.
    """

    def __init__(self, language: Any, feature_dim: int, config: ModelConfig) -> None:
        super().__init__()
        width = int(language.hidden_size)
        self.width, self.recompute = width, config.recompute
        self.deberta = deberta().DebertaV2Model(language)
        embeddings = self.deberta.embeddings
        # transformers has no position table where positions are not added to the embeddings; the decoder needs it.
        embeddings.position_embeddings = nn.Embedding(int(language.max_position_embeddings), width)
        embeddings.linear_video = nn.Linear(feature_dim, width)
        for layer in self.deberta.encoder.layer:
            layer.attention.self.register_forward_hook(_see_nothing_from_padding)
            for holder in (layer.attention, layer):
                adapter = Adapter(width, config.reduction, config.dropout)
                holder.output = AdaptedOutput(holder.output, adapter)
        eps = float(language.layer_norm_eps)
        self.lm_predictions = nn.ModuleDict({"lm_head": LmHead(width, int(language.vocab_size), eps)})
        self.answer_embeddings = nn.Embedding(2, width)  # Yes, No
        self.answer_bias = nn.Parameter(torch.zeros(2))
        self._initialise(float(language.initializer_range), config.adapter_init)
        self._freeze(config.trained)

    def forward(self, video: Tensor, valid: Tensor, ids: Tensor, at: Tensor, attention: bool) -> JointStates:
        """Read frames and texts.

        Parameters
        ----------
        video
            ``[N, F, C]``.
        valid
            ``[N, F] bool``, false for padding.
        ids
            ``[N, L] int64``.
        at
            ``[N] int64``, the place of [MASK] in ``ids``.
        attention
            Also return what [MASK] attends to in the frames.

        Raises
        ------
        TrainingError
            If frames and text are longer than the position table.
        """
        encoder, frames, mask_at = self.deberta.encoder, video.shape[1], at + video.shape[1]
        present = torch.cat([valid, ids != self.deberta.embeddings.word_embeddings.padding_idx], dim=1)  # [N, S]
        embedded = self._embed(video, ids, present)
        pairs = encoder.get_attention_mask(present.long())  # [N, 1, S, S]
        relative = {"relative_pos": encoder.get_rel_pos(embedded), "rel_embeddings": encoder.get_rel_embedding()}
        x = embedded
        for number, layer in enumerate(encoder.layer[:-1]):
            x = self._through(layer, x, pairs, **relative)
            if number == 0 and encoder.conv is not None:
                x = encoder.conv(embedded, x, present.long())
        last = encoder.layer[-1]
        # The last layer as a decoder: its query begins with positions, its keys and values are h^(23) both times.
        q = x + self.deberta.embeddings.position_embeddings.weight[: x.shape[1]]
        for _ in range(DECODER_PASSES):
            q = self._through(last, x, pairs, query_states=q, **relative)
        looked = None
        if attention:
            maps = last.attention.self(x, pairs, output_attentions=True, **relative)[1]  # [N, heads, S, S]
            looked = pick(maps.float().mean(1), mask_at)[:, :frames]
        return JointStates(q, present, mask_at, frames, looked)

    def _embed(self, video: Tensor, ids: Tensor, present: Tensor) -> Tensor:
        embeddings = self.deberta.embeddings
        longest = embeddings.position_embeddings.num_embeddings
        if present.shape[1] > longest:
            raise TrainingError(
                f"{video.shape[1]} frames and {ids.shape[1]} tokens are longer than the {longest} positions of the "
                "language model; use fewer frames, or a smaller text.max_tokens"
            )
        words = embeddings.word_embeddings(ids)
        joint = torch.cat([embeddings.linear_video(video).to(words.dtype), words], dim=1)  # [N, S, H]
        embedded: Tensor = embeddings(inputs_embeds=joint, mask=present.long())
        return embedded

    def _through(self, layer: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Call a layer; return its states, which are the first of a tuple in some versions of transformers."""
        if self.recompute and torch.is_grad_enabled():
            out = checkpoint(layer, *args, use_reentrant=False, **kwargs)
        else:
            out = layer(*args, **kwargs)
        states: Tensor = out[0] if isinstance(out, tuple) else out
        return states

    def log_odds(self, states: Tensor) -> Tensor:
        """Return log(P(Yes) / P(No)), ``[...] float32``, of states at [MASK] ``[..., H]``."""
        scores = self.answer_scores(states)
        return scores[..., 0] - scores[..., 1]

    def answer_scores(self, states: Tensor) -> Tensor:
        """Return the logits of Yes and No, ``[..., 2] float32``, of states ``[..., H]``."""
        head: nn.Module = self.lm_predictions["lm_head"]
        scored = functional.linear(head(states), self.answer_embeddings.weight, self.answer_bias)
        return scored.float()

    def word_scores(self, states: Tensor) -> Tensor:
        """Return the logits of all words, ``[..., V]``, of states ``[..., H]``."""
        head: Any = self.lm_predictions["lm_head"]
        return functional.linear(head(states), self.deberta.embeddings.word_embeddings.weight, head.bias)

    @torch.no_grad()
    def answer_with(self, yes: int, no: int) -> None:
        """Let the embeddings of two words stand for the answers."""
        self.answer_embeddings.weight.copy_(self.deberta.embeddings.word_embeddings.weight[[yes, no]])

    def _initialise(self, deviation: float, adapters: Literal["standard", "small"]) -> None:
        """Draw what transformers has not drawn."""
        embeddings = self.deberta.embeddings
        dense: Any = self.lm_predictions["lm_head"].dense
        nn.init.zeros_(dense.bias)
        for weight in (dense.weight, embeddings.position_embeddings.weight, self.answer_embeddings.weight):
            nn.init.normal_(weight, std=deviation)
        added = [part for module in self.modules() if isinstance(module, Adapter) for part in (module.down, module.up)]
        for linear in (*added, embeddings.linear_video):
            if adapters == "standard":
                nn.init.normal_(linear.weight, std=_STD)
                nn.init.zeros_(linear.bias)
            else:
                for tensor in (linear.weight, linear.bias):
                    nn.init.trunc_normal_(tensor, std=_SMALL_STD, a=-_SMALL_LIMIT, b=_SMALL_LIMIT)

    def _freeze(self, trained: Literal["adapters", "all"]) -> None:
        """Leave gradients to what is trained."""
        self.requires_grad_(trained == "all")
        self.lm_predictions["lm_head"].bias.requires_grad_(False)  # no answer reads it
        if trained == "adapters":
            for module in self.modules():
                if isinstance(module, nn.LayerNorm | Adapter):
                    module.requires_grad_(True)
            self.deberta.embeddings.linear_video.requires_grad_(True)
