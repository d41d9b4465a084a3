"""Settings of CoQo, its ablations, and the baselines that share its loop.

The review through which CoQo is known leaves many choices open (``docs/facts/coqo.md`` sections 3.4, 3.6, 3.9 and
3.11). Each of them is a setting here; *assumed* marks a default that is reasoned, not published. "Section N" refers to
that page. Settings of the training loop are in ``trainers/config.py``, presets in ``trainers/presets``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from settings import Section
from trainers.config import LoopConfig, MethodSettings
from trainers.metrics.numbers import NumberRule

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


class DataConfig(Section):
    """What is read from the store."""

    dataset: str = "music_avqa"
    """Dataset of the ``questions`` table."""
    train: str = "train"
    """The split to learn from. Splits are never mixed, since test videos also occur in train."""
    val: str = "val"
    """The split whose score picks the best checkpoint."""
    tests: tuple[str, ...] = ("test",)
    """Splits that are scored after training, besides ``val``."""
    audio: str = "vggish"
    """Sound features in the store, ``[T, *]``."""
    visual: str = "swin_b"
    """Frame features in the store, ``[T, H, W, C]`` or ``[T, C]``."""
    stride: Count = 1
    """Use every so many-th step; AVST reads ``[::6]``, CoQo's is unknown and assumed 1."""
    pool: bool = False
    """Average maps ``[T, H, W, C]`` to ``[T, C]`` while reading: no spatial stage, and a fraction of the memory."""
    standardise: bool = False
    """Centre each number of a step or cell and divide it by its standard deviation over the training videos.

    For hand-made features; those of a trained network have similar sizes already.
    """
    collective: bool = True
    """Train on all questions of a video in one row (CoQo); false trains on single questions."""
    batch_videos: Count = 16
    """Videos per step on each rank in collective training; assumed.

    Videos have 3.45 training questions on average (section 1.6), so 16 make about one batch of the MUSIC-AVQA family.
    """
    batch_questions: Count = 64
    """Questions per step on each rank in training on single questions, and while answering; 64 in the family."""
    max_questions: Count | None = None
    """Most questions of a video in a step, drawn anew each epoch; null takes all."""
    quotas: dict[str, Count] | None = None
    """Most questions of each modality of a video in a step, e.g. ``{Audio: 1, Audio-Visual: 2}``; null takes all."""
    preload: Literal["none", "ram", "gpu"] = "none"
    """Keep the features of all splits in memory (``ram``) or on the GPU (``gpu``); ``none`` reads them batch by batch.

    This changes no result, so a run may continue under another value.
    """
    allow: tuple[str, ...] = ()
    """Findings of the completeness check that do not stop training.

    ``missing`` (a video without a row counts as one without that modality), ``steps``, ``random_weights``,
    ``mixed_numerics``.
    """


class QuestionConfig(Section):
    """The question encoder of the MUSIC-AVQA family (section 3.3)."""

    vocabulary: Literal["built", "published"] = "built"
    """Which words are known.

    ``published`` has MUSIC-AVQA's 92 words and refuses others. ``built`` takes the words of all splits, and has one
    vector for any other word.
    """
    embed: Count = 512
    """Length of a word vector; 300 in HCRN."""
    hidden: Count = 512
    """Width of the LSTM; in ``hcrn``, of both its directions together."""
    padded_to: Count | None = None
    """Run the LSTM on over learned vectors of padding, to so many steps; null ends at the last word.

    The published AVST runs it to 14, and its answers depend on that (section 9). The encoder of ``hcrn`` is another,
    which ends at the last word.
    """


class QgtConfig(Section):
    """The Question Guided Transformer (section 3.4)."""

    layers: Count = 2
    """Layers; assumed."""
    heads: Count = 8
    """Attention heads; assumed."""
    ffn: Count = 2048
    """Hidden width of the feed-forward networks; assumed."""
    dropout: Fraction = 0.1
    """Dropout everywhere in it; assumed."""
    tokens: Annotated[int, Field(ge=0)] = 8
    """Number of learnable tokens R, called m; assumed. 0 has none."""
    token_sharing: Literal["stack", "model"] = "stack"
    """Whether each transformer (audio, spatial, temporal) has its own R (``stack``, assumed) or all share one."""
    lambda_init: float = 1.0
    """Initial weight of the cross attention, lambda; assumed."""
    lambda_learnable: bool = True
    """Train lambda; assumed."""
    norm: Literal["pre", "post"] = "pre"
    """Where layer normalisation sits; assumed."""
    question_update: Literal["residual", "plain"] = "residual"
    """Add the questions' self-attention to its input (``residual``, assumed) or replace it (``plain``, as printed)."""
    guidance: Literal["shared", "per_question"] = "shared"
    """Which questions guide the features of a video.

    Reading (A), ``shared``: all questions guide one set of features, and each question enters alone in the decoder; so
    says the printed equation. Reading (B), ``per_question``: only question i and R guide the features that answer
    question i.
    """


class HcrnConfig(Section):
    """The HCRN host, which takes a video as clips of frames."""

    clips: Annotated[int, Field(ge=5)] = 8
    """Clips of a video; 8 in HCRN."""
    frames: Annotated[int, Field(ge=5)] = 8
    """Frames of a clip; 16 in HCRN."""
    question_dropout: Fraction = 0.18
    """Dropout on the question's vector; .18 in HCRN."""
    qgt: bool = False
    """Guide the features with the questions before the relation units: the plug-in."""


class ModelConfig(Section):
    """Which model answers."""

    method: Literal["coqo", "avst", "hcrn"] = "coqo"
    """CoQo, the dataset's own baseline AVST, or the VideoQA host HCRN."""
    inputs: Literal["audio_visual", "audio", "visual", "question"] = "audio_visual"
    """What the model perceives besides the question; the ablations leave something out."""
    dim: Annotated[int, Field(ge=8, multiple_of=8)] = 512
    """Width of the network, d; assumed, as in the whole family."""
    dropout: Fraction = 0.1
    """Dropout before the classifier; in ``avst``, of its temporal grounding; in ``hcrn``, also on word vectors and on
    what the question attends to (.15 there)."""
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    """Whether features are told where and when they are.

    ``sinusoidal`` adds the time of each step, and the row and column of each cell of a map, to the projected features.
    ``none`` leaves order to the features themselves. The sources name no encoding; ``sinusoidal`` is assumed, since
    attention alone cannot tell first from last or left from right.
    """
    fusion: Literal["product_sum", "product"] = "product_sum"
    """How F_av and F_q are mixed.

    ``product_sum`` is tanh(F_av * F_q + F_av + F_q), assumed because the source mixes two element-wise operations.
    ``product`` is the family's tanh(F_av * F_q).
    """
    spatial_chunk: Count = 15
    """Frames of each video that the spatial stage takes at a time.

    This changes no result, except that other chunks draw other dropout masks. A bfloat16 step on Swin-B maps with
    T = 60, 16 videos and 6 questions holds 1.5 GiB of tensors, parameters included; under reading (B) 6.3 GiB, or
    2.4 GiB with chunks of 4. The optimiser adds 0.5 GiB.
    """
    checkpoint: bool = True
    """Recompute the spatial stage in the backward pass.

    This changes no result. Without it, the step above holds 4.1 GiB and needs no second forward pass.
    """
    question: QuestionConfig = QuestionConfig()
    qgt: QgtConfig = QgtConfig()
    hcrn: HcrnConfig = HcrnConfig()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model perceives: ``audio``, ``visual``, both or neither."""
        return tuple(name for name in ("audio", "visual") if self.inputs in (name, "audio_visual"))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.qgt.heads:
            raise ValueError(f"model.qgt.heads: {self.qgt.heads} does not divide model.dim {self.dim}")
        if self.method == "hcrn" and self.question.padded_to is not None:
            raise ValueError("model.question.padded_to: the encoder of hcrn ends at the last word; set it to null")
        if self.method == "hcrn" and self.question.hidden % 2:
            raise ValueError(f"model.question.hidden: {self.question.hidden} is odd; hcrn has two directions")
        if self.method == "avst" and self.inputs != "audio_visual":
            raise ValueError("model.inputs: avst is defined for audio_visual only")
        return self


class AnswerConfig(Section):
    """What a question is answered with."""

    head: Literal["classes", "options", "number"] = "classes"
    """One of a closed list of answers, one of the question's options, or a whole number."""
    top: Count | None = None
    """Classes are only the so many most frequent answers of the training split, ties in alphabetical order.

    4,000 in HCRN. An answer that has no class is always wrong; a report says how many they are.
    """
    minimum: Count = 1
    """Classes are only the answers that occur so often in the training split; 2 in ActivityNet-QA, 1,654 of 5,199."""
    loss: Literal["cross_entropy", "hinge"] = "cross_entropy"
    """The loss over options; ``hinge`` in HCRN."""
    rule: NumberRule = "raw"
    """How numbers are compared (``trainers/metrics/numbers.py``): training, rounding and the choice of the checkpoint
    follow it. Reports give the error under every rule."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, default, head in (
            ("top", None, "classes"),
            ("minimum", 1, "classes"),
            ("loss", "cross_entropy", "options"),
            ("rule", "raw", "number"),
        ):
            if self.head != head and getattr(self, name) != default:
                raise ValueError(f"answer.{name}: belongs to answer.head={head}, which is {self.head} here")
        return self


class LossConfig(Section):
    """L = L_qa + inter * L_inter + intra * L_intra (sections 3.7 and 3.8); L_qa + match * L_match for AVST (4.2)."""

    inter: Weight = 0.5
    """Weight of the alignment between videos, w1; assumed."""
    intra: Weight = 0.5
    """Weight of the alignment within a video, w2; assumed."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of both alignments, tau; assumed."""
    inter_level: Literal["guided", "projected"] = "guided"
    """Compare videos by their features after the QGT (``guided``, assumed) or before it.

    Those before it know nothing about the questions.
    """
    match: Weight = 0.5
    """Weight of AVST's matching loss, as published."""


class CoqoConfig(MethodSettings):
    """All settings of a run. The optimiser has the family's defaults (section 3.11)."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    answer: AnswerConfig = AnswerConfig()
    loss: LossConfig = LossConfig()
    loop: LoopConfig = LoopConfig(epochs=30, seed=1, schedule="staircase", decay_epochs=8, warmup_epochs=0.0)

    @property
    def dataset(self) -> str:
        return self.data.dataset

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.feature(modality) for modality in self.model.modalities)

    def feature(self, modality: str) -> str:
        """Return the name of the feature of a modality, ``audio`` or ``visual``."""
        return self.data.audio if modality == "audio" else self.data.visual

    @model_validator(mode="before")
    @classmethod
    def _loop_defaults(cls, raw: object) -> object:
        """Keep this method's defaults for the keys of ``loop`` that a file does not give."""
        if isinstance(raw, dict) and isinstance(raw.get("loop"), dict):
            defaults = cls.model_fields["loop"].default.model_dump(exclude_unset=True)
            return {**raw, "loop": {**defaults, **raw["loop"]}}
        return raw

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model.method == "avst" and self.data.collective:
            raise ValueError("data.collective: avst trains on single questions; set it to false")
        if self.data.dataset == "music_avqa" and (self.answer.top is not None or self.answer.minimum > 1):
            raise ValueError("answer.top and answer.minimum: music_avqa has 42 published classes")
        return self
