"""How the answers of a finished run change if several questions of a video are answered together.

CoQo trains on all questions of a video at once and answers them one by one. Whether this difference costs anything can
be measured: the same questions, of videos that have at least two in the split, are answered alone and in groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stores import Store
from stores.loading import VideoDataset
from trainers import checkpoint
from trainers.config import LoopConfig
from trainers.coqo.config import CoqoConfig
from trainers.coqo.task import CoqoTask, build, known_questions
from trainers.distributed import join, leave
from trainers.errors import TrainingError
from trainers.folder import BEST
from trainers.loop import answering
from trainers.panels import FinishedRun
from trainers.resume import read_settings

Items = list[tuple[int, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Grouped:
    """The answers in groups of one size.

    Attributes
    ----------
    metrics
        What ``CoqoTask.score`` computes, of the questions of videos with at least two.
    changed
        Number of these questions that get another answer than alone.
    left_alone
        Number of these questions that are the rest of their video, and so a group of one.
    """

    metrics: dict[str, float]
    changed: int
    left_alone: int


@dataclass(frozen=True, slots=True)
class TogetherScores:
    """What answering together does to a split.

    Attributes
    ----------
    n, videos
        Number of questions of videos that have at least two, and of these videos.
    groups
        Questions per video to the answers in such groups; 1 is every question alone.
    """

    n: int
    videos: int
    groups: dict[int, Grouped]

    def to_json(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return asdict(self)


def compare(run: FinishedRun, split: str, counts: Sequence[int], device: str = "auto") -> TogetherScores:
    """Answer the questions of a split alone, and in groups of at most so many questions of a video.

    Parameters
    ----------
    run
        The run, of method ``coqo``.
    split
        A split of its dataset.
    counts
        Questions per video; a video's questions are taken in the order of the table.
    device
        Where to compute, as ``loop.device``.

    Raises
    ------
    TrainingError, StoreError
        If the run is of another method, its network takes single questions only, no video has two questions, or the
        weights or the store cannot be read.
    """
    if run.method != "coqo":
        raise TrainingError(f"{run.folder}: is a run of {run.method}; only coqo answers several questions together")
    described = read_settings(run.folder)
    if described is None:
        raise TrainingError(f"{run.folder}: holds no run")
    raw = described["task"]["settings"]
    # The validation split is read anyway; other test splits need not be there any more.
    tests = [] if split == raw["data"]["val"] else [split]
    config = CoqoConfig.model_validate({**raw, "data": {**raw["data"], "tests": tests}})
    if config.model.method == "avst":
        raise TrainingError(f"{run.folder}: avst takes one question of a video at a time")
    try:
        ranks = join(device)
        with Store.open(run.store, run.version, lease=False) as store:
            task = build(config, store, ranks)
            checkpoint.load_best(run.folder / BEST, task.model)
            with answering(task, LoopConfig.model_validate(described["loop"]), ranks):
                return _compare(task, split, counts)
    finally:
        leave()


def _compare(task: CoqoTask, split: str, counts: Sequence[int]) -> TogetherScores:
    videos = task.videos(split)
    several = [video for video in range(len(videos)) if len(videos.questions_of[video]) > 1]
    if not several:
        raise TrainingError(f"{task.store.path}: no video of split {split!r} has two questions")
    alone = answer_together(task, videos, several, 1)
    known = [question for question in known_questions(videos) if question.question_id in alone]
    groups = {}
    for count in sorted({1, *counts}):
        answers = alone if count == 1 else answer_together(task, videos, several, count)
        rest = sum(len(videos.questions_of[video]) % count == 1 for video in several)
        groups[count] = Grouped(
            metrics=task.score(known, answers),
            changed=sum(answers[name] != answer for name, answer in alone.items()),
            left_alone=len(alone) if count == 1 else rest,
        )
    return TogetherScores(len(alone), len(several), groups)


def answer_together(task: CoqoTask, videos: VideoDataset, chosen: Sequence[int], count: int) -> dict[str, str]:
    """Answer the questions of the chosen videos in groups of ``count``; return the answers by question id."""
    answers: dict[str, str] = {}
    for items in _items(videos, chosen, count):
        for start in range(0, len(items), task.config.data.batch_videos):
            batch = videos.__getitems__(items[start : start + task.config.data.batch_videos])
            predicted = task.answer(task.encoder.videos(batch).to(task.ranks.device))
            outputs = predicted.logits[batch.q_mask.to(predicted.logits.device)]
            places = batch.q_mask.nonzero().tolist()
            options = [batch.options[row][at] for row, at in places]
            names = [batch.question_ids[row][at] for row, at in places]
            answers |= zip(names, task.head.texts(outputs, options), strict=True)
    return answers


def _items(videos: VideoDataset, chosen: Sequence[int], count: int) -> Iterator[Items]:
    """Yield the first group of each video, then the second, …: a batch needs distinct videos."""
    sizes = {video: len(videos.questions_of[video]) for video in chosen}
    for start in range(0, max(sizes.values()), count):
        yield [(video, tuple(range(start, min(start + count, size)))) for video, size in sizes.items() if size > start]
