"""`clip`: the image tower of any open_clip model.

Tokens
------
cls
    The pooled, projected embedding, `[embed_dim]`, not normalised: what open_clip's and OpenAI's `encode_image` return
    (768 numbers for ViT-L/14).
patch
    Every token of the last block after the final norm (`ln_post`), `[1 + grid², width]`: row 0 is the class token, row
    `1 + y·grid + x` the patch at row y, column x.
patch_projected
    The same tokens times the projection, `[1 + grid², embed_dim]`: row 0 is what `cls` gives. This is the layout of
    PSTP-Net's files (`[T, 50, 512]` for ViT-B/32).

Token outputs exist for open_clip's own vision transformers with a class token. OpenAI trained `ln_post` and the
projection on the class token only; on patches they are used as the published feature extractors use them.

Activation
----------
QuickGELU or GELU follows the weights: a tag's entry in open_clip's table, the header of a file written by `fetch`,
the digest of a file that OpenAI released, and only for other files (and random weights) the model's name. To give a
file of other origin the numbers of its tag, name the tag's activation: `activation=quick_gelu`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from extractors import clip_models
from extractors.base import ExtractorError, Json, OutputSpec
from extractors.preprocess import Crop, Interpolation, Preprocessing, Rgb
from extractors.trained import Trained
from extractors.weights import HubTag, WeightsFile, identity, parse

Activation = Literal["gelu", "quick_gelu", "native"]

_UNITS = {
    "cls": "CLIP joint-space embedding of the frame, not normalised",
    "patch": "CLIP tokens after the final layer norm, class token first, then patches row-major",
    "patch_projected": "CLIP tokens in the joint space, not normalised, class token first, then patches row-major",
}


class Clip(Trained):
    """Options of the `clip` extractor.

    Attributes
    ----------
    model:
        An open_clip model name; OpenAI's slash (`ViT-L/14`) is understood.
    weights:
        A hub tag, a `.safetensors` or torch file, or `random:<seed>`.
    sha256:
        Digest that the weights file must have.
    tokens:
        `cls`, `patch` or `patch_projected`, see the module.
    crop, interpolation, mean, std:
        Preprocessing; None is the weights' own (for CLIP: centre crop, bicubic, OpenAI's statistics).
    image_size:
        Pixels; None is the model's own. Another size interpolates the position embedding, as open_clip does.
    activation:
        `auto` follows the weights.
    compute_dtype:
        float16 and bfloat16 run under autocast: layer norms and softmax stay in float32.
    compile:
        Run through `torch.compile`; in the numerics, not in the spec.
    """

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "frames"
    tower_module: ClassVar[str] = "extractors.clip_tower"

    model: str = "ViT-L-14"
    weights: str = "openai"
    tokens: Literal["cls", "patch", "patch_projected"] = "cls"
    crop: Crop | None = None
    image_size: int | None = Field(default=None, ge=1, le=2048)
    activation: Literal["auto", "gelu", "quick_gelu"] = "auto"
    compute_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    compile: bool = False
    interpolation: Interpolation | None = None
    mean: Rgb | None = None
    std: Rgb | None = None

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        model = value.replace("/", "-")
        clip_models.tower(model)
        return model

    @field_validator("weights")
    @classmethod
    def _canonical_weights(cls, value: str) -> str:
        parsed = parse(value)
        if isinstance(parsed, HubTag):
            return clip_models.clean_tag(parsed.tag)
        return str(parsed.path) if isinstance(parsed, WeightsFile) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tower = self.tower
        if self.tokens != "cls" and not tower.patch_tokens:
            raise ExtractorError(f"{self.model} has no class-token transformer: only tokens=cls is defined for it")
        if self.activation != "auto" and tower.kind != "vit":
            raise ExtractorError(f"the image tower of {self.model} has its own activation: leave activation=auto")
        if isinstance(self.source, HubTag):
            clip_models.tag_entry(tower.model, self.source.tag)
        if self.std is not None and min(self.std) <= 0:
            raise ExtractorError(f"option 'std': every channel must be positive (got {list(self.std)})")
        size = self.image_size
        if size is not None and tower.patch_size is not None and size % tower.patch_size:
            raise ExtractorError(f"option 'image_size': {size} is not a multiple of the patch size {tower.patch_size}")
        if size not in (None, tower.image_size) and tower.kind == "resnet":
            raise ExtractorError(f"option 'image_size': {self.model} takes {tower.image_size} pixels only")
        return self

    @cached_property
    def tower(self) -> clip_models.Tower:
        """Shapes of the image tower."""
        return clip_models.tower(self.model)

    @cached_property
    def facts(self) -> clip_models.WeightFacts:
        """What is known of the weights without hashing them; kept, so that workers do not ask again."""
        return clip_models.weight_facts(self.tower, self.source)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation, overrides applied."""
        return Preprocessing(
            size=self.image_size or self.tower.image_size,
            crop=self.crop or self.facts.crop,
            interpolation=self.interpolation or self.facts.interpolation,
            mean=self.mean or self.facts.mean,
            std=self.std or self.facts.std,
        )

    def resolved_activation(self) -> Activation:
        """The activation of the image tower's blocks; `native` where the backbone has its own.

        Raises
        ------
        ExtractorError:
            The model's name contradicts its weights.
        WeightsError:
            A weights file cannot be read or belongs to another model.
        """
        if self.tower.kind != "vit":
            return "native"
        if self.activation != "auto":
            return self.activation
        return "quick_gelu" if clip_models.quick_gelu(self.tower, self.source, self.facts) else "gelu"

    def spec(self) -> dict[str, Json]:
        """The model part of the recipe. Reads (and hashes, once per process) a weights file; imports no torch.

        Raises
        ------
        WeightsError:
            A weights file cannot be read, is not the pinned one, or belongs to another model.
        """
        resized = self.preprocessing.size != self.tower.image_size
        return {
            "extractor": self.name,
            "version": self.version,
            "model": self.tower.model,
            "weights": identity(self.source, self.sha256),
            "tokens": self.tokens,
            "layer": "last block, final norm" if self.tokens == "patch" else "last block, final norm, projection",
            "activation": self.resolved_activation(),
            "position_embedding": "interpolated" if resized else "native",
            "preprocessing": self.preprocessing.spec(),
            "compute_dtype": self.compute_dtype,
        }

    def output(self) -> OutputSpec:
        """`[embed_dim]`, `[1 + grid², width]` or `[1 + grid², embed_dim]`."""
        tower = self.tower
        if self.tokens == "cls" or tower.patch_size is None or tower.width is None:
            return OutputSpec((tower.embed_dim,), _UNITS["cls"])
        count = 1 + (self.preprocessing.size // tower.patch_size) ** 2
        channels = tower.width if self.tokens == "patch" else tower.embed_dim
        return OutputSpec((count, channels), _UNITS[self.tokens])

    def prepared_shape(self) -> tuple[int, ...]:
        """`(size, size, 3)`."""
        return (self.preprocessing.size, self.preprocessing.size, 3)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        """`uint8 [N,H,W,3]` to `uint8 [N,size,size,3]`; normalisation happens in the model."""
        return self.preprocessing.apply(frames)

    @property
    def weights_of(self) -> str:
        """The model whose weights these are."""
        return self.tower.model
