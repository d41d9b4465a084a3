"""CoQo and its baselines as the training loop sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from stores import Store
from stores.loading import (
    BatchSampler,
    CollectiveSampler,
    QuestionBatch,
    QuestionDataset,
    Questions,
    ShuffleSampler,
    VideoBatch,
    VideoDataset,
    View,
    check,
    read_ahead,
)
from trainers.coqo.answers import AnswerVocabulary
from trainers.coqo.attention import Steps
from trainers.coqo.avst import AVST
from trainers.coqo.config import CoqoConfig
from trainers.coqo.data import Encoder, Inputs, Labels
from trainers.coqo.hcrn import HCRN
from trainers.coqo.heads import ClassHead, Head, NumberHead, OptionHead, OptionScores, whole_number
from trainers.coqo.layout import Layout
from trainers.coqo.losses import objective
from trainers.coqo.model import Answers, CoQo, Sizes
from trainers.coqo.question import Vocabulary
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.metrics import numbers
from trainers.metrics.avqa import Question, score
from trainers.metrics.rules import RULES
from trainers.predictions import Prediction
from trainers.preload import keep
from trainers.scaling import Standardise, standardise
from trainers.task import Evaluation, Json, Task


def build(settings: CoqoConfig, store: Store, ranks: Ranks) -> CoqoTask:
    """Make the task on one rank.

    Raises
    ------
    TrainingError, StoreError
        If the store lacks questions, features or answers that the settings ask for.
    """
    return CoqoTask(settings, store, ranks)


def build_model(config: CoqoConfig, sizes: Sizes) -> nn.Module:
    """Make the network that the settings ask for, with random weights."""
    if config.model.method == "avst":
        return AVST(config.model, sizes)
    if config.model.method == "hcrn":
        return HCRN(config.model, sizes)
    return CoQo(config.model, config.loss, sizes)


class ScaledSteps(nn.Module):
    """A network whose steps are standardised first."""

    def __init__(self, scales: Mapping[str, Standardise], network: nn.Module) -> None:
        super().__init__()
        self.scales, self.network = nn.ModuleDict(scales), network

    def forward(
        self,
        words: Tensor,
        q_mask: Tensor,
        audio: Steps | None,
        visual: Steps | None,
        videos: Tensor,
        layout: Layout | None = None,
    ) -> Answers:
        """Answer questions; see ``trainers.coqo.model.CoQo.forward``."""
        audio, visual = self._scaled("audio", audio), self._scaled("visual", visual)
        answers: Answers = self.network(words, q_mask, audio, visual, videos, layout)
        return answers

    def _scaled(self, name: str, steps: Steps | None) -> Steps | None:
        return None if steps is None else steps._replace(features=self.scales[name](steps.features))


class CoqoTask(Task):
    """Audio-visual question answering: trained on all questions of a video together or on single ones.

    Answers are always given to single questions.
    """

    def __init__(self, config: CoqoConfig, store: Store, ranks: Ranks) -> None:
        self.config, self.store, self.ranks = config, store, ranks
        data = config.data
        for split in (data.train, data.val, *data.tests):
            check(store, config.features, split, data.dataset).require(data.allow)
        self.select = "negative_mse" if config.answer.head == "number" else "overall"
        self.train = self.videos(data.train) if data.collective else self._questions(data.train)
        self.scored = {split: self._questions(split) for split in (data.val, *data.tests)}
        if not known_questions(self.scored[data.val]):
            raise TrainingError(f"{store.path}: split {data.val!r} of {data.dataset!r} has no answers to validate with")
        keep([self.train, *self.scored.values()], data.preload, ranks.device)
        self.sampler = self._sampler()
        answers = [answer for answer in self.train.questions.answers if answer is not None]
        self.head: Head
        labels: Labels | None
        if config.answer.head == "classes":
            classes = AnswerVocabulary.of(data.dataset, answers, config.answer.top, config.answer.minimum)
            self.head, labels = ClassHead(classes), classes
            answers = sorted(set(answers) & set(classes.answers))
        elif config.answer.head == "options":
            self.head, labels = OptionHead(config.model.dim, config.answer.loss), None
        else:
            self.head = labels = NumberHead(config.answer)
        if not answers:
            raise TrainingError(f"{store.path}: split {data.train!r} of {data.dataset!r} has no answers to learn from")
        for dataset in (self.train, *self.scored.values()):
            self._check_answers(dataset.questions)
        self.encoder = Encoder(_vocabulary(store, config), labels)
        self.sizes = self._sizes()
        torch.manual_seed(config.loop.seed)
        self.model = build_model(config, self.sizes)
        if data.standardise:
            scales = {name: standardise(self.train, name) for name in config.model.modalities}
            self.model = ScaledSteps(scales, self.model)
        if self.head.takes_options:
            self.model = OptionScores(self.model, config.model, self.sizes.words)

    def steps_per_epoch(self) -> int:
        return len(self.sampler)

    def batches(self, epoch: int, start_step: int) -> Iterator[Inputs]:
        self.sampler.start(epoch, start_step)
        read: Iterator[QuestionBatch | VideoBatch] = read_ahead(self.train, self.sampler)
        for batch in read:
            yield self.encoder.videos(batch) if isinstance(batch, VideoBatch) else self.encoder.questions(batch)

    def loss(self, batch: Inputs) -> dict[str, Tensor]:
        return objective(self.answer(batch), batch.labels, self.config.loss, batch.known, self.head.loss)

    def answer(self, batch: Inputs) -> Answers:
        """Answer the questions of a batch."""
        options = () if batch.options is None else (batch.options,)
        answers: Answers = self.model(
            batch.words, batch.q_mask, batch.audio, batch.visual, batch.videos, batch.layout, *options
        )
        return answers

    def evaluate(self, split: str) -> Evaluation:
        """Score a split, of which each question is answered alone.

        Questions whose answers are hidden are answered and not scored; without any other there are no metrics.

        The predictions are ``answers`` as ``jobs/evaluate.py avqa`` reads them; for panels, ``attention`` has the
        weights of the valid steps by question and modality, and ``times`` their seconds by video and modality.
        """
        dataset = self.scored[split]
        order = BatchSampler(ShuffleSampler(len(dataset), shuffle=False), self.config.data.batch_questions)
        answers: dict[str, str] = {}
        confidences: dict[str, float | None] = {}
        attention: dict[str, dict[str, list[float]]] = {}
        times: dict[str, dict[str, list[float]]] = {}
        for batch in read_ahead(dataset, order):
            predicted = self.answer(self.encoder.questions(batch).to(self.ranks.device))
            outputs = predicted.logits[:, 0]
            answers |= zip(batch.question_ids, self.head.texts(outputs, batch.options), strict=True)
            confidences |= zip(batch.question_ids, self.head.confidences(outputs), strict=True)
            for name, weights in predicted.attention.items():
                valid, seconds, single = batch.valid[name], batch.times[name], weights[:, 0].float().cpu()
                for row, (question, video) in enumerate(zip(batch.question_ids, batch.video_ids, strict=True)):
                    attention.setdefault(question, {})[name] = single[row][valid[row]].tolist()
                    if not (own := seconds[row][valid[row]]).isnan().any():
                        times.setdefault(video, {})[name] = own.tolist()
        metrics = self.score(known_questions(dataset), answers)
        rows = [self._row(dataset.questions, row, answers, confidences) for row in range(len(dataset))]
        return Evaluation(metrics, {"answers": answers, "attention": attention, "times": times}, rows)

    def _row(
        self, table: Questions, row: int, answers: Mapping[str, str], confidences: Mapping[str, float | None]
    ) -> Prediction:
        name, answer = table.ids[row], table.answers[row]
        prediction = answers[name]
        return Prediction.of(
            table,
            row,
            prediction,
            prediction_index=table.options[row].index(prediction) if self.head.takes_options else None,
            right=None if answer is None else self.head.is_right(prediction, answer),
            confidence=confidences[name],
        )

    def score(self, known: Sequence[Question], answers: Mapping[str, str]) -> dict[str, float]:
        """Return the metrics of questions whose answers are known; none without such questions.

        They follow the rule of the dataset (``trainers.metrics.rules``). ``outside_vocabulary`` is the percentage of
        questions whose answer is not among the classes, which are always wrong; it is left out if there are none.
        """
        if not known:
            return {}
        if self.config.answer.head == "number":
            truth = {question.question_id: float(whole_number(question.answer)) for question in known}
            errors = numbers.score(truth, {name: float(answers[name]) for name in truth})
            by_rule = {f"mse_{rule}": error for rule, error in errors.mse.items()}
            return {"overall": errors.accuracy, **by_rule, "negative_mse": -errors.mse[self.config.answer.rule]}
        rule = RULES.get(self.config.data.dataset)
        scores = score(known, {question.question_id: answers[question.question_id] for question in known}, rule=rule)
        rates = {"overall": scores.overall, **scores.groups, **scores.types, **scores.subsets}
        metrics = {name: rate.accuracy for name, rate in rates.items() if rate.accuracy is not None}
        if isinstance(self.head, ClassHead):
            classes = set(self.head.vocabulary.answers)
            if outside := sum(question.answer not in classes for question in known):
                metrics["outside_vocabulary"] = 100 * outside / len(known)
        return metrics

    def splits(self) -> Sequence[str]:
        return (self.config.data.val, *self.config.data.tests)

    def describe(self) -> dict[str, Json]:
        vocabulary = self.encoder.vocabulary
        return {
            "method": "coqo",
            "settings": self.config.describe(),
            "store_version": self.store.version,
            "words": {
                "digest": vocabulary.digest,
                "words": vocabulary.words,
                "has_unknown": vocabulary.has_unknown,
            },
            "answers": self.head.describe(),
            "sizes": {"audio": self.sizes.audio, "visual": self.sizes.visual},
            "feature_specs": {
                name: self.store.spec_digest(self.config.feature(name)) for name in self.config.model.modalities
            },
        }

    def videos(self, split: str) -> VideoDataset:
        """Return the videos of a split with their questions, as the settings read them."""
        return VideoDataset(self.store, split, self._views(), **self._reading())

    def _questions(self, split: str) -> QuestionDataset:
        return QuestionDataset(self.store, split, self._views(), **self._reading())

    def _reading(self) -> dict[str, Any]:
        data = self.config.data
        pin = self.ranks.device.type == "cuda"
        return {"dataset": data.dataset, "allow_missing": "missing" in data.allow, "pin": pin}

    def _sampler(self) -> BatchSampler:
        data, ranks = self.config.data, self.ranks
        if isinstance(self.train, VideoDataset):
            return CollectiveSampler(
                self.train,
                data.batch_videos,
                data.max_questions,
                data.quotas,
                seed=self.config.loop.seed,
                rank=ranks.rank,
                world=ranks.world,
            )
        items = ShuffleSampler(len(self.train), self.config.loop.seed, rank=ranks.rank, world=ranks.world)
        return BatchSampler(items, data.batch_questions)

    def _check_answers(self, questions: Questions) -> None:
        """Raise TrainingError if the head cannot answer the questions of a split, or not learn from them."""
        where = f"{self.store.path}: split {questions.split!r} of {questions.dataset!r}"
        if self.head.takes_options:
            for name, options in zip(questions.ids, questions.options, strict=True):
                if len(options) < 2:
                    raise TrainingError(
                        f"{where}: question {name!r} has {len(options)} options; answer.head=options needs 2 or more"
                    )
        elif isinstance(self.head, NumberHead):
            for name, answer in zip(questions.ids, questions.answers, strict=True):
                try:
                    whole_number(answer or "0")
                except TrainingError as error:
                    raise TrainingError(f"{where}: question {name!r}: {error}") from error

    def _check_stride(self, name: str, row: int) -> None:
        """Raise TrainingError if the stride leaves one step of a row that has more."""
        feature, stride = self.config.feature(name), self.config.data.stride
        steps = self.store.shape(feature, self.train.videos[row])[0][0]
        if stride >= steps > 1:
            raise TrainingError(
                f"{self.store.path}: data.stride={stride} leaves one of the {steps} steps of {feature!r}; "
                f"set it below {steps}"
            )

    def _views(self) -> dict[str, View]:
        """Read features in their stored dtypes, which are smaller; the model converts them on the device."""
        stride = slice(None, None, self.config.data.stride)
        pooled = {"visual"} if self.config.data.pool else set()
        return {
            name: View(self.config.feature(name), stride, "mean" if name in pooled else None, dtype=None)
            for name in self.config.model.modalities
        }

    def _sizes(self) -> Sizes:
        shapes: dict[str, tuple[int, ...]] = {"audio": (), "visual": ()}
        steps: dict[str, int] = {}
        for name in self.config.model.modalities:
            row = self.train.first_present(name)
            self._check_stride(name, row)
            features, *_ = self.train.table.gather([row])
            values = features[name]
            shapes[name], steps[self.config.feature(name)] = tuple(values.shape[2:]), values.shape[1]
        if self.config.model.method == "avst" and len(set(steps.values())) > 1:
            counts = ", ".join(f"{name} has {count}" for name, count in steps.items())
            raise TrainingError(f"{self.store.path}: AVST needs as many steps of sound as frames; {counts}")
        if shapes["visual"] and len(shapes["visual"]) not in (1, 3):
            raise TrainingError(
                f"{self.store.path}: feature {self.config.data.visual!r}: steps have shape {shapes['visual']}; visual "
                "steps must be vectors [C] or maps [H, W, C]"
            )
        return Sizes(len(self.encoder.vocabulary), self.head.outputs, **shapes)


def known_questions(dataset: QuestionDataset | VideoDataset) -> list[Question]:
    """Return the questions of a split whose answers are known, as the metric takes them."""
    table = dataset.questions
    rows = zip(table.ids, table.types, table.modalities, table.answers, table.subsets, strict=True)
    return [
        Question(name, name, kind, modality, answer, subset)
        for name, kind, modality, answer, subset in rows
        if answer is not None
    ]


def _vocabulary(store: Store, config: CoqoConfig) -> Vocabulary:
    if config.model.question.vocabulary == "published":
        return Vocabulary.published()
    table: Any = store.table("questions")
    own = table.filter(pc.equal(table.column("dataset"), config.data.dataset))
    texts: Iterable[str] = own.column("question").unique().to_pylist()
    if config.answer.head == "options":
        texts = [*texts, *pc.list_flatten(own.column("options")).unique().to_pylist()]
    return Vocabulary.build(texts)
