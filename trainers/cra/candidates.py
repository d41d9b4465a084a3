"""Candidates of a training question: resampled options, and questions that may belong to its video.

Candidates are drawn as in the published loader (``docs/facts/cra.md`` section 3), except that a draw depends only on
the seed, the epoch and the question's id. A run that resumes therefore sees the same candidates as one that was never
interrupted.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from settings.files import read_bytes
from stores.loading import Questions
from trainers.cra.config import DataConfig
from trainers.errors import TrainingError

_WHAT = {
    **dict.fromkeys(("does", "do", "did"), "whata"),
    **dict.fromkeys(("was", "were", "is", "are"), "whatb"),
}


def coarse_type(question: str) -> str:
    """Return how a question asks, by its first two words.

    The types are those of the published loader: whata, whatb, whato, how, howm, who, which, why, where and other.
    """
    first, second = (*question.lower().split()[:2], "", "")[:2]
    if first == "what":
        return _WHAT.get(second, "whato")
    if first == "how":
        return "howm" if second == "many" else "how"
    return first if first in ("who", "which", "why", "where") else "other"


@dataclass(frozen=True, slots=True)
class Draw:
    """A training question as one epoch sees it.

    Attributes
    ----------
    question
        The question or a paraphrase of it.
    options
        Texts that may answer it.
    answer
        Index of the right option.
    questions
        Questions that may belong to the video.
    right
        Index of the one that does.
    """

    question: str
    options: list[str]
    answer: int
    questions: list[str]
    right: int


class CandidateSampler:
    """Draws candidates from pools of the training split.

    Parameters
    ----------
    questions
        The training split.
    config
        How often candidates are resampled, and from which pools.
    seed
        Seed of all draws.
    paraphrases
        Paraphrases of questions by question id.
    """

    def __init__(
        self,
        questions: Questions,
        config: DataConfig,
        seed: int,
        paraphrases: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._questions, self._config, self._seed = questions, config, seed
        self._paraphrases = paraphrases or {}
        answers: dict[str, list[str]] = defaultdict(list)
        alike: dict[str, list[str]] = defaultdict(list)
        by_video: dict[str, list[str]] = defaultdict(list)
        for index, text in enumerate(questions.texts):
            answer = questions.answers[index]
            if answer is not None:
                answers[coarse_type(text)].append(answer)
            alike[coarse_type(text)].append(text)
            descriptive = questions.dataset == "nextgqa" and questions.types[index].startswith("D")
            if config.descriptive_same_video or not descriptive:
                by_video[questions.video_ids[index]].append(text)
        self._answers, self._alike, self._by_video = map(_unique_sorted, (answers, alike, by_video))
        self._all_answers = _union(self._answers)
        self._all_questions = _union(self._alike)

    def draw(self, index: int, epoch: int) -> Draw:
        """Draw question ``index`` of the split for an epoch."""
        split, config = self._questions, self._config
        identity = hashlib.sha256(split.ids[index].encode()).digest()
        rng = np.random.default_rng([self._seed, epoch, int.from_bytes(identity[:8], "little")])
        question, options = split.texts[index], list(split.options[index])
        kind = coarse_type(question)
        answer_text = options[int(split.answer_index[index])]
        paraphrases = self._paraphrases.get(split.ids[index], ())
        if rng.random() < config.paraphrase and paraphrases:
            question = paraphrases[int(rng.integers(len(paraphrases)))]
            kind = coarse_type(question) if config.paraphrase_types else kind
        if rng.random() < config.distractors:
            options = self._options(rng, kind, answer_text, options)
        # Among equal options the first is the right one, as in the published loader.
        answer = int(split.answer_index[index]) if options == split.options[index] else options.index(answer_text)
        questions = self._candidates(rng, kind, question, split.texts[index], split.video_ids[index], len(options) - 1)
        return Draw(question, options, answer, questions, questions.index(question))

    def _options(self, rng: np.random.Generator, kind: str, answer: str, options: list[str]) -> list[str]:
        """Mix the right answer with answers to questions that ask alike; return ``options`` if there are too few."""
        excluded = {answer} if self._config.distinct_candidates else set()
        pools = (self._answers.get(kind, []), self._all_answers)
        wrong = _take(rng, pools, len(options) - 1, excluded)
        return _shuffled(rng, [*wrong, answer]) if len(wrong) == len(options) - 1 else options

    def _candidates(
        self, rng: np.random.Generator, kind: str, question: str, original: str, video: str, count: int
    ) -> list[str]:
        """Mix the question with up to ``count`` others."""
        excluded = {question, original} if self._config.distinct_candidates else set()
        pools = [self._alike.get(kind, []), self._all_questions]
        if rng.random() < self._config.same_video:
            pools.insert(0, self._by_video.get(video, []))
        return _shuffled(rng, [*_take(rng, pools, count, excluded), question])


class _Paraphrased(BaseModel):
    """What the file holds for a question; the published files have other fields, too."""

    gen: list[str]


def read_paraphrases(path: Path) -> dict[str, list[str]]:
    """Read paraphrases by question id, without their question marks.

    Parameters
    ----------
    path
        A JSON file ``{question id: {"gen": [paraphrases]}}``.

    Raises
    ------
    TrainingError
        If the file cannot be read or has another form.
    """
    try:
        read = TypeAdapter(dict[str, _Paraphrased]).validate_json(read_bytes(path))
    except OSError as error:
        raise TrainingError(f"{path}: not readable ({error.strerror})") from error
    except ValidationError as error:
        raise TrainingError(f'{path}: must be JSON {{question id: {{"gen": [paraphrases]}}}}') from error
    return {question: [text.rstrip("? ") for text in entry.gen] for question, entry in read.items()}


def _unique_sorted(pools: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {name: sorted(set(texts)) for name, texts in pools.items()}


def _union(pools: Mapping[str, Iterable[str]]) -> list[str]:
    return sorted({text for texts in pools.values() for text in texts})


def _take(rng: np.random.Generator, pools: Sequence[Sequence[str]], count: int, excluded: Collection[str]) -> list[str]:
    """Draw up to ``count`` different texts that are not excluded: from the first pool while it lasts, then the next."""
    taken: list[str] = []
    for pool in pools:
        if len(taken) == count:
            break
        barred = {*excluded, *taken}
        drawn = rng.choice(len(pool), min(len(pool), count + len(barred)), replace=False) if pool else ()
        taken += [pool[index] for index in drawn if pool[index] not in barred][: count - len(taken)]
    return taken


def _shuffled(rng: np.random.Generator, texts: Sequence[str]) -> list[str]:
    return [texts[index] for index in rng.permutation(len(texts))]
