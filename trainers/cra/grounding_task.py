"""What every method of grounded question answering shares: splits, candidates, batches and scores."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from stores import Store
from stores.loading import BatchSampler, QuestionDataset, ShuffleSampler, View, check, read_ahead
from trainers.cra.candidates import CandidateSampler, read_paraphrases
from trainers.cra.config import GroundingSettings
from trainers.cra.data import VIDEO, Inputs, evaluation_inputs, training_inputs
from trainers.cra.dictionaries import choose_dictionary, load_dictionary
from trainers.cra.predictions import Answered, Collected
from trainers.cra.tokens import Encoder
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.preload import keep
from trainers.task import Evaluation, Json, Task

Settings = TypeVar("Settings", bound=GroundingSettings)
Paraphrases = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Opened:
    """What the settings name in the store.

    Attributes
    ----------
    datasets
        Questions and frames of each split.
    paraphrases
        Paraphrases of training questions by question id.
    dictionaries
        ``linguistic_dictionary [C, 8, E]`` and ``visual_dictionary [C, F]``, those that the model needs.
    feature_dim
        F, numbers of a frame.
    """

    datasets: Mapping[str, QuestionDataset]
    paraphrases: Paraphrases
    dictionaries: Mapping[str, Tensor]
    feature_dim: int


def open_data(settings: GroundingSettings, store: Store, ranks: Ranks) -> Opened:
    """Open the splits and read the dictionaries on one rank.

    Raises
    ------
    TrainingError, StoreError
        If the store lacks what the settings ask for, or its data is not fit to train on.
    """
    data, needed = settings.data, settings.dictionaries
    dictionaries = {name: load_dictionary(store, name, data) for name in needed}
    parts = [(name, choose_dictionary(store, name, data).part) for name in needed]
    splits = (data.train, data.val, *data.tests)
    for split in splits:
        check(store, [data.feature], split, data.dataset, dictionaries=parts).require(data.allow)
    view = {VIDEO: View(data.feature, pool="mean" if data.pool else None)}
    datasets = {
        split: QuestionDataset(
            store,
            split,
            view,
            data.dataset,
            pin=ranks.device.type == "cuda",
            allow_missing="missing" in data.allow,
        )
        for split in splits
    }
    keep(datasets.values(), data.preload, ranks.device)
    paraphrases = read_paraphrases(data.paraphrases) if data.paraphrases is not None else {}
    if data.paraphrase and not paraphrases:
        warnings.warn(
            "no question is paraphrased: published CRA paraphrases with train_gpt4_sub.json; name it as "
            "data.paraphrases, or set data.paraphrase to 0",
            stacklevel=3,
        )
    return Opened(datasets, paraphrases, dictionaries, _feature_dim(store, datasets[data.train], settings))


def _feature_dim(store: Store, dataset: QuestionDataset, settings: GroundingSettings) -> int:
    name = settings.data.feature
    shape, _ = store.shape(name, dataset.videos[dataset.first_present(VIDEO)])
    if len(shape) != 2 and not settings.data.pool:
        raise TrainingError(f"feature {name!r}: rows are {'×'.join(map(str, shape))}, not T×F; set data.pool to true")
    return shape[-1]


def texts_of(dataset: QuestionDataset, paraphrases: Paraphrases) -> Iterator[str]:
    """Yield every text that candidates of a split are made of."""
    for question, text, options in zip(
        dataset.questions.ids, dataset.questions.texts, dataset.questions.options, strict=True
    ):
        yield text
        yield from options
        yield from paraphrases.get(question, ())


class GroundingTask(Task, Generic[Settings]):
    """Grounded question answering, learned from the right options alone and never from spans.

    A method adds its loss, and how its model answers.
    """

    select = "acc_vqa"

    def __init__(
        self,
        config: Settings,
        store: Store,
        ranks: Ranks,
        model: nn.Module,
        encoder: Encoder,
        datasets: Mapping[str, QuestionDataset],
        paraphrases: Paraphrases,
    ) -> None:
        self.config, self.store, self.model, self.encoder = config, store, model, encoder
        self._datasets = datasets
        for split, dataset in datasets.items():
            require_options(store, split, dataset.questions.ids, dataset.questions.options)
        self._shown = {split: _with_frames(dataset, split) for split, dataset in datasets.items()}
        train, val = datasets[config.data.train], datasets[config.data.val]
        if not (val.questions.answer_index[self._shown[config.data.val]] >= 0).any():
            raise TrainingError(f"{store.path}: split {config.data.val!r} has no answers to validate with")
        known = [index for index in self._shown[config.data.train] if train.questions.answer_index[index] >= 0]
        if not known:
            raise TrainingError(f"{store.path}: split {config.data.train!r} has no answers to learn from")
        seed = config.loop.seed
        shuffled = ShuffleSampler(known, seed, rank=ranks.rank, world=ranks.world, uneven="drop")
        self._sampler = BatchSampler(shuffled, config.data.batch, drop_last=True)
        self._candidates = CandidateSampler(train.questions, config.data, seed, paraphrases)
        self._index = {question: index for index, question in enumerate(train.questions.ids)}

    @property
    @abstractmethod
    def needs_questions(self) -> bool:
        """Whether the loss asks which question belongs to the video."""

    @abstractmethod
    def answer(self, inputs: Inputs) -> Answered:
        """Answer questions of evaluation, and say where their answers show."""

    def steps_per_epoch(self) -> int:
        return len(self._sampler)

    def batches(self, epoch: int, start_step: int) -> Iterator[Inputs]:
        self._sampler.start(epoch, start_step)
        for batch in read_ahead(self._datasets[self.config.data.train], self._sampler):
            draws = [self._candidates.draw(self._index[question], epoch) for question in batch.question_ids]
            yield self._perceived(training_inputs(batch, draws, self.encoder, questions=self.needs_questions))

    def splits(self) -> Sequence[str]:
        return [self.config.data.val, *self.config.data.tests]

    def evaluate(self, split: str) -> Evaluation:
        """Score a split.

        The predictions are answers, spans in seconds, attention and frame times in seconds as ``jobs/evaluate.py
        grounding`` reads them; for panels, also the logits and the attention before smoothing. A model that proposes
        spans also leaves those of each published rule, as ``spans_proposal``, ``spans_posthoc`` and ``spans_merge``.
        """
        dataset, device = self._datasets[split], next(self.model.parameters()).device
        order = BatchSampler(ShuffleSampler(self._shown[split], shuffle=False), self.config.data.batch)
        collected = Collected(self.config, self.store)
        for batch in read_ahead(dataset, order):
            inputs = self._perceived(evaluation_inputs(batch, self.encoder))
            collected.add(batch, self.answer(inputs.to(device)))
        return collected.evaluation()

    def _perceived(self, inputs: Inputs) -> Inputs:
        """Return inputs with what the settings let the model perceive."""
        hidden = self.config.data.inputs == "question"
        return replace(inputs, video=torch.zeros_like(inputs.video)) if hidden else inputs

    def describe(self) -> dict[str, Json]:
        return {
            "settings": self.config.describe(),
            "store_version": self.store.version,
            "feature_spec": self.store.spec_digest(self.config.data.feature),
            "shapes": {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()},
        }


def _with_frames(dataset: QuestionDataset, split: str) -> list[int]:
    """Return the indices of the questions whose video has a row; warn about the others."""
    missing = set(dataset.missing[VIDEO])
    kept = [index for index, video in enumerate(dataset.questions.video_ids) if video not in missing]
    if missing:
        left_out = len(dataset.questions.video_ids) - len(kept)
        warnings.warn(
            f"split {split!r}: {left_out} questions about {len(missing)} videos without a row are left out",
            stacklevel=3,
        )
    return kept


def require_options(store: Store, split: str, ids: Iterable[str], options: Iterable[Sequence[str]]) -> None:
    """Raise TrainingError if a question has fewer than two options to choose among."""
    for question, given in zip(ids, options, strict=True):
        if len(given) < 2:
            raise TrainingError(
                f"{store.path}: question {question!r} of split {split!r} has {len(given)} options; "
                "a method that chooses needs at least 2"
            )
