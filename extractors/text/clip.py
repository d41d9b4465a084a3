"""``clip``: the text tower of any open_clip model.

A vector is the projected embedding, not normalised: what ``encode_text`` of open_clip and OpenAI returns (768 numbers
for ViT-L/14). The published CRA-GQA embeds its graph nodes with the same features (its notebook uses ViT-L/14 and cuts
texts after 77 tokens). Weights, digests and activation follow the rules of the ``clip`` extractor, see
``extractors/clip.py``.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from extractors import clip_models
from extractors.base import Execution, Json
from extractors.clip import Clip
from extractors.text.base import TextEncoder, TextModel
from extractors.weights import identity

_CONTEXT_LENGTH = 77  # open_clip's own, for model files that name none


class ClipText(TextEncoder):
    """Options of the ``clip`` text encoder.

    Attributes
    ----------
    model
        An open_clip model name, as for the ``clip`` extractor.
    weights
        A hub tag, a ``.safetensors`` or torch file, or ``random:<seed>``.
    sha256
        Digest that the weights file must have.
    activation
        ``auto`` follows the weights.
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
        """The extractor of the same weights, which checks their options."""
        return Clip(model=self.model, weights=self.weights, sha256=self.sha256)

    @property
    def context_length(self) -> int:
        """Tokens of the longest text, begin and end included; longer texts are cut."""
        length: int = clip_models.config(self.clip.model)["text_cfg"].get("context_length", _CONTEXT_LENGTH)
        return length

    @property
    def hub_tokenizer(self) -> str | None:
        """Repository of the tokenizer; None for the one that open_clip ships."""
        name: str | None = clip_models.config(self.clip.model)["text_cfg"].get("hf_tokenizer_name")
        return name or None

    def quick_gelu(self) -> bool:
        """Tell whether the blocks use QuickGELU.

        Raises
        ------
        ExtractorError
            If the model's name contradicts its weights.
        WeightsError
            If a weights file cannot be read or belongs to another model.
        """
        if self.activation != "auto":
            return self.activation == "quick_gelu"
        return clip_models.quick_gelu(self.clip.tower, self.clip.source, self.clip.facts)

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads (and hashes, once per process) a weights file; imports no torch."""
        return {
            "encoder": self.name,
            "version": self.version,
            "model": self.clip.tower.model,
            "weights": identity(self.clip.pinned_weights),
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
        """Build the model, load its weights strictly and keep its text tower.

        Raises
        ------
        WeightsError
            If the weights or the tokenizer cannot be obtained, or the weights do not fit.
        ExtractorError
            If the model's name contradicts its weights, or open_clip cannot build the model.
        """
        from extractors.text import clip_tower

        clip = self.clip
        network = clip_models.ClipNetwork(clip.model, clip.pinned_weights, clip.tower.image_size, self.quick_gelu())
        return clip_tower.load(network, self.hub_tokenizer, self.dim, Execution(device, threads=threads))
