"""CRA and Temp[CLIP] as the training loop sees them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stores import Store
from stores.loading import (
    BatchSampler,
    QuestionBatch,
    QuestionDataset,
    ShuffleSampler,
    View,
    check,
    load_vectors,
    read_ahead,
)
from trainers.cra import alignment, spans
from trainers.cra.candidates import CandidateSampler, read_paraphrases
from trainers.cra.config import CraConfig, LossConfig
from trainers.cra.data import VIDEO, Choice, Inputs, evaluation_inputs, training_inputs
from trainers.cra.dictionaries import choose_dictionary, load_dictionary
from trainers.cra.model import build_model
from trainers.cra.outputs import Grounded
from trainers.cra.text import Pooling, Pretrained, StoredText, TokenText, Words, load_pretrained
from trainers.cra.tokens import Encoder, RobertaTokens, StoredVectors, WordTokens
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.metrics.grounding import Answer, GroundedQuestion, Span, score
from trainers.preload import keep
from trainers.scaling import standardise
from trainers.task import Evaluation, Json, Task


def build(settings: CraConfig, store: Store, ranks: Ranks) -> CraTask:
    """Make the task on one rank.

    Raises
    ------
    TrainingError, StoreError
        If the store lacks what the settings ask for, or its data is not fit to train on.
    """
    data = settings.data
    needed = settings.model.dictionaries
    dictionaries = {name: load_dictionary(store, name, data) for name in needed}
    parts = [(name, choose_dictionary(store, name, data).part) for name in needed]
    for split in (data.train, data.val, *data.tests):
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
        for split in (data.train, data.val, *data.tests)
    }
    keep(datasets.values(), data.preload, ranks.device)
    paraphrases = read_paraphrases(data.paraphrases) if data.paraphrases is not None else {}
    if data.paraphrase and not paraphrases:
        warnings.warn(
            "no question is paraphrased: published CRA paraphrases with train_gpt4_sub.json; name it as "
            "data.paraphrases, or set data.paraphrase to 0",
            stacklevel=2,
        )
    torch.manual_seed(settings.loop.seed)
    text, encoder = _text(settings, store, datasets, paraphrases)
    scale = standardise(datasets[data.train], VIDEO) if data.standardise else None
    model = build_model(settings.model, text, _feature_dim(store, datasets[data.train], settings), dictionaries, scale)
    return CraTask(settings, store, ranks, model, encoder, datasets, paraphrases)


def _feature_dim(store: Store, dataset: QuestionDataset, settings: CraConfig) -> int:
    name = settings.data.feature
    shape, _ = store.shape(name, dataset.videos[dataset.first_present(VIDEO)])
    if len(shape) != 2 and not settings.data.pool:
        raise TrainingError(f"feature {name!r}: rows are {'×'.join(map(str, shape))}, not T×F; set data.pool to true")
    return shape[-1]


def _text(
    settings: CraConfig,
    store: Store,
    datasets: Mapping[str, QuestionDataset],
    paraphrases: Mapping[str, Sequence[str]],
) -> tuple[nn.Module, Encoder]:
    """Make the text module and the encoder of candidates that belongs to it."""
    config, dim = settings.text, settings.model.dim
    pooling: Pooling = "attention" if settings.model.method == "cra" else "mean"
    if config.encoder == "stored":
        texts = sorted({text for dataset in datasets.values() for text in _texts(dataset, paraphrases)})
        stored = load_vectors(store, texts, config.embeddings or None)
        vectors = dict(zip(texts, stored.vectors[stored.at].numpy(), strict=True))
        width = stored.vectors.shape[1]
        return StoredText(width, dim), StoredVectors(vectors, width)
    if config.encoder == "words":
        words = WordTokens.build(config, _texts(datasets[settings.data.train], paraphrases))
        states: nn.Module = Words(len(words), dim, config)
        return TokenText(states, dim, dim, words.special.pad, pooling, config.mask_padding), words
    pretrained, tokenizer = load_pretrained(config.weights)
    tokens = RobertaTokens(config, tokenizer)
    hidden = int(pretrained.config.hidden_size)
    return TokenText(Pretrained(pretrained), hidden, dim, tokens.special.pad, pooling, config.mask_padding), tokens


def _texts(dataset: QuestionDataset, paraphrases: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield every text that candidates of a split are made of."""
    for question, text, options in zip(
        dataset.questions.ids, dataset.questions.texts, dataset.questions.options, strict=True
    ):
        yield text
        yield from options
        yield from paraphrases.get(question, ())


class CraTask(Task):
    """Grounded question answering, learned from the right options alone and never from spans."""

    select = "acc_vqa"

    def __init__(
        self,
        config: CraConfig,
        store: Store,
        ranks: Ranks,
        model: nn.Module,
        encoder: Encoder,
        datasets: Mapping[str, QuestionDataset],
        paraphrases: Mapping[str, Sequence[str]],
    ) -> None:
        self.config, self.store, self.model, self.encoder = config, store, model, encoder
        self._datasets = datasets
        for split, dataset in datasets.items():
            _refuse_open_questions(store, split, dataset)
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

    def steps_per_epoch(self) -> int:
        return len(self._sampler)

    def batches(self, epoch: int, start_step: int) -> Iterator[Inputs]:
        self._sampler.start(epoch, start_step)
        for batch in read_ahead(self._datasets[self.config.data.train], self._sampler):
            draws = [self._candidates.draw(self._index[question], epoch) for question in batch.question_ids]
            yield training_inputs(batch, draws, self.encoder, questions=self.config.loss.vq > 0)

    def loss(self, batch: Inputs) -> dict[str, Tensor]:
        weights, aligned = self.config.loss, self.config.model.method == "cra" and self.config.loss.align > 0
        answered = self.model(batch.video, batch.valid, batch.options.candidates, batch.options.exists)
        losses = {"vqa": _cross_entropy(answered, batch.options)}
        total = weights.vqa * losses["vqa"]
        if aligned:
            losses["align"] = _align(answered, batch.options, weights)
        if batch.questions is not None:
            questions = batch.questions
            matched = self.model(batch.video, batch.valid, questions.candidates, questions.exists, questions.right)
            losses["vq"] = _cross_entropy(matched, questions)
            total = total + weights.vq * losses["vq"]
            if aligned:
                losses["align"] = losses["align"] + _align(matched, questions, weights)
        if aligned:
            total = total + weights.align * losses["align"]
        return {"total": total, **losses}

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
        collected = _Collected(self.config, self.store)
        for batch in read_ahead(dataset, order):
            inputs = evaluation_inputs(batch, self.encoder).to(device)
            options = inputs.options
            collected.add(batch, self.model(inputs.video, inputs.valid, options.candidates, options.exists))
        return collected.evaluation()

    def describe(self) -> dict[str, Json]:
        words = self.encoder
        return {
            "method": "cra",
            "settings": self.config.describe(),
            "store_version": self.store.version,
            "feature_spec": self.store.spec_digest(self.config.data.feature),
            "vocabulary": {"version": words.VERSION, "words": words.words} if isinstance(words, WordTokens) else None,
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


def _refuse_open_questions(store: Store, split: str, dataset: QuestionDataset) -> None:
    for question, options in zip(dataset.questions.ids, dataset.questions.options, strict=True):
        if len(options) < 2:
            raise TrainingError(
                f"{store.path}: question {question!r} of split {split!r} has {len(options)} options; "
                "CRA chooses among at least 2"
            )


def _cross_entropy(grounded: Grounded, choice: Choice) -> Tensor:
    return nn.functional.cross_entropy(grounded.logits, choice.right)


def _align(grounded: Grounded, choice: Choice, config: LossConfig) -> Tensor:
    text = grounded.text(choice.right)
    if config.bidirectional:
        return alignment.bidirectional(grounded.video, text, config.temperature)
    negatives = config.negatives if config.negatives is not None else len(text) - 1
    return alignment.sampled(grounded.video, text, config.temperature, negatives)


@dataclass
class _Collected:
    """The predictions of a split, collected batch by batch."""

    config: CraConfig
    store: Store
    questions: list[GroundedQuestion] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    proposals: dict[str, dict[str, Span]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    attention: dict[str, list[float]] = field(default_factory=dict)
    unsmoothed: dict[str, list[float]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def add(self, batch: QuestionBatch, grounded: Grounded) -> None:
        predictions, logits = grounded.logits.argmax(1).tolist(), grounded.logits.tolist()
        valid, times = batch.valid[VIDEO], batch.times[VIDEO]
        weights, unsmoothed = grounded.weights.cpu(), grounded.attention.cpu()
        intervals = None if grounded.interval is None else grounded.interval.tolist()
        for row, video in enumerate(batch.video_ids):
            key = _key(video, batch.question_ids[row])
            frames = valid[row]
            answer = int(batch.answer_index[row])
            self.answers[key] = Answer(predictions[row], None if answer < 0 else answer)
            self.scores[key] = logits[row][: len(batch.options[row])]
            self.attention[key] = weights[row][frames].tolist()
            self.unsmoothed[key] = unsmoothed[row][frames].tolist()
            seconds = self._times(video, times[row], frames)
            duration = self._duration(video, float(batch.duration[row]))
            if seconds is not None and math.isfinite(duration):  # else no second of it can be named
                self.times[video] = seconds
                proposed = None if intervals is None else intervals[row]
                self._add_span(key, seconds, duration, proposed)
            self.questions.append(
                GroundedQuestion(
                    key=key,
                    video_id=video,
                    type=batch.types[row],
                    answer=self.answers[key].stated,
                    options=len(batch.options[row]),
                    duration=duration,
                    spans=tuple(batch.spans[row]),
                )
            )

    def evaluation(self) -> Evaluation:
        known = [question for question in self.questions if question.answer is not None]
        metrics: dict[str, float] = {"n": len(known)}
        if known:
            right = sum(self.answers[question.key].prediction == question.answer for question in known)
            metrics["acc_vqa"] = 100 * right / len(known)
        grounded = [question for question in known if question.spans and question.key in self.spans]
        if grounded:
            rates = score(grounded, self.answers, self.spans).overall
            metrics |= {name: rate for name, rate in rates.items() if name not in ("acc_vqa", "n")}
            metrics["n_grounded"] = len(grounded)
        answers = {
            key: {"prediction": answer.prediction, "answer": answer.stated} for key, answer in self.answers.items()
        }
        predictions = {
            "answers": answers,
            "scores": self.scores,
            "spans": self.spans,
            "attention": self.attention,
            "unsmoothed": self.unsmoothed,
            "times": self.times,
            **self.proposals,
        }
        return Evaluation(metrics, predictions)

    def _add_span(self, key: str, times: list[float], duration: float, proposed: list[float] | None) -> None:
        """Enter the span of a question; of a model that proposes one, also those of the other published rules."""
        published = self.config.evaluation.published_spans
        rules: tuple[spans.Rule, ...] = () if proposed is None else ("proposal", "posthoc", "merge")
        for rule in dict.fromkeys((self.config.span_rule, *rules)):
            start, end = spans.span(rule, self.attention[key], times, duration, published, proposed)
            if rule == self.config.span_rule:
                self.spans[key] = start, end
            if rule in rules:
                self.proposals.setdefault(f"spans_{rule}", {})[key] = start, end

    def _times(self, video: str, true: Tensor, valid: Tensor) -> list[float] | None:
        """Return the times of the valid frames in seconds, true or published as the settings say; None if unknown."""
        published = None
        if self.config.evaluation.published_times and valid.any():
            published = self.store.published_times(self.config.data.feature, video)
        times = (true if published is None else torch.tensor(published))[valid]
        return None if times.isnan().any() else times.tolist()

    def _duration(self, video: str, annotated: float) -> float:
        """Return the duration in seconds: as annotated, else as decoded."""
        return annotated if annotated > 0 else self.store.clip(self.config.data.feature, video)[1]


def _key(video: str, question: str) -> str:
    """Return ``<video>_<question>``, the form that question ids of NExT-GQA have already."""
    return question if question.startswith(f"{video}_") else f"{video}_{question}"
