"""Settings of CoQo, its ablations and the baselines that share its loop.

The review through which CoQo is known leaves many choices open (facts 3.4, 3.6, 3.9, 3.11). Each is a named setting
here; *assumed* marks a default that is reasoned, not published.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainers.config import LoopConfig, Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


class DataConfig(Section):
    """What is read from the store.

    Attributes
    ----------
    dataset, train, val, tests :
        Dataset and splits of the ``questions`` table. Splits are never mixed: test videos also occur in train.
    audio, visual :
        Feature names in the store: ``[T, *]`` audio; ``[T, H, W, C]`` or ``[T, C]`` visual.
    stride :
        Use every so many-th step (AVST reads ``[::6]``); unknown for CoQo, assumed 1.
    pool :
        Average maps ``[T, H, W, C]`` to ``[T, C]`` while reading: no spatial stage, a fraction of the memory.
    standardise :
        Centre each number of a step or cell, and divide it by its deviation over the training videos: for features that
        no trained tower has scaled.
    collective :
        All train questions of a video in one row (CoQo); false trains on single questions.
    batch_videos, batch_questions :
        Rows of a step on each rank: videos in collective training, else questions (also while answering). Assumed 16
        and 64: 64 questions are the family's batch, and a video has 3.45 train questions on average (facts 1.6).
    max_questions :
        At most so many questions of a video, drawn anew each epoch; null takes all.
    quotas :
        At most so many questions of each modality of a video, e.g. ``{Audio: 1, Audio-Visual: 2}``.
    allow :
        Findings of the completeness check to train in spite of: ``missing`` (such a video counts as one without that
        modality), ``steps``, ``random_weights``, ``mixed_numerics``.
    """

    dataset: str = "music_avqa"
    train: str = "train"
    val: str = "val"
    tests: tuple[str, ...] = ("test",)
    audio: str = "vggish"
    visual: str = "swin_b"
    stride: Count = 1
    pool: bool = False
    standardise: bool = False
    collective: bool = True
    batch_videos: Count = 16
    batch_questions: Count = 64
    max_questions: Count | None = None
    quotas: dict[str, Count] | None = None
    allow: tuple[str, ...] = ()


class QuestionConfig(Section):
    """The question encoder (facts 3.3, the MUSIC-AVQA family's).

    Attributes
    ----------
    vocabulary :
        ``published`` is MUSIC-AVQA's 92 words and refuses others; ``built`` takes the words of all splits and has
        one vector for any other word.
    """

    vocabulary: Literal["built", "published"] = "built"
    embed: Count = 512
    hidden: Count = 512


class QgtConfig(Section):
    """The Question Guided Transformer (facts 3.4).

    Attributes
    ----------
    layers, heads, ffn, dropout :
        Assumed 2, 8, 2048, 0.1.
    tokens :
        m, the number of learnable tokens R; assumed 8. 0 takes them away.
    token_sharing :
        ``stack``: each transformer (audio, spatial, temporal) has its own R (assumed); ``model``: one R for all.
    lambda_init, lambda_learnable :
        The weight of the cross attention; assumed learnable from 1.0.
    norm :
        Where layer normalisation sits; assumed ``pre``.
    question_update :
        ``residual``: the questions' self-attention is added to its input (assumed); ``plain``: it replaces it, as
        printed.
    guidance :
        Reading (A) ``shared``: all questions of a video guide one set of features, and each question enters alone in
        the decoder (default; what the printed equation says). Reading (B) ``per_question``: question i and R alone
        guide the features that answer question i.
    """

    layers: Count = 2
    heads: Count = 8
    ffn: Count = 2048
    dropout: Fraction = 0.1
    tokens: Annotated[int, Field(ge=0)] = 8
    token_sharing: Literal["stack", "model"] = "stack"
    lambda_init: float = 1.0
    lambda_learnable: bool = True
    norm: Literal["pre", "post"] = "pre"
    question_update: Literal["residual", "plain"] = "residual"
    guidance: Literal["shared", "per_question"] = "shared"


class HcrnConfig(Section):
    """The HCRN host: a video is ``clips`` clips of ``frames`` frames (HCRN uses 8 of 16).

    Attributes
    ----------
    qgt :
        Guide the features with the questions before the relation units: the plug-in.
    """

    clips: Annotated[int, Field(ge=5)] = 8
    frames: Annotated[int, Field(ge=5)] = 8
    qgt: bool = False


class ModelConfig(Section):
    """Which model answers.

    Attributes
    ----------
    method :
        ``coqo``, the dataset's own baseline ``avst``, or the VideoQA host ``hcrn``.
    inputs :
        What the model may perceive besides the question; the ablations leave something out.
    dim :
        d; assumed 512, as in the whole family.
    positions :
        ``sinusoidal`` adds the time of each step, and the row and column of each map cell, to the projected features;
        ``none`` leaves order to the features themselves. The sources name no encoding; assumed ``sinusoidal``, since
        attention alone cannot tell first from last or left from right.
    fusion :
        ``product_sum``: tanh(F_av * F_q + F_av + F_q) (assumed: the source mixes two element-wise operations);
        ``product``: tanh(F_av * F_q), the family's.
    spatial_chunk, checkpoint :
        The spatial stage takes so many frames of each video at a time, and recomputes them in the backward pass.
        Neither changes a result (chunks do draw other dropout masks). Live tensors of a bfloat16 step on Swin-B maps,
        T = 60, 16 videos, 6 questions, parameters included: 1.5 GiB; 4.1 GiB, and no second forward pass, without
        ``checkpoint``. Under reading (B) 6.3 GiB, or 2.4 GiB with chunks of 4. The optimiser adds 0.5 GiB.
    """

    method: Literal["coqo", "avst", "hcrn"] = "coqo"
    inputs: Literal["audio_visual", "audio", "visual", "question"] = "audio_visual"
    dim: Annotated[int, Field(ge=8, multiple_of=8)] = 512
    dropout: Fraction = 0.1
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    fusion: Literal["product_sum", "product"] = "product_sum"
    spatial_chunk: Count = 15
    checkpoint: bool = True
    question: QuestionConfig = QuestionConfig()
    qgt: QgtConfig = QgtConfig()
    hcrn: HcrnConfig = HcrnConfig()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model perceives: ``audio``, ``visual``, both or neither."""
        return tuple(name for name in ("audio", "visual") if self.inputs in (name, "audio_visual"))

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.dim % self.qgt.heads:
            raise ValueError(f"model.qgt.heads: {self.qgt.heads} does not divide model.dim {self.dim}")
        if self.method == "avst" and self.inputs != "audio_visual":
            raise ValueError("model.inputs: avst is defined for audio_visual only")
        return self


class LossConfig(Section):
    """L = L_qa + inter * L_inter + intra * L_intra (facts 3.7, 3.8), or L_qa + match * L_match for AVST (4.2).

    Attributes
    ----------
    inter, intra, temperature :
        w1, w2 and tau; assumed 0.5, 0.5 and 0.07.
    inter_level :
        ``guided``: videos are compared by their features after the QGT (assumed); ``projected``: by those before it,
        which hold nothing of the questions.
    match :
        AVST's published 0.5.
    """

    inter: Weight = 0.5
    intra: Weight = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.07
    inter_level: Literal["guided", "projected"] = "guided"
    match: Weight = 0.5


class CoqoConfig(Section):
    """Everything of a run; the optimiser's defaults are the family's (facts 3.11)."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    loop: LoopConfig = LoopConfig(epochs=30, seed=1, schedule="staircase", decay_epochs=8, warmup_epochs=0.0)

    @model_validator(mode="before")
    @classmethod
    def _loop_defaults(cls, raw: object) -> object:
        """A file that sets one key of ``loop`` keeps this method's defaults for the others."""
        if isinstance(raw, dict) and isinstance(raw.get("loop"), dict):
            defaults = cls.model_fields["loop"].default.model_dump(exclude_unset=True)
            return {**raw, "loop": {**defaults, **raw["loop"]}}
        return raw

    @model_validator(mode="after")
    def _single_questions(self) -> Self:
        if self.model.method == "avst" and self.data.collective:
            raise ValueError("data.collective: avst trains on single questions; set it to false")
        return self
