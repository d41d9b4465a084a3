"""``swin``: the image towers of Swin Transformer, versions 1 and 2, by their timm names.

Output
------
``pool=none`` is the map after the final norm and before pooling, ``[grid, grid, C]``, row-major: ``[0, 0]`` is the top
left corner, ``[0, grid-1]`` the top right one. The grid is a 32nd of the image side: 7 at 224 pixels, 12 at 384; C is
768 for tiny and small, 1024 for base, 1536 for large (Liu et al. 2021, Table 7; the ``forward_features`` of the
original repository before ``avgpool``). ``pool=mean`` is its mean over all positions, ``[C]``: what the classifier
sees.

Preprocessing
-------------
The default is that of timm's pretrained configuration: bicubic, ImageNet mean and std, a centre crop of 0.9 of the
short side (1.0 at 384). The original repository evaluates 224 pixels with ``short_side=256`` and 384 with
``crop=squash``.

Weights
-------
A tag of timm's hub (``ms_in22k_ft_in1k``), or a file in timm's or the original repository's layout. The classifier is
not part of the tower: its tensors are left out, whatever their shape. The papers and the licence are in
``extractors/swin_tower.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from extractors.base import ExtractorError, Json, Model, OutputSpec
from extractors.preprocess import Crop, Interpolation, Preprocessing, Rgb
from extractors.trained import ImageTower
from extractors.weights import HubTag, WeightsFile, identity, unknown_tag
from settings.messages import available, nearest

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)
_STRIDE = 32


@dataclass(frozen=True, slots=True)
class Backbone:
    """The shapes of one timm model and what timm's pretrained configuration says about it.

    Attributes
    ----------
    embed_dim
        Channels of the first stage; each later stage doubles them.
    depths
        Blocks per stage.
    image_size
        Side of the input in pixels.
    tags
        Weights on timm's hub.
    """

    embed_dim: int
    depths: tuple[int, int, int, int]
    image_size: int
    tags: tuple[str, ...]

    @property
    def grid(self) -> int:
        """Positions along one side of the last map."""
        return self.image_size // _STRIDE

    @property
    def channels(self) -> int:
        """Channels of the last map."""
        return self.embed_dim << (len(self.depths) - 1)

    @property
    def short_side(self) -> int:
        """Pixels of the short side before timm's centre crop."""
        crop_fraction = 1.0 if self.image_size == 384 else 0.9
        return math.floor(self.image_size / crop_fraction)


_TINY = (96, (2, 2, 6, 2))
_SMALL = (96, (2, 2, 18, 2))
_BASE = (128, (2, 2, 18, 2))
_LARGE = (192, (2, 2, 18, 2))
_1K, _22K, _22K_1K = "ms_in1k", "ms_in22k", "ms_in22k_ft_in1k"

BACKBONES = {
    "swin_tiny_patch4_window7_224": Backbone(*_TINY, 224, (_1K, _22K, _22K_1K)),
    "swin_small_patch4_window7_224": Backbone(*_SMALL, 224, (_1K, _22K, _22K_1K)),
    "swin_base_patch4_window7_224": Backbone(*_BASE, 224, (_1K, _22K, _22K_1K)),
    "swin_base_patch4_window12_384": Backbone(*_BASE, 384, (_1K, _22K, _22K_1K)),
    "swin_large_patch4_window7_224": Backbone(*_LARGE, 224, (_22K, _22K_1K)),
    "swin_large_patch4_window12_384": Backbone(*_LARGE, 384, (_22K, _22K_1K)),
    "swinv2_tiny_window8_256": Backbone(*_TINY, 256, (_1K,)),
    "swinv2_tiny_window16_256": Backbone(*_TINY, 256, (_1K,)),
    "swinv2_small_window8_256": Backbone(*_SMALL, 256, (_1K,)),
    "swinv2_small_window16_256": Backbone(*_SMALL, 256, (_1K,)),
    "swinv2_base_window8_256": Backbone(*_BASE, 256, (_1K,)),
    "swinv2_base_window16_256": Backbone(*_BASE, 256, (_1K,)),
    "swinv2_base_window12_192": Backbone(*_BASE, 192, (_22K,)),
    "swinv2_base_window12to16_192to256": Backbone(*_BASE, 256, (_22K_1K,)),
    "swinv2_base_window12to24_192to384": Backbone(*_BASE, 384, (_22K_1K,)),
    "swinv2_large_window12_192": Backbone(*_LARGE, 192, (_22K,)),
    "swinv2_large_window12to16_192to256": Backbone(*_LARGE, 256, (_22K_1K,)),
    "swinv2_large_window12to24_192to384": Backbone(*_LARGE, 384, (_22K_1K,)),
}


class Swin(ImageTower):
    """Options of the ``swin`` extractor, beside those of ``Trained``.

    Attributes
    ----------
    model
        A timm name, one of ``BACKBONES``.
    pool
        ``none`` is the map ``[grid, grid, C]``, ``mean`` its mean ``[C]``.
    crop, interpolation, mean, std
        Preprocessing; the defaults are timm's.
    short_side
        Pixels of the short side before ``center_crop``; None is timm's own number.
    """

    name: ClassVar[str] = "swin"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "frames"

    model: str = "swin_base_patch4_window7_224"
    weights: str = _22K_1K
    pool: Literal["none", "mean"] = "none"
    crop: Crop = "center_crop"
    short_side: int | None = Field(default=None, ge=1, le=4096)
    interpolation: Interpolation = "bicubic"
    mean: Rgb = IMAGENET_MEAN
    std: Rgb = IMAGENET_STD

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in BACKBONES:
            if not value.startswith("swin"):
                raise ExtractorError(f"{value!r} is no Swin model; the extractor timm takes any image model of timm")
            hint = nearest(value.partition(".")[0], BACKBONES, 3) or f" ({available(BACKBONES)})"
            raise ExtractorError(f"swin knows no Swin model {value!r}{hint}; the extractor timm takes others")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tags = self.backbone.tags
        if isinstance(self.source, HubTag) and self.source.tag not in tags:
            raise unknown_tag(self.model, self.source.tag, tags)
        if min(self.std) <= 0:
            raise ExtractorError(f"option 'std': every channel must be positive (got {list(self.std)})")
        if self.short_side is not None and self.crop != "center_crop":
            raise ExtractorError(f"option 'short_side' belongs to crop=center_crop, not {self.crop}")
        if self.short_side is not None and self.short_side < self.backbone.image_size:
            raise ExtractorError(f"option 'short_side': {self.short_side} is below {self.backbone.image_size} pixels")
        return self

    @cached_property
    def backbone(self) -> Backbone:
        """Shapes of the model."""
        return BACKBONES[self.model]

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation."""
        centre = self.crop == "center_crop"
        return Preprocessing(
            size=self.backbone.image_size,
            crop=self.crop,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            short_side=(self.short_side or self.backbone.short_side) if centre else None,
        )

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads (and hashes, once per process) a weights file; imports no torch.

        Raises
        ------
        WeightsError
            If a weights file cannot be read, is not the pinned one, or says that it holds another model.
        """
        return {
            "extractor": self.name,
            "version": self.version,
            "model": self.model,
            "weights": identity(self.pinned_weights),
            "layer": "last stage, final norm",
            "pool": self.pool,
            "preprocessing": {**self.preprocessing.spec(), "short_side": self.preprocessing.short_side},
            "compute_dtype": self.compute_dtype_entry,
        }

    def output(self) -> OutputSpec:
        """Return ``[grid, grid, C]`` or ``[C]``."""
        grid, channels = self.backbone.grid, self.backbone.channels
        if self.pool == "mean":
            return OutputSpec((channels,), "Swin features after the final layer norm, mean over positions")
        return OutputSpec((grid, grid, channels), "Swin features after the final layer norm, rows then columns")

    @property
    def weights_of(self) -> str:
        """The timm name of the model."""
        return self.model

    def check_weights(self) -> None:
        """See that a file fits. Reads the shapes of its tensors alone; imports torch.

        Raises
        ------
        WeightsError
            If it does not.
        """
        if isinstance(self.source, WeightsFile):
            from extractors import swin_tower

            swin_tower.check_file(self.model, self.source.path)

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the tower on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit.
        ExtractorError
            If the device cannot be used.
        """
        from extractors import swin_tower

        return swin_tower.load(
            self.pinned_weights,
            self.pool == "mean",
            self.output(),
            self.preprocessing,
            self.execution(device, threads),
        )

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the tower, without the classifier."""
        from extractors import swin_tower

        return swin_tower.build_network(self.pinned_weights)
