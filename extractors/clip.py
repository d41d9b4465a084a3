"""``clip``: the image tower of any open_clip model.

Tokens
------
cls
    The pooled, projected embedding, ``[embed_dim]``, not normalised: what ``encode_image`` of open_clip and OpenAI
    returns (768 numbers for ViT-L/14).
patch
    Every token of the last block after the final norm (``ln_post``), ``[1 + grid², width]``: row 0 is the class token,
    row ``1 + y·grid + x`` is the patch at row y and column x.
patch_projected
    The same tokens times the projection, ``[1 + grid², embed_dim]``: row 0 is what ``cls`` gives. This is the layout of
    PSTP-Net's files (``[T, 50, 512]`` for ViT-B/32).
patch_map
    The patches of ``patch`` as a map, ``[grid, grid, width]``, without the class token: ``[0, 0]`` is the top left
    corner, ``[0, grid-1]`` the top right one. The grid is 16 for ViT-L/14 at 224 pixels and 24 at 336.

Token outputs and maps exist for open_clip's own vision transformers with a class token; the extractors ``timm`` and
``hf`` give maps of SigLIP's. OpenAI trained ``ln_post`` and the projection on the class token only; on patches they are
used as the published feature extractors use them.

Activation
----------
The weights decide between QuickGELU and GELU: by a tag's entry in open_clip's table, by the header of a file that
``fetch`` wrote, by the digest of a file that OpenAI released, and only for other files (and random weights) by the
model's name. If a file of other origin is to give the numbers of its tag, name the tag's activation:
``activation=quick_gelu``.

The paper, the origin of the weights and their licences are in ``extractors/clip_tower.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from extractors import clip_models
from extractors.base import ExtractorError, Json, Model, OutputSpec
from extractors.preprocess import Crop, Interpolation, Preprocessing, Rgb
from extractors.trained import ImageTower
from extractors.weights import HubTag, WeightsFile, identity, parse

if TYPE_CHECKING:
    from torch import nn

Activation = Literal["gelu", "quick_gelu", "native"]

_UNITS = {
    "cls": "CLIP joint-space embedding of the frame, not normalised",
    "patch": "CLIP tokens after the final layer norm, class token first, then patches row-major",
    "patch_projected": "CLIP tokens in the joint space, not normalised, class token first, then patches row-major",
    "patch_map": "CLIP patches after the final layer norm, rows then columns",
}
_LAYERS = {
    "cls": "last block, final norm, projection",
    "patch": "last block, final norm",
    "patch_projected": "last block, final norm, projection",
    "patch_map": "last block, final norm",
}


class Clip(ImageTower):
    """Options of the ``clip`` extractor, beside those of ``Trained``.

    Attributes
    ----------
    model
        An open_clip model name; OpenAI's slash (``ViT-L/14``) is understood.
    tokens
        ``cls``, ``patch``, ``patch_projected`` or ``patch_map``; see the module.
    crop, interpolation, mean, std
        Preprocessing; None takes what belongs to the weights (for CLIP: centre crop, bicubic, OpenAI's statistics).
    image_size
        Pixels; None is the model's own. Another size interpolates the position embedding, as open_clip does.
    activation
        ``auto`` follows the weights.
    """

    name: ClassVar[str] = "clip"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "frames"

    model: str = "ViT-L-14"
    weights: str = "openai"
    tokens: Literal["cls", "patch", "patch_projected", "patch_map"] = "cls"
    crop: Crop | None = None
    image_size: int | None = Field(default=None, ge=1, le=2048)
    activation: Literal["auto", "gelu", "quick_gelu"] = "auto"
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
        source = parse(value)
        if isinstance(source, HubTag):
            return clip_models.clean_tag(source.tag)
        return str(source.path) if isinstance(source, WeightsFile) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tower = self.tower
        if self.tokens != "cls" and not tower.patch_tokens:
            raise ExtractorError(f"{self.model} has no class-token transformer; only tokens=cls is defined for it")
        if self.activation != "auto" and tower.kind != "vit":
            raise ExtractorError(f"the image tower of {self.model} has its own activation; leave activation=auto")
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
        """What is known about the weights without hashing them; kept, so that workers do not look it up again."""
        return clip_models.weight_facts(self.tower, self.source)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation, with the overrides of the options."""
        return Preprocessing(
            size=self.image_size or self.tower.image_size,
            crop=self.crop or self.facts.crop,
            interpolation=self.interpolation or self.facts.interpolation,
            mean=self.mean or self.facts.mean,
            std=self.std or self.facts.std,
        )

    def resolved_activation(self) -> Activation:
        """Return the activation of the image tower's blocks; ``native`` if the backbone has its own.

        Raises
        ------
        ExtractorError
            If the model's name contradicts its weights.
        WeightsError
            If a weights file cannot be read or belongs to another model.
        """
        if self.tower.kind != "vit":
            return "native"
        if self.activation != "auto":
            return self.activation
        return "quick_gelu" if clip_models.quick_gelu(self.tower, self.source, self.facts) else "gelu"

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads (and hashes, once per process) a weights file; imports no torch.

        Raises
        ------
        WeightsError
            If a weights file cannot be read, is not the pinned one, or belongs to another model.
        """
        resized = self.preprocessing.size != self.tower.image_size
        return {
            "extractor": self.name,
            "version": self.version,
            "model": self.tower.model,
            "weights": identity(self.pinned_weights),
            "tokens": self.tokens,
            "layer": _LAYERS[self.tokens],
            "activation": self.resolved_activation(),
            "position_embedding": "interpolated" if resized else "native",
            "preprocessing": self.preprocessing.spec(),
            "compute_dtype": self.compute_dtype_entry,
        }

    def output(self) -> OutputSpec:
        """Return ``[embed_dim]``, ``[1 + grid², width]``, ``[1 + grid², embed_dim]`` or ``[grid, grid, width]``."""
        tower = self.tower
        if self.tokens == "cls" or tower.patch_size is None or tower.width is None:
            return OutputSpec((tower.embed_dim,), _UNITS["cls"])
        grid = self.preprocessing.size // tower.patch_size
        if self.tokens == "patch_map":
            return OutputSpec((grid, grid, tower.width), _UNITS[self.tokens])
        channels = tower.width if self.tokens == "patch" else tower.embed_dim
        return OutputSpec((1 + grid**2, channels), _UNITS[self.tokens])

    @property
    def weights_of(self) -> str:
        """The open_clip name of the model, without ``-quickgelu``."""
        return self.tower.model

    def _network(self, image_size: int) -> clip_models.ClipNetwork:
        native = self.tower.quick_gelu
        quick_gelu = {"quick_gelu": True, "gelu": False, "native": native}[self.resolved_activation()]
        return clip_models.ClipNetwork(self.model, self.pinned_weights, image_size, quick_gelu)

    def check_weights(self) -> None:
        """See that a file fits. Reads the shapes of its tensors alone, but for OpenAI's archives; imports torch.

        Raises
        ------
        WeightsError
            If it does not.
        """
        if isinstance(self.source, WeightsFile):
            from extractors import clip_tower

            clip_tower.check_file(self._network(self.preprocessing.size), self.source.path)

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the image tower on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit.
        ExtractorError
            If the model's name contradicts its weights, or open_clip cannot build the model.
        """
        from extractors import clip_tower

        return clip_tower.load(
            self._network(self.preprocessing.size),
            self.tokens,
            self.output(),
            self.preprocessing,
            self.execution(device, threads),
        )

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the whole model, image and text tower, for images of its own size."""
        from extractors import clip_tower

        return clip_tower.build_network(self._network(self.tower.image_size))

    def carried_facts(self) -> Mapping[str, Json]:
        """Return the preprocessing and the activation of a tag."""
        if not isinstance(self.source, HubTag):
            return {}
        entry = clip_models.tag_entry(self.tower.model, self.source.tag)
        return {
            "quick_gelu": bool(entry.get("quick_gelu", False)),
            "mean": list(entry["mean"]),
            "std": list(entry["std"]),
            "interpolation": entry["interpolation"],
            "resize_mode": entry["resize_mode"],
        }
