"""Questions as word ids, and the LSTM that turns them into vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from trainers.errors import TrainingError

PAD = "<pad>"
UNKNOWN = "<unknown>"

# The 92 words of MUSIC-AVQA's filled-in questions over all splits (facts 1.3).
_WORDS = """Are How Is What Where Which a accordion acoustic_guitar after always and appeared are as at bagpipe banjo
bassoon before beginning cello clarinet comes coming congas did drum electric_bass end entire erhu fifth first flute
fourth from guzheng heard in instrument instruments is it kind last left leftest longer louder loudest lowest makes
many middle more musical not of on performance piano pipa playing rhythmic right rightest same saxophone second sound
sounding sounds suona than that the there third this throughout time to trumpet tuba types ukulele video violin
voiceover were xylophone"""
PUBLISHED_WORDS = tuple(_WORDS.split())


def tokenise(question: str) -> list[str]:
    """The words of a question as every trainer of this family cuts them: by spaces, case kept, ``?`` dropped."""
    return question.rstrip().rstrip("?？").split()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words in the order of their ids; id 0 is padding.

    The order is that of code points, so that a vocabulary depends on which words there are, not on the order of rows.

    Attributes
    ----------
    words :
        Ids 1 … n.
    has_unknown :
        Whether id n + 1 stands for every other word; without it another word is an error.
    """

    words: tuple[str, ...]
    has_unknown: bool

    @classmethod
    def published(cls) -> Vocabulary:
        """MUSIC-AVQA's: 93 ids with padding, none for unknown words."""
        return cls(PUBLISHED_WORDS, has_unknown=False)

    @classmethod
    def build(cls, questions: Iterable[str]) -> Vocabulary:
        """The words of ``questions`` (of all splits: a rare word may be missing from train)."""
        return cls(tuple(sorted({word for question in questions for word in tokenise(question)})), has_unknown=True)

    def __len__(self) -> int:
        return 1 + len(self.words) + self.has_unknown

    @property
    def digest(self) -> str:
        """Hexadecimal; equal for equal ids only."""
        tokens = [PAD, *self.words, *([UNKNOWN] if self.has_unknown else [])]
        return hashlib.sha256(json.dumps({"question_words": 1, "tokens": tokens}).encode()).hexdigest()[:16]

    def encode(self, questions: Sequence[Sequence[str]]) -> Tensor:
        """Word ids of each video's questions.

        Parameters
        ----------
        questions : B lists of at most N questions; ``""`` is padding.

        Returns
        -------
        int64 ``[B, N, L]``; 0 pads words on the right and questions at the end.

        Raises
        ------
        TrainingError
            If a word is not in a vocabulary that knows no unknown words.
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
    """Embedding, tanh, LSTM; F_q = Linear(tanh[h; c]) (facts 3.3).

    The published code runs the LSTM over padding to 14 steps. Here the state is taken at the last word, so padding
    never changes a vector.
    """

    def __init__(self, vocabulary: int, embed: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embed, padding_idx=0)
        self.lstm = nn.LSTM(embed, hidden, batch_first=True)
        self.out = nn.Linear(2 * hidden, dim)

    def forward(self, words: Tensor) -> Tensor:
        """Word ids int64 ``[B, N, L]``, 0 on the right of each question → F_q ``[B, N, dim]``."""
        flat = words.flatten(0, 1)
        # A padded question counts as one padding word: packing refuses empty sequences, and its mask drops it later.
        lengths = (flat != 0).sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(torch.tanh(self.embedding(flat)), lengths, batch_first=True, enforce_sorted=False)
        # Few processors have LSTM kernels for half precision, and it is a thousandth of a step.
        with torch.autocast(words.device.type, enabled=False):
            _, (h, c) = self.lstm(packed)
        out: Tensor = self.out(torch.tanh(torch.cat([h[0], c[0]], dim=-1)))
        return out.view(*words.shape[:2], -1)
