"""FrozenBiLM, its baselines and CRA on top of it, as the training loop sees them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from stores import Store
from stores.loading import QuestionDataset
from trainers.cra import alignment
from trainers.cra.data import VIDEO, Choice, Inputs
from trainers.cra.grounding_task import GroundingTask, Opened, open_data, texts_of
from trainers.cra.outputs import select
from trainers.distributed import Ranks
from trainers.frozenbilm.config import FrozenBilmConfig, PromptLossConfig
from trainers.frozenbilm.loading import load_checkpoint, load_language_model, weights_digest
from trainers.frozenbilm.losses import balanced_bce
from trainers.frozenbilm.model import FrozenBilm, Predicted, Scored, build_model
from trainers.frozenbilm.prompts import NO, YES, PromptEncoder, Tokeniser, WordTokeniser
from trainers.frozenbilm.tower import LanguageModel, language_config
from trainers.scaling import standardise
from trainers.task import Json


def build(settings: FrozenBilmConfig, store: Store, ranks: Ranks) -> FrozenBilmTask:
    """Make the task on one rank.

    Raises
    ------
    TrainingError, StoreError
        If the store lacks what the settings ask for, its data is not fit to train on, or the language model's weights
        or tokeniser cannot be loaded.
    """
    data, opened = settings.data, open_data(settings, store, ranks)
    made = _language_model(settings, opened)
    torch.manual_seed(settings.loop.seed)
    scale = standardise(opened.datasets[data.train], VIDEO) if data.standardise else None
    slots = max(_longest(dataset) for dataset in opened.datasets.values())
    language, mask = made.language, made.tokens.mask
    model = build_model(settings, language, mask, opened.feature_dim, opened.dictionaries, scale, slots)
    sources: dict[str, Json] = {"language": made.digest}
    if settings.model.checkpoint is not None:
        load_checkpoint(model, settings.model.checkpoint, whole=not made.digest)
        sources["checkpoint"] = weights_digest(settings.model.checkpoint)
    language.answer_with(made.tokens.word(YES), made.tokens.word(NO))
    if settings.model.seed is None:
        model.leave_out_frozen()
    return FrozenBilmTask(settings, store, ranks, model, made.tokens, opened, sources)


def _longest(dataset: QuestionDataset) -> int:
    """Return the largest number of frames of a video."""
    rows = dataset.table.rows[VIDEO]
    return max(map(rows.length, range(len(dataset.videos))), default=0)


@dataclass(frozen=True, slots=True)
class _Made:
    """A language model, its tokeniser, and what tells its weights from others."""

    language: LanguageModel
    tokens: Tokeniser
    digest: str


def _language_model(settings: FrozenBilmConfig, opened: Opened) -> _Made:
    config = settings.model
    if config.seed is None:
        torch.manual_seed(settings.loop.seed)  # of what its weights lack
        return _Made(*load_language_model(config, opened.feature_dim))
    if config.trained == "adapters":
        warnings.warn("the language model is frozen with random weights (model.weights random:<seed>)", stacklevel=3)
    tokens = WordTokeniser.build(texts_of(opened.datasets[settings.data.train], opened.paraphrases))
    torch.manual_seed(config.seed)
    language = LanguageModel(language_config(config, len(tokens), tokens.pad), opened.feature_dim, config)
    return _Made(language, tokens, config.weights)


class FrozenBilmTask(GroundingTask[FrozenBilmConfig]):
    """Balanced BCE over options, and CRA's alignment (``docs/facts/frozenbilm.md`` sections 6 and 9)."""

    def __init__(
        self,
        config: FrozenBilmConfig,
        store: Store,
        ranks: Ranks,
        model: FrozenBilm,
        tokens: Tokeniser,
        opened: Opened,
        sources: Json,
    ) -> None:
        encoder = PromptEncoder(config.text, tokens)
        super().__init__(config, store, ranks, model, encoder, opened.datasets, opened.paraphrases)
        self._tokens, self._sources = tokens, sources
        chosen = config.model
        # The grounded segment then reaches no loss.
        unread = chosen.grounding == "published" and not chosen.batch_mixing and config.loss.align == 0
        self.leaves_parameters_unused = chosen.method == "cra" and unread

    @property
    def needs_questions(self) -> bool:
        return self.config.loss.vq > 0

    def answer(self, inputs: Inputs) -> Predicted:
        return self._score(inputs, inputs.options).predicted()

    def loss(self, batch: Inputs) -> dict[str, Tensor]:
        weights = self.config.loss
        aligned = self.config.model.method == "cra" and weights.align > 0
        asked = [("vqa", 1.0, batch.options)]
        if batch.questions is not None:
            asked.append(("vq", weights.vq, batch.questions))
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.video.device)
        for name, weight, choice in asked:
            scored = self._score(batch, choice)
            losses[name] = balanced_bce(scored.logits, choice.right, choice.exists)
            total = total + weight * losses[name]
            if aligned:
                found = _align(scored, choice, weights)
                losses["align"] = losses.get("align", 0) + weight * found
                total = total + weight * weights.align * found
        return {"total": total, **losses}

    def _score(self, inputs: Inputs, choice: Choice) -> Scored:
        scored: Scored = self.model(inputs.video, inputs.valid, choice.candidates, choice.exists)
        return scored

    def describe(self) -> dict[str, Json]:
        words = self._tokens
        return {
            "method": "frozenbilm",
            **super().describe(),
            "vocabulary": {"version": words.VERSION, "words": words.words}
            if isinstance(words, WordTokeniser)
            else None,
            "weights": self._sources,
        }


def _align(scored: Scored, choice: Choice, config: PromptLossConfig) -> Tensor:
    assert scored.text is not None and scored.video is not None, "cra has both"
    text, video = select(scored.text, choice.right), select(scored.video, choice.right)  # [B, H] each
    if config.bidirectional:
        return alignment.bidirectional(video, text, config.temperature)
    negatives = len(text) - 1 if config.negatives == "all" else len(text) // 2
    return alignment.sampled(video, text, config.temperature, negatives)
