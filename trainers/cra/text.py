"""Candidates to vectors: what follows an :class:`trainers.cra.tokens.Encoder` (facts/cra.md section 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from trainers.cra.config import TextConfig
from trainers.cra.grounding import masked_softmax, pool
from trainers.cra.video import Decoder, positions
from trainers.errors import TrainingError

Pooling = Literal["attention", "mean"]


class TextPool(nn.Module):
    """Token states ``[N, L, H]`` to ``[N, d]``: a linear map, then CRA's word attention or Temp[CLIP]'s mean."""

    def __init__(self, hidden: int, dim: int, pooling: Pooling) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, dim)
        self.score = nn.Linear(dim, 1) if pooling == "attention" else None

    def forward(self, states: Tensor, counted: Tensor) -> Tensor:
        """``counted [N, L] bool``: tokens that take part; at least one each."""
        x = self.linear(states)
        logits = x.new_zeros(counted.shape) if self.score is None else self.score(x).squeeze(-1)
        return pool(x, masked_softmax(logits, counted))


class TokenText(nn.Module):
    """Token ids ``[B, K, L]`` to candidates ``[B, K, d]``.

    Parameters
    ----------
    states : ids ``[N, L]`` and what is no padding ``[N, L] bool`` to ``[N, L, H]``.
    mask_padding : padding takes no part in pooling.
    """

    def __init__(
        self, states: nn.Module, hidden: int, dim: int, pad: int, pooling: Pooling, mask_padding: bool = True
    ) -> None:
        super().__init__()
        self.states = states
        self.pool = TextPool(hidden, dim, pooling)
        self.pad, self.mask_padding = pad, mask_padding

    def forward(self, tokens: Tensor) -> Tensor:
        ids = tokens.flatten(0, 1)
        real = ids != self.pad
        # Rows of padding alone fill up shorter lists of options; what they give is masked later, but must be finite.
        real = real | ~real.any(-1, keepdim=True)
        counted = real if self.mask_padding else torch.ones_like(real)
        pooled: Tensor = self.pool(self.states(ids, real), counted)
        return pooled.view(*tokens.shape[:2], -1)


class Pretrained(nn.Module):
    """The last hidden state of a transformers encoder; all its weights are trained."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids=ids, attention_mask=real.long()).last_hidden_state
        return states


class Words(nn.Module):
    """Learned word vectors in a small pre-norm transformer, for machines without pretrained weights."""

    def __init__(self, words: int, dim: int, config: TextConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, dim, padding_idx=0)
        self.decoder = Decoder(dim, config.heads, config.layers, config.dropout, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = self.dropout(x + positions(x.shape[1], x.shape[2], x.device))
        states: Tensor = self.decoder(x, real)
        return states


class StoredText(nn.Module):
    """Frozen embeddings of question and option ``[B, K, 2 E]`` to ``[B, K, d]``: a linear projection."""

    def __init__(self, embedding_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * embedding_dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        projected: Tensor = self.linear(vectors)
        return projected


def load_pretrained(weights: str) -> tuple[nn.Module, Any]:
    """A transformers encoder and its tokenizer, from a folder or the model hub.

    Raises
    ------
    TrainingError
        If transformers is not installed, or finds no such weights.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise TrainingError("text.encoder roberta needs transformers: pip install transformers") from error
    try:
        # The pooler would be weights that nothing trains.
        encoder = AutoModel.from_pretrained(weights, add_pooling_layer=False)
        tokenizer = AutoTokenizer.from_pretrained(weights, use_fast=True)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        where = "that folder" if Path(weights).is_dir() else "the model hub"
        raise TrainingError(
            f"text.weights {weights!r}: not to be had from {where} ({str(error).splitlines()[0]}); "
            "name a folder, or use text.encoder words or stored"
        ) from error
    return encoder, tokenizer
