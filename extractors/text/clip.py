"""`clip`: the text tower of any open_clip model.

The projected embedding, not normalised: what open_clip's and OpenAI's `encode_text` return (768 numbers for ViT-L/14),
and what the published method embeds its graph nodes with (CRA-GQA's notebook: CLIP text features of ViT-L/14, texts
cut after 77 tokens). Weights, digests and activation are those of the `clip` extractor, see `extractors.clip`.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from extractors import clip_models
from extractors.base import Json
from extractors.clip import Clip
from extractors.text.base import TextEncoder, TextModel
from extractors.weights import identity

_CONTEXT_LENGTH = 77  # open_clip's where a model file does not say


class ClipText(TextEncoder):
    """Options of the `clip` text encoder.

    Attributes
    ----------
    model, weights, sha256:
        As for the `clip` extractor: an open_clip name; a hub tag, a file, or `random:<seed>`; the file's digest.
    activation:
        `auto` follows the weights.
    """

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1

    model: str = "ViT-L-14"
    weights: str = "openai"
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    activation: Literal["auto", "gelu", "quick_gelu"] = "auto"

    @model_validator(mode="after")
    def _described(self) -> Self:
        _ = self.clip
        return self

    @cached_property
    def clip(self) -> Clip:
        """The image tower of the same weights, which knows how to load them."""
        return Clip(model=self.model, weights=self.weights, sha256=self.sha256)

    @property
    def context_length(self) -> int:
        """Tokens of the longest text, begin and end included; what is longer is cut."""
        length: int = clip_models.config(self.clip.model)["text_cfg"].get("context_length", _CONTEXT_LENGTH)
        return length

    @property
    def hub_tokenizer(self) -> str | None:
        """The repository of the tokenizer; None for the one that open_clip carries."""
        name: str | None = clip_models.config(self.clip.model)["text_cfg"].get("hf_tokenizer_name")
        return name or None

    def quick_gelu(self) -> bool:
        """True if the blocks use QuickGELU. Raises WeightsError, ExtractorError as the `clip` extractor does."""
        if self.activation != "auto":
            return self.activation == "quick_gelu"
        return clip_models.quick_gelu(self.clip.tower, self.clip.source, self.clip.facts)

    def spec(self) -> dict[str, Json]:
        """The recipe. Reads (and hashes, once per process) a weights file; imports no torch."""
        return {
            "encoder": self.name,
            "version": self.version,
            "model": self.clip.tower.model,
            "weights": identity(self.clip.source, self.sha256),
            "layer": "projected embedding, not normalised",
            "activation": "quick_gelu" if self.quick_gelu() else "gelu",
            "tokenizer": self.hub_tokenizer or "open_clip",
            "context_length": self.context_length,
            "compute_dtype": "float32",
        }

    @property
    def dim(self) -> int:
        return self.clip.tower.embed_dim

    @property
    def random_weights(self) -> bool:
        return self.clip.random_weights

    def load(self, device: str, threads: int | None = None) -> TextModel:
        """Build the model, load its weights strictly, keep its text tower. Raises WeightsError, ExtractorError."""
        from extractors.text import clip_tower as text_clip_tower

        return text_clip_tower.load(self, device, threads)
