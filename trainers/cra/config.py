"""Settings of CRA, its ablations, and the baseline Temp[CLIP].

There are two recipes: ``paper`` does what the paper states, ``released`` does what the published code does. Each
difference between them is a setting, whose docstring gives its ``released`` value and, as "fact N" or "section N", the
place in ``docs/facts/cra.md`` that describes it (facts are numbered in its section 9). Settings of the training loop
are in ``trainers/config.py``, presets in ``trainers/presets``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from settings import Section
from trainers.config import LoopConfig, MethodSettings
from trainers.cra.spans import Rule

Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]

RELEASED: Mapping[str, Mapping[str, Any]] = {
    "data": {"distinct_candidates": False, "paraphrase_types": True, "descriptive_same_video": False},
    "text": {"mask_padding": False, "keep_options": False},
    "model": {
        "gated": True,
        "double_softmax": True,
        "batch_mixing": True,
        "back": False,
        "layer_norm": "unbiased",
        "init": "published",
        "decoder_dropout": 0.1,
        "attention_dropout": 0.0,
    },
    "loss": {"bidirectional": False, "negatives": 32},
    "evaluation": {"published_spans": True, "published_times": True},
}
"""What the recipe ``released`` sets, by section."""
_LOOP: Mapping[str, Any] = {"epochs": 30, "seed": 2024, "amsgrad": True, "lr": 1e-5, "warmup_epochs": 1.0}


class DataConfig(Section):
    """What is read from the store, and how candidates are drawn for training (section 3)."""

    dataset: str = "nextgqa"
    """Dataset of the ``questions`` table."""
    train: str = "train"
    """The split to learn from."""
    val: str = "val"
    """The split whose score picks the best checkpoint."""
    tests: tuple[str, ...] = ("test",)
    """Splits that are scored after training, besides ``val``."""
    feature: str = "clip"
    """Frame features in the store, ``[T, F]``."""
    pool: bool = False
    """Average maps ``[T, H, W, F]`` to ``[T, F]`` while reading."""
    inputs: Literal["video_question", "question"] = "video_question"
    """What the model perceives. ``question`` puts zeros in the place of the frames, in training and evaluation.

    What it still answers rightly is the bias of the questions.
    """
    graphs: Literal["parsed", "shuffled", "dropped"] = "parsed"
    """What the parser found, in the linguistic dictionary: what its quality is worth.

    ``shuffled`` deals the vectors of each node that comes from a parse (subject, verbs, objects and those of the
    answer) to the clusters anew; ``dropped`` puts zeros in their place. The clusters are those of the parsed graphs.
    """
    standardise: bool = False
    """Centre each number of a frame and divide it by its standard deviation over the training videos.

    For hand-made features; those of a trained network have similar sizes already.
    """
    batch: Count = 64
    """Questions per step on each rank, and per evaluation step."""
    paraphrases: Path | None = None
    """A JSON file ``{question id: {"gen": [paraphrases]}}``; null paraphrases nothing."""
    paraphrase: Share = 0.3
    """How often a paraphrase replaces a question."""
    distractors: Share = 0.3
    """How often answers to other training questions of the same coarse type replace the wrong options."""
    same_video: Share = 0.3
    """How often the wrong candidates of "which question belongs to this video" come from the same video."""
    distinct_candidates: bool = True
    """Never draw the right candidate as a wrong one. ``released``: false (fact 10)."""
    paraphrase_types: bool = False
    """Draw by the coarse type of the paraphrase instead of the question. ``released``: true (fact 12)."""
    descriptive_same_video: bool = True
    """Draw NExT-QA's descriptive questions (types D*) also from the same video. ``released``: false (section 10).

    Both recipes draw them from other videos. If the same video gives none, a descriptive question is often the only
    one among its candidates (54 % on NExT-QA's validation split), and the text alone tells that it is right.
    """
    preload: Literal["none", "ram", "gpu"] = "none"
    """Keep the features of all splits in memory (``ram``) or on the GPU (``gpu``); ``none`` reads them batch by batch.

    This changes no result, so a run may continue under another value.
    """
    allow: tuple[str, ...] = ()
    """Findings of the completeness check that do not stop training.

    ``missing`` (questions about a video without a row are left out, and counted in a warning), ``steps``,
    ``random_weights``, ``mixed_numerics``, ``stale`` (a dictionary).
    """


class TextConfig(Section):
    """How candidates become vectors (section 3)."""

    encoder: Literal["roberta", "words", "stored"] = "roberta"
    """What encodes a text.

    ``roberta`` fine-tunes a pretrained transformers encoder, ``words`` learns word vectors and a small transformer from
    scratch, ``stored`` projects frozen embeddings of the store's ``embeddings`` table.
    """
    weights: str = "roberta-base"
    """For ``roberta``: a folder, or a name on the model hub."""
    embeddings: str = ""
    """For ``stored``: digest of the text encoder, or its first characters; may be empty if the store has only one."""
    question_tokens: Annotated[int, Field(ge=4)] = 30
    """Longest question, in tokens."""
    option_tokens: Annotated[int, Field(ge=4)] = 38
    """Longest question with option, in tokens."""
    layers: Count = 1
    """For ``words``: layers of the transformer."""
    heads: Count = 4
    """For ``words``: heads of its attention."""
    dropout: Rate = 0.1
    """For ``words``: dropout everywhere in it."""
    mask_padding: bool = True
    """Leave padding out of pooling. ``released``: false (fact 7)."""
    keep_options: bool = True
    """Cut the question if a text is too long. ``released``: false, which cuts the end of the option (section 3)."""


class ModelConfig(Section):
    """The network (sections 5.2 and 5.3), and which modules it has."""

    method: Literal["cra", "temp_clip"] = "cra"
    """CRA, or the baseline Temp[CLIP].

    ``temp_clip`` reads ``dim``, ``heads``, ``layers``, ``dropout`` and ``proposal``; all others belong to ``cra``.
    """
    dim: Annotated[int, Field(ge=8, multiple_of=8)] = 768
    """Width of the network, d."""
    heads: Count = 8
    """Attention heads of the transformer over frames."""
    layers: Count = 2
    """Layers of the transformer over frames."""
    dropout: Rate = 0.3
    """Dropout on the video embedding; in ``temp_clip``, everywhere."""
    decoder_dropout: Rate = 0.3
    """Dropout in the transformer over frames. ``released``: 0.1, though the published settings say 0.3 (fact 9).

    The layer behind grounding drops 0.1 in both recipes.
    """
    attention_dropout: Rate = 0.3
    """Dropout on attention weights in the transformer over frames. ``released``: 0 (fact 9)."""
    layer_norm: Literal["standard", "unbiased"] = "standard"
    """Layer normalisation in the transformer over frames. ``released``: unbiased (section 5.1).

    ``unbiased`` divides by the sample's standard deviation, to which epsilon is added.
    """
    init: Literal["independent", "published"] = "independent"
    """How the transformer over frames starts. ``released``: published (section 11.2).

    ``published`` copies one random map: the query, key, value and output maps of a layer are equal, and all layers are.
    A frame then attends mostly to itself. ``independent`` draws each map anew. ``temp_clip`` always does, as published.
    """
    gsg: bool = True
    """Use Gaussian Smoothing Grounding; without it, frames are weighted without looking at the question."""
    gaussian: bool = True
    """Smooth the weights of GSG in time with the Gaussian filter."""
    gated: bool = False
    """Score frames in GSG by the published gate. ``released``: true (section 5.3, step 5).

    The normalisation behind the gate leaves only its sign. Otherwise frames are scored by cross-modal attention, as in
    the paper's abstract.
    """
    double_softmax: bool = False
    """Normalise the smoothed weights by a second softmax, which makes them nearly uniform. ``released``: true (fact 3).

    Otherwise they are divided by their sum.
    """
    front: bool = True
    """Use Explicit Causal Intervention on the video: the front door."""
    batch_mixing: bool = False
    """Let every sample attend to the others of its batch in the front door. ``released``: true (fact 1).

    It does so in evaluation too, so that an answer depends on the batch.
    """
    back: bool = True
    """Use Explicit Causal Intervention on the query of GSG: the back door. ``released``: false (fact 2)."""
    proposal: Literal["posthoc", "gaussian"] = "posthoc"
    """How ``temp_clip`` grounds.

    ``posthoc`` reads the span from the attention. ``gaussian`` (NG, and NG+ with ``loss.vq``) predicts a centre and a
    width, which also weight the transformer's attention.
    """

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"model.heads: {self.heads} does not divide model.dim {self.dim}")
        if self.method == "cra" and self.back and not self.gsg:
            raise ValueError("model.back: adjusts the query of grounding, so it needs model.gsg; set it to false")
        if self.method == "cra" and self.proposal != "posthoc":
            raise ValueError(f"model.proposal: {self.proposal} belongs to model.method temp_clip; cra proposes no span")
        return self

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """Tables of the store from which the network is initialised."""
        if self.method != "cra":
            return ()
        needed = (("linguistic_dictionary", self.back), ("visual_dictionary", self.front))
        return tuple(name for name, used in needed if used)


class LossConfig(Section):
    """L = vqa * L_VQA + vq * L_VQ + align * (InfoNCE of both) (section 5.5)."""

    vqa: Weight = 1.0
    """Weight of "which option answers the question"."""
    vq: Weight = 1.0
    """Weight of "which question belongs to the video"; 0 leaves it out."""
    align: Weight = 0.5
    """Weight of Cross-Modal Alignment; 0 leaves it out. ``temp_clip`` never has it."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of InfoNCE, tau."""
    bidirectional: bool = True
    """Also align from video to text. ``released``: false (fact 6)."""
    negatives: Count | None = None
    """Negatives per sample, drawn with replacement; null takes the whole batch. ``released``: 32 (fact 6)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bidirectional and self.negatives is not None:
            raise ValueError("loss.negatives: drawn from text to video only; set loss.bidirectional to false")
        return self


class EvaluationConfig(Section):
    """How attention becomes a span (section 5.4)."""

    interval: Rule | None = None
    """The rule that finds a span; null takes ``proposal`` if the model makes one, else ``posthoc``.

    ``posthoc`` and ``window`` read the attention. ``merge`` intersects the post-hoc span with the proposal, or with the
    window if the model proposes nothing. The published code reports all that it can; a run with proposals keeps the
    spans of each rule.
    """
    published_spans: bool = False
    """Use the published rules with their known errors. ``released``: true (facts 4 and 5)."""
    published_times: bool = False
    """Take the times of frames from the published files where the store has them. ``released``: true (fact 16).

    Those of NExT-QA are rounded to 0.1 s and run 0.40 s late on average (0.12 to 0.43 s, measured on 12 videos); those
    of STAR are rounded to 0.01 s. Otherwise the true times are used.
    """


class GroundingSettings(MethodSettings):
    """What the settings of every method of grounded question answering have."""

    proposing: ClassVar[str]
    """The settings with which the model proposes spans, for messages."""

    recipe: Literal["paper", "released"] = "paper"
    """Decides every setting that is not given."""
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def dataset(self) -> str:
        return self.data.dataset

    @property
    def features(self) -> tuple[str, ...]:
        return (self.data.feature,)

    @property
    @abstractmethod
    def dictionaries(self) -> tuple[str, ...]:
        """Tables of the store from which the network is initialised."""

    @property
    @abstractmethod
    def proposes(self) -> bool:
        """Whether the model proposes spans."""

    @property
    def span_rule(self) -> Rule:
        """The rule that finds a span."""
        return self.evaluation.interval or ("proposal" if self.proposes else "posthoc")

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        if self.evaluation.interval == "proposal" and not self.proposes:
            raise ValueError(f"evaluation.interval: proposal needs a model that proposes a span; set {self.proposing}")
        return self


def fill_in(raw: object, loop: Mapping[str, Any], released: Mapping[str, Mapping[str, Any]], /) -> object:
    """Return settings as they are given, with the defaults of a method's loop and of the recipe that they name."""
    if not isinstance(raw, dict):
        return raw
    defaults: dict[str, Mapping[str, Any]] = {"loop": loop}
    if raw.get("recipe") == "released":
        defaults.update(released)
    filled = dict(raw)
    for name, values in defaults.items():
        given = raw.get(name, {})
        if isinstance(given, dict):
            filled[name] = {**values, **given}
    return filled


class CraConfig(GroundingSettings):
    """All settings of a run. The optimiser has the published defaults (section 5.6)."""

    proposing: ClassVar[str] = "model.method to temp_clip and model.proposal to gaussian"

    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    loop: LoopConfig = LoopConfig(**_LOOP)

    @property
    def dictionaries(self) -> tuple[str, ...]:
        return self.model.dictionaries

    @property
    def proposes(self) -> bool:
        return self.model.proposal == "gaussian"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text.encoder == "words" and self.model.dim % self.text.heads:
            raise ValueError(f"text.heads: {self.text.heads} does not divide model.dim {self.model.dim}")
        if self.text.encoder == "stored" and self.data.paraphrases is not None:
            raise ValueError(
                "data.paraphrases: a store has no embeddings of paraphrases, so text.encoder=stored cannot use them"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, raw: object) -> object:
        return fill_in(raw, _LOOP, RELEASED)
