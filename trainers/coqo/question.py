"""Questions as word ids, and the LSTM that turns them into vectors.

B videos, N questions of each, L words of a question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from trainers.errors import TrainingError
from trainers.transfer import moved

PAD = "<pad>"
UNKNOWN = "<unknown>"

_WORDS = """Are How Is What Where Which a accordion acoustic_guitar after always and appeared are as at bagpipe banjo
bassoon before beginning cello clarinet comes coming congas did drum electric_bass end entire erhu fifth first flute
fourth from guzheng heard in instrument instruments is it kind last left leftest longer louder loudest lowest makes
many middle more musical not of on performance piano pipa playing rhythmic right rightest same saxophone second sound
sounding sounds suona than that the there third this throughout time to trumpet tuba types ukulele video violin
voiceover were xylophone"""
PUBLISHED_WORDS = tuple(_WORDS.split())
"""The 92 words of MUSIC-AVQA's filled-in questions over all splits (``docs/facts/coqo.md`` section 1.3)."""


def tokenise(question: str) -> list[str]:
    """Split a question at spaces as every trainer of this family does: case is kept, a final ``?`` is dropped."""
    return question.rstrip().rstrip("?？").split()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that a model knows, in the order of their ids; id 0 is padding.

    Words are sorted by code points, so that a vocabulary depends on its words and not on the order of rows.

    Attributes
    ----------
    words
        The words with ids 1 … n.
    has_unknown
        Whether id n + 1 stands for every other word; otherwise another word is an error.
    """

    words: tuple[str, ...]
    has_unknown: bool

    @classmethod
    def published(cls) -> Vocabulary:
        """Return the vocabulary of MUSIC-AVQA: 93 ids including padding, none for unknown words."""
        return cls(PUBLISHED_WORDS, has_unknown=False)

    @classmethod
    def build(cls, questions: Iterable[str]) -> Vocabulary:
        """Build the vocabulary of ``questions``; take all splits, since a rare word may be missing from train."""
        return cls(tuple(sorted({word for question in questions for word in tokenise(question)})), has_unknown=True)

    def __len__(self) -> int:
        return 1 + len(self.words) + self.has_unknown

    @property
    def digest(self) -> str:
        """A hexadecimal digest of the ids."""
        tokens = [PAD, *self.words, *([UNKNOWN] if self.has_unknown else [])]
        return hashlib.sha256(json.dumps({"question_words": 1, "tokens": tokens}).encode()).hexdigest()[:16]

    def encode(self, questions: Sequence[Sequence[str]]) -> Tensor:
        """Encode the questions of each video as word ids.

        Parameters
        ----------
        questions
            B lists of at most N questions; ``""`` is padding.

        Returns
        -------
        ``[B, N, L] int64``; 0 pads words on the right and questions at the end.

        Raises
        ------
        TrainingError
            If the vocabulary lacks a word and has no id for unknown ones.
        """
        ids = {word: index for index, word in enumerate(self.words, start=1)}
        rows = [[self._encode(question, ids) for question in video] for video in questions]
        count = max(map(len, rows))
        length = max(1, *(len(words) for video in rows for words in video))
        out = torch.zeros(len(rows), count, length, dtype=torch.int64)
        for b, video in enumerate(rows):
            for n, words in enumerate(video):
                out[b, n, : len(words)] = torch.tensor(words)
        return out

    def _encode(self, question: str, ids: dict[str, int]) -> list[int]:
        words = tokenise(question)
        if not self.has_unknown:
            for word in words:
                if word not in ids:
                    raise TrainingError(
                        f"question {question!r}: the word {word!r} is not in the published vocabulary; "
                        "use model.question.vocabulary=built"
                    )
        return [ids.get(word, len(self.words) + 1) for word in words]


class QuestionEncoder(nn.Module):
    """Embedding, tanh, LSTM; F_q = Linear(tanh[h; c]) (``docs/facts/coqo.md`` sections 3.3 and 9).

    Parameters
    ----------
    vocabulary
        Number of word ids; 0 is padding.
    embed, hidden, dim
        Widths of a word, of the LSTM and of F_q.
    padded_to
        Run the LSTM on over padding, whose vector is learned, to so many steps; a longer question ends at its last
        word. The published code does so, to 14. If None, every question ends at its last word. Either way a vector
        depends on its question alone.
    """

    def __init__(self, vocabulary: int, embed: int, hidden: int, dim: int, padded_to: int | None = None) -> None:
        super().__init__()
        self.padded_to = padded_to
        self.embedding = nn.Embedding(vocabulary, embed, padding_idx=0 if padded_to is None else None)
        self.lstm = nn.LSTM(embed, hidden, batch_first=True)
        self.out = nn.Linear(2 * hidden, dim)

    def forward(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode word ids ``[B, N, L] int64``, padded with 0 on the right, as F_q ``[B, N, dim]``.

        ``lengths [B, N] int64`` are the numbers of words, on the CPU; without them, the device of the words is asked.
        """
        flat = words.flatten(0, 1)  # [B * N, L]
        if self.padded_to is not None and flat.shape[1] < self.padded_to:
            flat = nn.functional.pad(flat, (0, self.padded_to - flat.shape[1]))
        h, c = last_states(self.lstm, torch.tanh(self.embedding(flat)), words, lengths, self.padded_to or 1)
        out: Tensor = self.out(torch.tanh(torch.cat([h[0], c[0]], dim=-1)))
        return out.view(*words.shape[:2], -1)


def last_states(
    lstm: nn.LSTM, x: Tensor, words: Tensor, lengths: Tensor | None, at_least: int = 1
) -> tuple[Tensor, Tensor]:
    """Run an LSTM over questions, each to its last word, and return its last states h and c.

    The questions are packed as ``pack_padded_sequence`` does by itself, but their order goes to the device without
    waiting for it.

    Parameters
    ----------
    lstm
        The LSTM, ``batch_first``.
    x
        ``[B * N, L, E]``, what it reads.
    words
        ``[B, N, *] int64``, word ids, 0 for padding.
    lengths
        ``[B, N] int64``, numbers of words, on the CPU; None counts them, for which the device is waited for.
    at_least
        Steps of a shorter question. Packing refuses empty sequences, so a padded question counts as one padding word;
        its mask drops it later.

    Returns
    -------
    ``[directions, B * N, hidden]`` each.
    """
    if lengths is None:
        lengths = (words != 0).sum(-1).cpu()
    longest_first, order = lengths.flatten().clamp(min=at_least).sort(descending=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    order, back = moved(order, x.device, non_blocking=True), moved(back, x.device, non_blocking=True)
    packed = pack_padded_sequence(x.index_select(0, order), longest_first, batch_first=True)
    # Few processors have LSTM kernels for half precision, and this is a thousandth of a step's work.
    with torch.autocast(x.device.type, enabled=False):
        _, (h, c) = lstm(packed)
    return h.index_select(1, back), c.index_select(1, back)
