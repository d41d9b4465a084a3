"""Turns the words of a batch into numbers: each distinct word is looked up, and its letters are read, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Distinct:
    """The distinct values of a column, and for each word the position of its value.

    Attributes
    ----------
    values
        Distinct values, in order of first appearance.
    places
        Positions in ``values`` ``[W]``, sentence after sentence.
    """

    values: list[str]
    places: Ids

    @classmethod
    def of(cls, column: Sequence[str]) -> Distinct:
        """Find the distinct values of a column."""
        numbers: dict[str, int] = {}
        places = np.array([numbers.setdefault(value, len(numbers)) for value in column], dtype=np.int64)
        return cls(list(numbers), places)

    def ids(self, lookup: Callable[[str], Any]) -> Ids:
        """Return the id of each word ``[W]``, or its ids ``[W, P]`` if a value has several."""
        ids: Ids = np.array([lookup(value) for value in self.values], dtype=np.int64)[self.places]
        return ids


def simplified(words: Sequence[str]) -> list[str]:
    """Return words as Stanza's networks read them: several question or exclamation marks are one."""
    from stanza.models.common.utils import EXCLAM_RE, QUESTION_RE

    return [
        EXCLAM_RE.sub("!", QUESTION_RE.sub("?", word)) if len(word) > 1 and not word.isalnum() else word
        for word in words
    ]


def batches(lengths: Sequence[int], words: int, pairs: int) -> Iterator[list[int]]:
    """Yield the numbers of sentences in batches, the longest first.

    Parameters
    ----------
    lengths
        Words of each sentence.
    words, pairs
        Most words of a batch, and most pairs of words within its sentences, padding included. A longer sentence comes
        alone.
    """
    batch: list[int] = []
    longest = 0
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        size = len(batch) + 1
        if batch and (size * longest > words or size * longest**2 > pairs):
            yield batch
            batch = []
        if not batch:
            longest = lengths[number]
        batch.append(number)
    if batch:
        yield batch


class Padded:
    """Puts ids of words, sentence after sentence, into a matrix with one row per sentence of a batch.

    Parameters
    ----------
    lengths
        Words of each sentence of a chunk.
    batch
        The numbers of the sentences of the batch, the longest first.
    root
        Whether a place for the root comes before each sentence.
    """

    def __init__(self, lengths: Sequence[int], batch: Sequence[int], root: bool = False) -> None:
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self.lengths = np.array([lengths[number] for number in batch])
        self._shift = int(root)
        columns = np.arange(self.lengths[0] + self._shift) - self._shift
        self.inside = (columns >= 0) & (columns < self.lengths[:, None])
        self.places = (starts[list(batch)][:, None] + columns)[self.inside]

    def __call__(self, ids: Ids, root: int | Sequence[int] = 0) -> Tensor:
        """Return the ids as a matrix ``[N, L]`` or ``[N, L, P]``; 0 pads, and ``root`` is the id of the root."""
        matrix = np.zeros((*self.inside.shape, *ids.shape[1:]), dtype=np.int64)
        matrix[self.inside] = ids[self.places]
        if self._shift:
            matrix[:, 0] = root
        return torch.from_numpy(matrix)


class SharedLetters(nn.Module):
    """Stands in for the network that reads the letters of every word, and reads each distinct word of a chunk once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._table = torch.empty(0)

    def read(self, letters: Sequence[Sequence[int]], device: torch.device) -> None:
        """Read the words of a chunk, each given by the ids of its letters."""
        order = sorted(range(len(letters)), key=lambda number: -len(letters[number]))
        lengths = np.array([len(letters[number]) for number in order])
        matrix = np.zeros((len(letters), lengths[0]), dtype=np.int64)
        matrix[np.arange(lengths[0]) < lengths[:, None]] = np.concatenate([letters[number] for number in order])
        chars = torch.from_numpy(matrix).to(device)
        read = self.network(chars, chars.eq(0), order, [len(letters)], lengths.tolist())
        self._table = read.data

    def forward(self, rows: Tensor, mask: None, order: None, sentlens: list[int], wordlens: None) -> PackedSequence:
        """Return what was read of each word, given the words as rows of the chunk ``[N, L]``."""
        packed = pack_padded_sequence(rows, sentlens, batch_first=True)
        return PackedSequence(self._table[packed.data], packed.batch_sizes)


def share_letters(network: nn.Module) -> SharedLetters | None:
    """Have a tagger or parser read the letters of each distinct word once; None if it reads no letters so."""
    from stanza.models.common.char_model import CharacterModel

    own = getattr(network, "charmodel", None)
    if not isinstance(own, CharacterModel):
        return None
    shared = SharedLetters(own)
    network.charmodel = shared
    return shared
