"""Settings of FrozenBiLM, of its grounding heads, and of CRA on top of it.

As for CRA there are two recipes: ``paper`` does what was meant, ``released`` does what the published code does. Each
difference is a setting, whose docstring gives its ``released`` value; sections are those of
``docs/facts/frozenbilm.md``. Settings of the training loop are in ``trainers/config.py``, presets in
``trainers/presets``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from settings import Section
from trainers.config import LoopConfig
from trainers.cra.config import RELEASED as RELEASED_CRA
from trainers.cra.config import DataConfig, EvaluationConfig, GroundingSettings, fill_in

Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]

BLOCK_HEADS = 8
"""Attention heads of the transformer block that grounding puts on the language model (section 8)."""
RELEASED: Mapping[str, Mapping[str, Any]] = {
    "data": RELEASED_CRA["data"],
    "text": {"mask_padding": False},
    "model": {"grounding": "published", "gated": True, "double_softmax": True, "batch_mixing": True, "back": False},
    "loss": {"bidirectional": False, "negatives": "half"},
    "evaluation": RELEASED_CRA["evaluation"],
}
"""What the recipe ``released`` sets, by section."""
_LOOP: Mapping[str, Any] = {
    "epochs": 20,
    "lr": 1e-5,
    "betas": (0.9, 0.95),
    "schedule": "linear",
    "warmup_epochs": 2.0,
    "clip_norm": 0.1,
}
_RANDOM = re.compile(r"random:(\d+)")


class PromptDataConfig(DataConfig):
    """What is read from the store, and how candidates are drawn for training (section 6)."""

    batch: Count = 6
    """Questions per step on each rank, and per evaluation step; each is read once with every option."""
    paraphrase: Share = 0.0
    """How often a paraphrase replaces a question; the published training of NExT-GQA uses none."""


class PromptConfig(Section):
    """How candidates become texts with a [MASK] (section 5)."""

    max_tokens: Annotated[int, Field(ge=16)] = 100
    """Longest text, in tokens; one that is longer loses the last words of its question, never its option or [MASK].

    Published code cuts the end, which may take [MASK] away.
    """
    mask_padding: bool = True
    """Leave padding out of the words that ``cra`` attends to (section 9). ``released``: false.

    They then reach to the longest text of the same option in the batch, so that an answer depends on the batch.
    """


class LanguageConfig(Section):
    """Sizes of a language model with random weights (section 1); one from a folder has those of its ``config.json``."""

    width: Count = 1536
    """H, the width of a state."""
    layers: Annotated[int, Field(ge=2)] = 24
    """Layers."""
    heads: Count = 24
    """Attention heads."""
    inner: Count = 6144
    """Width inside a layer's feed-forward network."""
    positions: Count = 512
    """Longest sequence of frames and tokens."""
    buckets: Annotated[int, Field(ge=2)] = 256
    """Relative distances beyond half as many share logarithmic buckets."""
    deviation: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of random weights; about 1 / sqrt(width) lets attention see differences from the start."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"model.language.heads: {self.heads} does not divide model.language.width {self.width}")
        return self


class ModelConfig(Section):
    """The language model, what of it is trained, and what grounds an answer."""

    method: Literal["posthoc", "gaussian", "cra"] = "posthoc"
    """What grounds an answer.

    ``posthoc`` reads the attention from [MASK] to the frames (section 7). ``gaussian`` predicts a centre and a width
    (NG, and NG+ with ``loss.vq``; section 8). ``cra`` has CRA's grounding, alignment and interventions (section 9).
    """
    weights: str = "deberta-v2-xlarge"
    """A folder with the language model's ``config.json``, weights and tokeniser as Microsoft published them.

    ``random:<seed>`` draws weights of the sizes in ``language``; its vocabulary is the words of training questions.
    """
    checkpoint: Path | None = None
    """A file of the published code to start from: FrozenBiLM, NG/NG+ or CRA, whole or only what was trained."""
    language: LanguageConfig = LanguageConfig()
    trained: Literal["adapters", "all"] = "adapters"
    """What of the language model is trained.

    ``adapters`` is as published: adapters, layer normalisations and the map of frames. ``all`` is for random weights,
    which are not worth freezing.
    """
    reduction: Count = 8
    """An adapter is so many times narrower than the language model."""
    adapter_init: Literal["standard", "small"] = "standard"
    """How adapters and the map of frames start (section 2).

    ``standard`` draws N(0, 0.02) with biases of 0: what published training really used. ``small`` draws weights and
    biases from N(0, 0.001), cut at 0.002: what its code means to do.
    """
    dropout: Rate = 0.1
    """Dropout in the language model, its adapters and the modules on top."""
    recompute: bool = False
    """Keep no activations inside a layer, and compute them again for the gradient: less memory, a third more time."""
    grounding: Literal["published", "repaired"] = "repaired"
    """What of grounding reaches the answer, for ``gaussian`` and ``cra``. ``released``: published.

    With ``gaussian``, ``published`` changes states that the answer never reads: the gradient of the head is exactly 0,
    and it stays as it was drawn (section 8). ``repaired`` adds the frames that the Gaussian weights to the state at
    [MASK]. With ``cra``, ``published`` adds the front door's result alone, in which the grounded segment enters only
    through ``batch_mixing``; ``repaired`` adds the grounded segment, too.
    """
    gaussian: bool = True
    """For ``cra``: smooth the weights of frames in time with the Gaussian filter."""
    gated: bool = False
    """For ``cra``: score frames by the published gate, not by cross-modal attention. ``released``: true."""
    double_softmax: bool = False
    """For ``cra``: normalise the smoothed weights by a second softmax, not by their sum. ``released``: true."""
    front: bool = True
    """For ``cra``: use Explicit Causal Intervention on the video, the front door."""
    batch_mixing: bool = False
    """For ``cra``: let every sample attend to the others of its batch in the front door. ``released``: true.

    It does so in evaluation too, so that an answer depends on the batch.
    """
    back: bool = True
    """For ``cra``: use Explicit Causal Intervention on the query, the back door. ``released``: false."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weights.startswith("random") and self.seed is None:
            raise ValueError(f"model.weights: {self.weights!r} is not random:<seed>, as random:0, nor a folder")
        if self.seed is None and self.trained == "all":
            raise ValueError("model.trained: all trains random weights; those of a folder stay frozen (adapters)")
        if self.seed is not None and self.method != "posthoc" and self.language.width % BLOCK_HEADS:
            raise ValueError(
                f"model.language.width: {self.language.width} is not a multiple of {BLOCK_HEADS}, the heads of the "
                f"block that {self.method} puts on top"
            )
        if self.method == "cra" and not self.front and self.grounding == "published":
            raise ValueError(
                "model.front: without it nothing of published grounding reaches the answer; set model.grounding to "
                "repaired"
            )
        return self

    @property
    def seed(self) -> int | None:
        """The seed of random weights; None if they come from a folder."""
        match = _RANDOM.fullmatch(self.weights)
        return int(match.group(1)) if match else None


class PromptLossConfig(Section):
    """L = L_QA + align * InfoNCE + vq * (L_VQ + align * InfoNCE), each L a balanced BCE (sections 6 and 9)."""

    vq: Weight = 0.0
    """Weight of "which question belongs to the video"; 0 leaves it out. More than 0 makes NG into NG+."""
    align: Weight = 0.5
    """Weight of Cross-Modal Alignment; 0 leaves it out. Only ``cra`` has it."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of InfoNCE, tau."""
    bidirectional: bool = True
    """Also align from video to text. ``released``: false."""
    negatives: Literal["all", "half"] = "all"
    """Negatives of a sample: all others, or half as many as the batch, drawn with replacement. ``released``: half."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bidirectional and self.negatives != "all":
            raise ValueError("loss.negatives: drawn from text to video only; set loss.bidirectional to false")
        return self


class FrozenBilmConfig(GroundingSettings):
    """All settings of a run. The optimiser has the published defaults (section 6)."""

    proposing: ClassVar[str] = "model.method to gaussian"

    data: PromptDataConfig = PromptDataConfig()
    text: PromptConfig = PromptConfig()
    model: ModelConfig = ModelConfig()
    loss: PromptLossConfig = PromptLossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    loop: LoopConfig = LoopConfig(**_LOOP)

    @property
    def dictionaries(self) -> tuple[str, ...]:
        if self.model.method != "cra":
            return ()
        needed = (("linguistic_dictionary", self.model.back), ("visual_dictionary", self.model.front))
        return tuple(name for name, used in needed if used)

    @property
    def proposes(self) -> bool:
        return self.model.method == "gaussian"

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, raw: object) -> object:
        return fill_in(raw, _LOOP, RELEASED)
