"""The closed list of answers that a classifier chooses from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MUSIC_AVQA = (
    *("two", "cello", "congas", "zero", "no", "pipa", "six", "yes", "one", "four", "three", "seven", "five"),
    *("ukulele", "right", "piano", "left", "accordion", "clarinet", "guzheng", "more than ten", "nine", "indoor"),
    *("saxophone", "drum", "violin", "middle", "outdoor", "bagpipe", "bassoon", "acoustic_guitar", "banjo"),
    *("electric_bass", "ten", "eight", "flute", "simultaneously", "trumpet", "erhu", "xylophone", "tuba", "suona"),
)
"""The 42 classes of MUSIC-AVQA, in the order of the published answer2idx.json (``docs/facts/coqo.md`` section 1.5)."""


@dataclass(frozen=True, slots=True)
class AnswerVocabulary:
    """The answers in the order of their classes, which does not depend on the order of rows."""

    answers: tuple[str, ...]

    @classmethod
    def of(
        cls, dataset: str, train_answers: Iterable[str], top: int | None = None, minimum: int = 1
    ) -> AnswerVocabulary:
        """Return the 42 published answers for ``music_avqa``, else the distinct training answers, sorted.

        Parameters
        ----------
        dataset
            Name of the dataset.
        train_answers
            Answers of the training split.
        top
            Keep the so many most frequent ones, ties in alphabetical order; None keeps all.
        minimum
            Keep those that occur at least so often.
        """
        if dataset == "music_avqa":
            return cls(MUSIC_AVQA)
        counts = Counter(train_answers)
        kept = [answer for answer, count in counts.items() if count >= minimum]
        return cls(tuple(sorted(sorted(kept, key=lambda answer: (-counts[answer], answer))[:top])))

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def digest(self) -> str:
        """A hexadecimal digest of the classes."""
        return hashlib.sha256(json.dumps({"answers": 1, "classes": self.answers}).encode()).hexdigest()[:16]

    def encode(self, answers: Sequence[Sequence[str | None]], count: int) -> Tensor:
        """Return the class of each answer, ``[B, count] int64``; -1 for padding and for answers outside the list."""
        index = {answer: number for number, answer in enumerate(self.answers)}
        out = torch.full((len(answers), count), -1, dtype=torch.int64)
        for b, video in enumerate(answers):
            for n, answer in enumerate(video):
                out[b, n] = index.get(answer, -1) if answer is not None else -1
        return out
