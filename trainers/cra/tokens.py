"""Candidates as tensors: token ids, or stored vectors (``docs/facts/cra.md`` section 3).

A candidate is a question alone, or a question with one of its options.

B questions, K candidates of each, L tokens of a candidate, E numbers of a stored embedding.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.cra.config import TextConfig
from trainers.errors import TrainingError

Candidate = tuple[str, str | None]  # question, option
PADDING: Candidate = ("", None)

_WORD = re.compile(r"\w+|[^\w\s]")


class Encoder(ABC):
    """Encodes candidates as the text module of the model reads them."""

    @abstractmethod
    def __call__(self, rows: Sequence[Sequence[Candidate]]) -> Tensor:
        """Encode B rows of K candidates as ``[B, K, *]``."""


@dataclass(frozen=True, slots=True)
class Special:
    """Ids around and between texts: ``start``, question, ``separator``, option, ``end``; ``pad`` fills up."""

    pad: int
    separator: int
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


class TokenEncoder(Encoder):
    """Encodes candidates as token ids ``[B, K, L] int64``.

    L is fixed if padding takes part in pooling; otherwise it is the length of the longest candidate of the batch.
    """

    def __init__(self, config: TextConfig, special: Special) -> None:
        self.config, self.special = config, special
        self._cache: dict[str, list[int]] = {}

    @abstractmethod
    def pieces(self, text: str) -> list[int]:
        """Return the ids of a text, without special ones."""

    def ids(self, candidate: Candidate) -> list[int]:
        """Return the ids of a candidate without padding; a long one loses its end, or the end of its question."""
        question, option = candidate
        frame = len(self.special.start) + len(self.special.end)
        if option is None:
            inner = self._pieces(question)[: self.config.question_tokens - frame]
        else:
            room = self.config.option_tokens - frame
            # The published text is "question </s> option": the spaces belong to the texts beside the separator.
            head, tail = self._pieces(f"{question} "), [self.special.separator, *self._pieces(f" {option}")]
            if self.config.keep_options:
                head = head[: max(0, room - len(tail))]
            inner = [*head, *tail][:room]
        return [*self.special.start, *inner, *self.special.end]

    def __call__(self, rows: Sequence[Sequence[Candidate]]) -> Tensor:
        encoded = [[self.ids(candidate) for candidate in row] for row in rows]
        if self.config.mask_padding:
            length = max((len(ids) for row in encoded for ids in row), default=1)
        else:
            with_options = any(option is not None for row in rows for _, option in row)
            length = self.config.option_tokens if with_options else self.config.question_tokens
        padded = [[ids + [self.special.pad] * (length - len(ids)) for ids in row] for row in encoded]
        return torch.tensor(padded, dtype=torch.int64)

    def _pieces(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.pieces(text)
        return self._cache[text]


class RobertaTokens(TokenEncoder):
    """Encodes with the tokenizer of a pretrained encoder."""

    def __init__(self, config: TextConfig, tokenizer: Any) -> None:
        if tokenizer.sep_token_id is None or tokenizer.pad_token_id is None or tokenizer.cls_token_id is None:
            raise TrainingError(
                f"text.weights {config.weights!r}: its tokenizer has no class, separator or padding token"
            )
        end = (tokenizer.sep_token_id,)
        super().__init__(config, Special(tokenizer.pad_token_id, *end, (tokenizer.cls_token_id,), end))
        self._tokenizer = tokenizer

    def pieces(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words and punctuation marks."""
    return _WORD.findall(text.lower())


class WordTokens(TokenEncoder):
    """Encodes words by a vocabulary that was built from training texts.

    Parameters
    ----------
    config
        Lengths of texts.
    words
        The vocabulary, sorted and without repetition. Word i has id i + 3; 0 is padding, 1 any other word, 2 the
        separator.
    """

    VERSION = 1
    """Version of ``split_words``, kept in checkpoints."""
    FIRST = 3
    """Id of the first word."""

    def __init__(self, config: TextConfig, words: Sequence[str]) -> None:
        super().__init__(config, Special(pad=0, separator=2))
        self.words = tuple(words)
        self._number = {word: number for number, word in enumerate(self.words, self.FIRST)}

    @classmethod
    def build(cls, config: TextConfig, texts: Iterable[str]) -> WordTokens:
        """Build the vocabulary of ``texts``."""
        return cls(config, sorted({word for text in texts for word in split_words(text)}))

    def __len__(self) -> int:
        return self.FIRST + len(self.words)

    def pieces(self, text: str) -> list[int]:
        return [self._number.get(word, 1) for word in split_words(text)]

    def ids(self, candidate: Candidate) -> list[int]:
        return super().ids(candidate) or [1]  # a row of padding alone could not be pooled


class StoredVectors(Encoder):
    """Encodes candidates as frozen embeddings of question and option, side by side: ``[B, K, 2 E] float32``.

    A candidate without an option has zeros in its place.

    Parameters
    ----------
    vectors
        Text to its embedding, ``[E]``.
    dim
        E.
    """

    def __init__(self, vectors: Mapping[str, NDArray[np.float32]], dim: int) -> None:
        self._vectors, self.dim = vectors, dim

    def __call__(self, rows: Sequence[Sequence[Candidate]]) -> Tensor:
        out = np.zeros((len(rows), max(map(len, rows), default=0), 2, self.dim), np.float32)
        for b, row in enumerate(rows):
            for k, (question, option) in enumerate(row):
                if (question, option) != PADDING:
                    out[b, k, 0] = self._vector(question)
                if option is not None:
                    out[b, k, 1] = self._vector(option)
        return torch.from_numpy(out).flatten(2)  # [B, K, 2 E]

    def _vector(self, text: str) -> NDArray[np.float32]:
        if text not in self._vectors:
            raise TrainingError(
                f"the embeddings table has no vector for the text {text!r}; run jobs/refresh.py with the text encoder "
                "under option_embeddings"
            )
        return self._vectors[text]
