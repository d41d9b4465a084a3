"""Candidates as texts with a [MASK], and these as token ids (``docs/facts/frozenbilm.md`` section 5).

B questions, O candidates of each, L tokens of a text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from settings.files import check_folder
from settings.messages import one_line
from trainers.cra.tokens import PADDING, Candidate, Encoder, WordTokens, split_words
from trainers.errors import TrainingError
from trainers.frozenbilm.config import PromptConfig

MASK = "[MASK]"
YES, NO = "Yes", "No"
_REMEMBERED = 1 << 16  # texts


def answer_prompt(question: str, option: str) -> str:
    """Ask whether an option answers a question."""
    return f"Question: {_question(question)} Is it '{_capitalised(option)}'? {MASK}. Subtitles:"


def match_prompt(question: str) -> str:
    """Ask whether a question belongs to the video.

    All candidates are capitalised. Published code leaves the wrong ones as they are, so that their first letter tells.
    """
    return f"Question: What question can the video clip answer? Is it '{_question(question)}' {MASK}. Subtitles:"


def _capitalised(text: str) -> str:
    return text.capitalize().strip()


def _question(text: str) -> str:
    asked = _capitalised(text)
    return asked if asked.endswith("?") else f"{asked}?"


class Tokeniser(ABC):
    """Turns texts into ids.

    Attributes
    ----------
    pad, mask
        Ids of padding and of [MASK].
    """

    pad: int
    mask: int

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, special ones included."""

    @abstractmethod
    def word(self, text: str) -> int:
        """Return the id of the first piece of a word."""


class WordTokeniser(Tokeniser):
    """Numbers the words of the training questions, for a language model with random weights.

    Parameters
    ----------
    words
        The vocabulary, sorted and without repetition. Word i has id i + 5; 0 is padding, 1 any other word, 2 begins a
        text, 3 ends it, 4 is [MASK].
    """

    VERSION = WordTokens.VERSION
    """Version of ``split_words``, kept in checkpoints."""
    FIRST = 5
    """Id of the first word."""
    pad, unknown, start, end, mask = range(5)

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._number = {word: number for number, word in enumerate(self.words, self.FIRST)}

    @classmethod
    def build(cls, texts: Iterable[str]) -> WordTokeniser:
        """Build the vocabulary of ``texts``, the prompts and the answers."""
        prompts = f"{answer_prompt('', '')} {match_prompt('')} {YES} {NO}".replace(MASK, "")
        return cls(sorted({word for text in (*texts, prompts) for word in split_words(text)}))

    def __len__(self) -> int:
        return self.FIRST + len(self.words)

    def ids(self, text: str) -> list[int]:
        ids = [self.start]
        for number, part in enumerate(text.split(MASK)):
            ids += [self.mask] * (number > 0)
            ids += [self._number.get(word, self.unknown) for word in split_words(part)]
        return [*ids, self.end]

    def word(self, text: str) -> int:
        return self._number[split_words(text)[0]]


class PretrainedTokeniser(Tokeniser):
    """The tokeniser that belongs to a language model's weights.

    Parameters
    ----------
    tokenizer
        A tokeniser of transformers.
    folder
        Where it comes from, for messages.
    """

    def __init__(self, tokenizer: Any, folder: Path) -> None:
        if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None or tokenizer.mask_token != MASK:
            raise TrainingError(f"{folder}: its tokeniser has no padding or no {MASK}; it is none of DeBERTa-v2")
        self._tokenizer = tokenizer
        self.pad, self.mask = int(tokenizer.pad_token_id), int(tokenizer.mask_token_id)

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, verbose=False).input_ids
        return ids

    def word(self, text: str) -> int:
        return int(self._tokenizer(text, add_special_tokens=False).input_ids[0])


def load_tokeniser(folder: Path) -> PretrainedTokeniser:
    """Load the tokeniser of a language model from its folder: ``tokenizer.json``, or ``spm.model``.

    Raises
    ------
    TrainingError
        If transformers or sentencepiece is not installed, or the folder holds no tokeniser of DeBERTa-v2.
    """
    if not any((folder / name).is_file() for name in ("spm.model", "tokenizer.json")):
        raise TrainingError(f"model.weights {str(folder)!r}: has neither spm.model nor tokenizer.json")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise TrainingError("method frozenbilm needs transformers: pip install transformers") from error
    try:
        check_folder(folder)
        loaded = AutoTokenizer.from_pretrained(str(folder), use_fast=True)
    except Exception as error:
        needed = "" if find_spec("sentencepiece") else "; spm.model needs sentencepiece: pip install sentencepiece"
        raise TrainingError(
            f"model.weights {str(folder)!r}: its tokeniser could not be loaded ({one_line(error)}){needed}"
        ) from error
    return PretrainedTokeniser(loaded, folder)


class PromptEncoder(Encoder):
    """Encodes candidates as ids of their prompts, ``[B, O, L] int64``; L is the length of the batch's longest text.

    Raises TrainingError if an option alone is too long.
    """

    def __init__(self, config: PromptConfig, tokens: Tokeniser) -> None:
        self.config, self.tokens = config, tokens
        self._remembered = lru_cache(_REMEMBERED)(self._ids)

    def __call__(self, rows: Sequence[Sequence[Candidate]]) -> Tensor:
        encoded = [[self.ids(candidate) for candidate in row] for row in rows]
        length = max(len(ids) for row in encoded for ids in row)
        padded = [[ids + [self.tokens.pad] * (length - len(ids)) for ids in row] for row in encoded]
        return torch.tensor(padded, dtype=torch.int64)

    def ids(self, candidate: Candidate) -> list[int]:
        """Return the ids of a candidate's prompt; a long one loses the last words of its question."""
        return list(self._remembered(candidate))

    def _ids(self, candidate: Candidate) -> list[int]:
        if candidate == PADDING:
            return self.tokens.ids(MASK)  # its score is never looked at, but must be finite
        question, option = candidate
        words = question.split()
        for kept in range(len(words), -1, -1):
            asked = question if kept == len(words) else " ".join(words[:kept])
            ids = self.tokens.ids(match_prompt(asked) if option is None else answer_prompt(asked, option))
            if len(ids) <= self.config.max_tokens:
                return ids
        raise TrainingError(
            f"text.max_tokens: {self.config.max_tokens} tokens do not hold {option or question!r} and what is asked "
            "about it; take more"
        )
