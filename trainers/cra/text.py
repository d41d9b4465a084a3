"""Candidates to vectors: the modules behind an encoder of ``trainers.cra.tokens`` (``docs/facts/cra.md`` section 3).

B questions, K candidates of each, L tokens of a candidate, H numbers of a token's state, d width of the network. N rows
are the B * K candidates of a batch, E is the length of a stored embedding.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from settings.files import check_folder
from settings.messages import one_line
from settings.network import reach
from trainers.cra.config import TextConfig
from trainers.cra.grounding import masked_softmax, pool
from trainers.cra.video import Decoder, positions
from trainers.errors import TrainingError

Pooling = Literal["attention", "mean"]


class TextPool(nn.Module):
    """Pools token states: a linear map, then CRA's attention over words or Temp[CLIP]'s mean."""

    def __init__(self, hidden: int, dim: int, pooling: Pooling) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, dim)
        self.score = nn.Linear(dim, 1) if pooling == "attention" else None

    def forward(self, states: Tensor, counted: Tensor) -> Tensor:
        """Pool the tokens of ``[N, L, H]`` that are ``counted [N, L] bool``, at least one per row: ``[N, d]``."""
        x = self.linear(states)  # [N, L, d]
        logits = x.new_zeros(counted.shape) if self.score is None else self.score(x).squeeze(-1)
        return pool(x, masked_softmax(logits, counted))


class TokenText(nn.Module):
    """Turns token ids into candidates.

    Parameters
    ----------
    states
        Maps ids ``[N, L]`` and a mask ``[N, L] bool`` that is false for padding to states ``[N, L, H]``.
    hidden
        H.
    dim
        d.
    pad
        Id of the padding token.
    pooling
        Attention over words, or their mean.
    mask_padding
        Leave padding out of pooling.
    """

    def __init__(
        self, states: nn.Module, hidden: int, dim: int, pad: int, pooling: Pooling, mask_padding: bool = True
    ) -> None:
        super().__init__()
        self.states = states
        self.pool = TextPool(hidden, dim, pooling)
        self.pad, self.mask_padding = pad, mask_padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids ``[B, K, L] int64`` as ``[B, K, d]``."""
        ids = tokens.flatten(0, 1)  # [N, L]
        real = ids != self.pad
        # Rows of padding alone fill up shorter lists of options. Their vectors are masked later, but must be finite.
        real = real | ~real.any(-1, keepdim=True)
        counted = real if self.mask_padding else torch.ones_like(real)
        pooled: Tensor = self.pool(self.states(ids, real), counted)  # [N, d]
        return pooled.view(*tokens.shape[:2], -1)  # [B, K, d]


class Pretrained(nn.Module):
    """The last hidden state of a transformers encoder; all its weights are trained."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Encode ids ``[N, L]`` that are not padding where ``real [N, L] bool``: ``[N, L, H]``."""
        states: Tensor = self.encoder(input_ids=ids, attention_mask=real.long()).last_hidden_state
        return states


class Words(nn.Module):
    """Learned word vectors and a small pre-norm transformer, for machines without pretrained weights.

    Its attention sees all words of a candidate, but no padding.
    """

    def __init__(self, words: int, dim: int, config: TextConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, dim, padding_idx=0)
        self.decoder = Decoder(dim, config.heads, config.layers, config.dropout, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Encode ids ``[N, L]`` that are not padding where ``real [N, L] bool``: ``[N, L, d]``."""
        x = self.embedding(ids)  # [N, L, d]
        x = self.dropout(x + positions(x.shape[1], x.shape[2], x.device))
        states: Tensor = self.decoder(x, real)
        return states


class StoredText(nn.Module):
    """A linear projection of frozen embeddings."""

    def __init__(self, embedding_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * embedding_dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Project embeddings of question and option ``[B, K, 2 E]`` to ``[B, K, d]``."""
        projected: Tensor = self.linear(vectors)
        return projected


def load_pretrained(weights: str) -> tuple[Any, Any]:
    """Load a transformers encoder and its tokenizer from a folder or the model hub.

    Raises
    ------
    TrainingError
        If transformers is not installed or cannot load the weights.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise TrainingError("text.encoder roberta needs transformers: pip install transformers") from error
    try:
        if is_folder := Path(weights).is_dir():
            check_folder(weights)
        options = {"local_files_only": is_folder or not _hub_answers()}
        # Nothing would train the weights of a pooling layer.
        encoder = AutoModel.from_pretrained(weights, add_pooling_layer=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(weights, use_fast=True, **options)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        where = "that folder" if Path(weights).is_dir() else "the model hub"
        raise TrainingError(
            f"text.weights {weights!r}: could not be loaded from {where} ({one_line(error)}); "
            "name a folder, or use text.encoder words or stored"
        ) from error
    return encoder, tokenizer


def _hub_answers() -> bool:
    """Return whether the model hub can be reached; without it, transformers would try for half a minute."""
    try:
        reach(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    except OSError:
        return False
    return True
