"""Settings of CRA, its ablations, and the baseline Temp[CLIP].

Two recipes: ``paper`` does what the paper states; ``released`` does what the published code does. Every difference is
a setting of its own. A number in brackets is that of the finding in facts/cra.md section 9 (or its section, as §5.1)
that the setting answers to; what is given for ``released`` there is repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainers.config import LoopConfig, Section
from trainers.cra.spans import Interval

Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]

RELEASED: Mapping[str, Mapping[str, Any]] = {
    "data": {"distinct_candidates": False, "paraphrase_types": True},
    "text": {"mask_padding": False, "keep_options": False},
    "model": {
        "gated": True,
        "double_softmax": True,
        "batch_mixing": True,
        "back": False,
        "layer_norm": "unbiased",
        "decoder_dropout": 0.1,
        "attention_dropout": 0.0,
    },
    "loss": {"bidirectional": False, "negatives": 32},
    "evaluation": {"published_spans": True, "published_times": True},
}
_LOOP: Mapping[str, Any] = {"epochs": 30, "seed": 2024, "amsgrad": True, "lr": 1e-5, "warmup_epochs": 1.0}


class DataConfig(Section):
    """What is read from the store, and how candidates are drawn for training (§3).

    Attributes
    ----------
    dataset, train, val, tests :
        Dataset and splits of the ``questions`` table.
    feature, pool :
        Frame features ``[T, F]``; ``pool`` averages maps ``[T, H, W, F]`` to that while reading.
    standardise :
        Centre each number of a frame, and divide it by its deviation over the training videos: for features that no
        trained tower has scaled.
    batch :
        Questions of a step on each rank, and of an evaluation step.
    paraphrases, paraphrase :
        JSON ``{question id: {"gen": [paraphrases]}}``; how often one of them replaces a question.
    distractors :
        How often the wrong options are replaced by answers to training questions that ask alike.
    same_video :
        How often the wrong candidates of "which question belongs to this video" come from the same video.
    distinct_candidates :
        Keep the right one out of the pools that wrong ones are drawn from. ``released``: false (10).
    paraphrase_types :
        Draw by the way the paraphrase asks, not the question. ``released``: true (12).
    allow :
        Findings of the completeness check to train in spite of: ``missing`` (questions about such a video are left
        out, and counted in a warning), ``steps``, ``random_weights``, ``mixed_numerics``, stale dictionaries.
    """

    dataset: str = "nextgqa"
    train: str = "train"
    val: str = "val"
    tests: tuple[str, ...] = ("test",)
    feature: str = "clip"
    pool: bool = False
    standardise: bool = False
    batch: Count = 64
    paraphrases: Path | None = None
    paraphrase: Share = 0.3
    distractors: Share = 0.3
    same_video: Share = 0.3
    distinct_candidates: bool = True
    paraphrase_types: bool = False
    allow: tuple[str, ...] = ()


class TextConfig(Section):
    """How candidates become vectors (§3).

    Attributes
    ----------
    encoder :
        ``roberta`` fine-tunes a transformers encoder; ``words`` learns word vectors and a small transformer from
        scratch; ``stored`` projects frozen embeddings of the store's ``embeddings`` table.
    weights :
        ``roberta``: a folder, or a name on the model hub.
    embeddings :
        ``stored``: the text encoder's digest, or how it begins; empty where the store has one only.
    question_tokens, option_tokens :
        Longest question, and longest question with option.
    layers, heads, dropout :
        ``words``: the transformer.
    mask_padding :
        Padding takes no part in pooling. ``released``: false (7).
    keep_options :
        What is too long loses the end of the question. ``released``: false, the end of the option (§3).
    """

    encoder: Literal["roberta", "words", "stored"] = "roberta"
    weights: str = "roberta-base"
    embeddings: str = ""
    question_tokens: Annotated[int, Field(ge=4)] = 30
    option_tokens: Annotated[int, Field(ge=4)] = 38
    layers: Count = 1
    heads: Count = 4
    dropout: Rate = 0.1
    mask_padding: bool = True
    keep_options: bool = True


class ModelConfig(Section):
    """The network (§5.2, §5.3), and which modules it has.

    Attributes
    ----------
    method :
        ``cra``, or the baseline ``temp_clip``.
    dim, heads, layers :
        d, and the transformer over frames; ``temp_clip`` has the same.
    dropout :
        Of the video embedding; of all of ``temp_clip``.
    decoder_dropout, attention_dropout :
        Of the transformer over frames. The published settings say .3; the code takes ``released``: .1 and none (9).
        The layer behind grounding drops .1 in both.
    layer_norm :
        Of the transformer over frames: ``standard``, or ``unbiased`` (divides by the sample's standard deviation, which
        epsilon is added to). ``released``: unbiased (§5.1).
    gsg, gaussian :
        Gaussian Smoothing Grounding; without it frames are weighed by a head that does not know the question.
        ``gaussian``: with the filter.
    gated :
        GSG's score of a frame: the published gate, of which the norm behind it leaves only the sign; else cross-modal
        attention, as the paper's abstract says. ``released``: true (§5.3, step 5).
    double_softmax :
        A second softmax after the filter, which leaves the weights nearly uniform; else they are divided by their sum.
        ``released``: true (3).
    front, batch_mixing :
        Explicit Causal Intervention on the video. ``batch_mixing``: every sample attends to the others of its batch, in
        evaluation too. ``released``: true (1).
    back :
        Explicit Causal Intervention on language: on the query of GSG. ``released``: false (2).
    proposal :
        ``temp_clip``: ``posthoc`` reads the span from the attention; ``gaussian`` (NG, and with ``loss.vq`` NG+)
        predicts a centre and a width that the transformer's attention is weighed with.
    """

    method: Literal["cra", "temp_clip"] = "cra"
    dim: Annotated[int, Field(ge=8, multiple_of=8)] = 768
    heads: Count = 8
    layers: Count = 2
    dropout: Rate = 0.3
    decoder_dropout: Rate = 0.3
    attention_dropout: Rate = 0.3
    layer_norm: Literal["standard", "unbiased"] = "standard"
    gsg: bool = True
    gaussian: bool = True
    gated: bool = False
    double_softmax: bool = False
    front: bool = True
    batch_mixing: bool = False
    back: bool = True
    proposal: Literal["posthoc", "gaussian"] = "posthoc"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"model.heads: {self.heads} does not divide model.dim {self.dim}")
        if self.method == "cra" and self.back and not self.gsg:
            raise ValueError("model.back: adjusts the query of grounding, so it needs model.gsg; set it to false")
        return self

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """Tables of the store that the network is made from."""
        if self.method != "cra":
            return ()
        needed = (("linguistic_dictionary", self.back), ("visual_dictionary", self.front))
        return tuple(name for name, used in needed if used)


class LossConfig(Section):
    """L = vqa * L_VQA + vq * L_VQ + align * (InfoNCE of both) (§5.5).

    Attributes
    ----------
    vqa, vq :
        Which option answers; which question belongs to the video. ``vq=0`` leaves that out.
    align :
        Cross-Modal Alignment; 0 leaves it out. ``temp_clip`` has none.
    temperature :
        tau.
    bidirectional :
        Also from video to text. ``released``: false (6).
    negatives :
        So many, drawn with replacement from the batch; null: the whole batch. ``released``: 32 (6).
    """

    vqa: Weight = 1.0
    vq: Weight = 1.0
    align: Weight = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.07
    bidirectional: bool = True
    negatives: Count | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.bidirectional and self.negatives is not None:
            raise ValueError("loss.negatives: drawn from text to video only; set loss.bidirectional to false")
        return self


class EvaluationConfig(Section):
    """How attention becomes a span (§5.4).

    Attributes
    ----------
    interval :
        ``posthoc``, ``window`` or ``merge``.
    published_spans :
        The published functions with their slips. ``released``: true (4, 5).
    published_times :
        Spans by the times that the frames' published recipe claims, where the store has them: NExT-QA's are rounded to
        0.1 s and come 1/6 s late; else by the true ones. ``released``: true (16).
    """

    interval: Interval = "posthoc"
    published_spans: bool = False
    published_times: bool = False


class CraConfig(Section):
    """Everything of a run. ``recipe`` decides what is not given.

    The optimiser's defaults are the published ones (§5.6).
    """

    recipe: Literal["paper", "released"] = "paper"
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    loop: LoopConfig = LoopConfig(**_LOOP)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.text.encoder == "words" and self.model.dim % self.text.heads:
            raise ValueError(f"text.heads: {self.text.heads} does not divide model.dim {self.model.dim}")
        if self.text.encoder == "stored" and self.data.paraphrases is not None:
            raise ValueError(
                "data.paraphrases: a store has no embeddings of paraphrases; text.encoder=stored takes none"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, raw: object) -> object:
        if not isinstance(raw, dict):
            return raw
        defaults: dict[str, Mapping[str, Any]] = {"loop": _LOOP}
        if raw.get("recipe") == "released":
            defaults.update(RELEASED)
        filled = dict(raw)
        for name, values in defaults.items():
            given = raw.get(name, {})
            if isinstance(given, dict):
                filled[name] = {**values, **given}
        return filled
