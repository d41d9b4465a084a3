"""CRA and Temp[CLIP] as the training loop sees them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stores import Store
from stores.loading import load_vectors
from trainers.cra import alignment
from trainers.cra.config import CraConfig, LossConfig
from trainers.cra.data import VIDEO, Choice, Inputs
from trainers.cra.grounding_task import GroundingTask, Opened, open_data, texts_of
from trainers.cra.model import build_model
from trainers.cra.outputs import Grounded
from trainers.cra.text import Pooling, Pretrained, StoredText, TokenText, Words, load_pretrained
from trainers.cra.tokens import Encoder, RobertaTokens, StoredVectors, WordTokens
from trainers.distributed import Ranks
from trainers.scaling import standardise
from trainers.task import Json


def build(settings: CraConfig, store: Store, ranks: Ranks) -> CraTask:
    """Make the task on one rank.

    Raises
    ------
    TrainingError, StoreError
        If the store lacks what the settings ask for, or its data is not fit to train on.
    """
    data, opened = settings.data, open_data(settings, store, ranks)
    torch.manual_seed(settings.loop.seed)
    text, encoder = _text(settings, store, opened)
    scale = standardise(opened.datasets[data.train], VIDEO) if data.standardise else None
    model = build_model(settings.model, text, opened.feature_dim, opened.dictionaries, scale)
    return CraTask(settings, store, ranks, model, encoder, opened.datasets, opened.paraphrases)


def _text(settings: CraConfig, store: Store, opened: Opened) -> tuple[nn.Module, Encoder]:
    """Make the text module and the encoder of candidates that belongs to it."""
    config, dim = settings.text, settings.model.dim
    pooling: Pooling = "attention" if settings.model.method == "cra" else "mean"
    if config.encoder == "stored":
        texts = sorted({text for one in opened.datasets.values() for text in texts_of(one, opened.paraphrases)})
        stored = load_vectors(store, texts, config.embeddings or None)
        vectors = dict(zip(texts, stored.vectors[stored.at].numpy(), strict=True))
        width = stored.vectors.shape[1]
        return StoredText(width, dim), StoredVectors(vectors, width)
    if config.encoder == "words":
        words = WordTokens.build(config, texts_of(opened.datasets[settings.data.train], opened.paraphrases))
        states: nn.Module = Words(len(words), dim, config)
        return TokenText(states, dim, dim, words.special.pad, pooling, config.mask_padding), words
    pretrained, tokenizer = load_pretrained(config.weights)
    tokens = RobertaTokens(config, tokenizer)
    hidden = int(pretrained.config.hidden_size)
    return TokenText(Pretrained(pretrained), hidden, dim, tokens.special.pad, pooling, config.mask_padding), tokens


class CraTask(GroundingTask[CraConfig]):
    """CRA's and Temp[CLIP]'s loss (``docs/facts/cra.md`` section 5.5)."""

    @property
    def needs_questions(self) -> bool:
        return self.config.loss.vq > 0

    def answer(self, inputs: Inputs) -> Grounded:
        return self._ground(inputs, inputs.options)

    def loss(self, batch: Inputs) -> dict[str, Tensor]:
        weights, aligned = self.config.loss, self.config.model.method == "cra" and self.config.loss.align > 0
        answered = self._ground(batch, batch.options)
        losses = {"vqa": _cross_entropy(answered, batch.options)}
        total = weights.vqa * losses["vqa"]
        if aligned:
            losses["align"] = _align(answered, batch.options, weights)
        if batch.questions is not None:
            questions = batch.questions
            matched = self._ground(batch, questions, questions.right)
            losses["vq"] = _cross_entropy(matched, questions)
            total = total + weights.vq * losses["vq"]
            if aligned:
                losses["align"] = losses["align"] + _align(matched, questions, weights)
        if aligned:
            total = total + weights.align * losses["align"]
        return {"total": total, **losses}

    def _ground(self, inputs: Inputs, choice: Choice, right: Tensor | None = None) -> Grounded:
        grounded: Grounded = self.model(inputs.video, inputs.valid, choice.candidates, choice.exists, right)
        return grounded

    def describe(self) -> dict[str, Json]:
        words = self.encoder
        return {
            "method": "cra",
            **super().describe(),
            "vocabulary": {"version": words.VERSION, "words": words.words} if isinstance(words, WordTokens) else None,
        }


def _cross_entropy(grounded: Grounded, choice: Choice) -> Tensor:
    return nn.functional.cross_entropy(grounded.logits, choice.right)


def _align(grounded: Grounded, choice: Choice, config: LossConfig) -> Tensor:
    text = grounded.text(choice.right)
    if config.bidirectional:
        return alignment.bidirectional(grounded.video, text, config.temperature)
    negatives = config.negatives if config.negatives is not None else len(text) - 1
    return alignment.sampled(grounded.video, text, config.temperature, negatives)
