"""What a training question is shown among: resampled options, and questions that may belong to its video.

The published loader's draws (facts/cra.md section 3), made a function of (seed, epoch, question id) alone, so that a
resumed run sees what the undisturbed one would have seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stores.loading.questions import Questions
from trainers.cra.config import DataConfig
from trainers.errors import TrainingError

_WHAT = {
    **dict.fromkeys(("does", "do", "did"), "whata"),
    **dict.fromkeys(("was", "were", "is", "are"), "whatb"),
}


def coarse_type(question: str) -> str:
    """How a question asks, by its first two words: whata, whatb, whato, how, howm, who, which, why, where or other."""
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
    question, options, answer : the question, perhaps paraphrased; its options; the right one's index.
    questions, right : questions of which number ``right`` belongs to the video.
    """

    question: str
    options: list[str]
    answer: int
    questions: list[str]
    right: int


class CandidateSampler:
    """Draws from pools of the training split.

    Parameters
    ----------
    questions : the training split.
    paraphrases : of questions, by question id.
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
        asked: dict[str, list[str]] = defaultdict(list)
        by_video: dict[str, list[str]] = defaultdict(list)
        for index, text in enumerate(questions.texts):
            answer = questions.answers[index]
            if answer is not None:
                answers[coarse_type(text)].append(answer)
            # Types of NExT-QA that begin with D ask for a description, which fits many videos.
            if not (questions.dataset == "nextgqa" and questions.types[index].startswith("D")):
                asked[coarse_type(text)].append(text)
                by_video[questions.video_ids[index]].append(text)
        self._answers, self._asked, self._by_video = map(_unique_sorted, (answers, asked, by_video))
        self._all_answers = _union(self._answers)
        self._all_asked = _union(self._asked)

    def draw(self, index: int, epoch: int) -> Draw:
        """Question ``index`` of the split in an epoch."""
        asked, config = self._questions, self._config
        identity = hashlib.sha256(asked.ids[index].encode()).digest()
        rng = np.random.default_rng([self._seed, epoch, int.from_bytes(identity[:8], "little")])
        question, options = asked.texts[index], list(asked.options[index])
        kind = coarse_type(question)
        answer_text = options[int(asked.answer_index[index])]
        paraphrases = self._paraphrases.get(asked.ids[index], ())
        if rng.random() < config.paraphrase and paraphrases:
            question = paraphrases[int(rng.integers(len(paraphrases)))]
            kind = coarse_type(question) if config.paraphrase_types else kind
        if rng.random() < config.distractors:
            options = self._options(rng, kind, answer_text, options)
        # Of equal options the first is the right one, as in the published loader.
        answer = int(asked.answer_index[index]) if options == asked.options[index] else options.index(answer_text)
        questions = self._candidates(rng, kind, question, asked.texts[index], asked.video_ids[index], len(options) - 1)
        return Draw(question, options, answer, questions, questions.index(question))

    def _options(self, rng: np.random.Generator, kind: str, answer: str, options: list[str]) -> list[str]:
        """The right answer among others to questions that ask alike; the given options where there are too few."""
        excluded = {answer} if self._config.distinct_candidates else set()
        pools = (self._answers.get(kind, []), self._all_answers)
        wrong = _take(rng, pools, len(options) - 1, excluded)
        return _shuffled(rng, [*wrong, answer]) if len(wrong) == len(options) - 1 else options

    def _candidates(
        self, rng: np.random.Generator, kind: str, question: str, original: str, video: str, count: int
    ) -> list[str]:
        """The question among up to ``count`` others."""
        excluded = {question, original} if self._config.distinct_candidates else set()
        pools = [self._asked.get(kind, []), self._all_asked]
        if rng.random() < self._config.same_video:
            pools.insert(0, self._by_video.get(video, []))
        return _shuffled(rng, [*_take(rng, pools, count, excluded), question])


def read_paraphrases(path: Path) -> dict[str, list[str]]:
    """``{question id: {"gen": [paraphrases]}}``, without their question marks.

    Raises
    ------
    TrainingError
        If the file is not of that form.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {key: [text.rstrip("? ") for text in value["gen"]] for key, value in raw.items()}
    except OSError as error:
        raise TrainingError(f"{path}: not readable ({error.strerror})") from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise TrainingError(f'{path}: must be JSON {{question id: {{"gen": [paraphrases]}}}}') from error


def _unique_sorted(pools: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {name: sorted(set(texts)) for name, texts in pools.items()}


def _union(pools: Mapping[str, Iterable[str]]) -> list[str]:
    return sorted({text for texts in pools.values() for text in texts})


def _take(rng: np.random.Generator, pools: Sequence[Sequence[str]], count: int, excluded: Collection[str]) -> list[str]:
    """Up to ``count`` different texts that are not excluded, from the first pool while it lasts, then the next."""
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
