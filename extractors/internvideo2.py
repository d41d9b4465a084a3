"""``internvideo2``: the vision encoders of InternVideo2, by size: distilled S, B and L, and 1B and 6B.

Paper: Yi Wang, Kunchang Li, Xinhao Li, Jiashuo Yu et al., "InternVideo2: Scaling Foundation Models for Multimodal Video
Understanding", ECCV 2024, https://arxiv.org/abs/2403.15377. ``docs/facts/internvideo2.md`` has the formulas.

Output
------
A step is a clip: ``sampling: {policy: clips, frames: F}`` with the F of the option ``frames``. ``tokens`` says what is
kept of it: ``pooled``, the attention pooling ``[768]`` (``clip_projector``); ``projected``, the vector of unit length
that retrieval compares with texts ``[512]`` (``vision_proj``, which stage-2 files have); ``cls`` and ``mean``, the
class token and the mean of the patch tokens, ``[D]``; or ``map``, the patch tokens' mean over frames, ``[16, 16, D]``
at 224 pixels, rows then columns. ``map_size: 8`` is the mean of 2 by 2 cells of it. D is 384, 768, 1024, 1408 and 3200.
There is no norm after the last block. ``skip_blocks: 1`` leaves the last block out, as language models on top of
InternVideo2 do.

Positions
---------
The position table is made for F0 frames of 16 by 16 patches. Files do not say F0: it is 4 for stage-2 weights and 8
for stage 1, classifiers and distilled models, and the option ``f0`` says it where no tag does. For other numbers of
frames the table is interpolated linearly in time, and for other sizes of images bicubically in space. A clip of one
frame takes the table for images if the weights have one, else the mean over time.

GELU
----
The published weights were trained with the tanh approximation of GELU, which a fused kernel computes; the published
code without that kernel computes the exact one. ``gelu`` says which.

Weights
-------
A tag of the hub (``stage2`` and others, by size), or a file in one of the published layouts: alone or under
``vision_encoder.``, with decoders, classifiers and text encoders, which are left out and listed in the log. The
published CLIP files of 1B and 6B hold the pooling alone: name the stage-2 weights as ``weights`` and the CLIP file as
``projector``. ``jobs/weights.py fetch`` writes a tag as safetensors.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from extractors.base import ExtractorError, Input, Json, Model, OutputSpec, WeightsError, check_clips, frame_by_frame
from extractors.internvideo2_models import BACKBONES, Backbone, Gelu, Reading, Tokens
from extractors.preprocess import Crop, Interpolation, Preprocessing, Rgb
from extractors.swin import IMAGENET_MEAN, IMAGENET_STD
from extractors.trained import Trained
from extractors.weights import (
    HubTag,
    PinnedWeights,
    RandomWeights,
    WeightsFile,
    facts,
    identity,
    parse,
    unknown_tag,
)
from settings.messages import available, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from extractors.internvideo2_tower import InternVideo2Encoder

_UNITS = {
    "pooled": "InternVideo2 clip embedding, attention pooling",
    "projected": "InternVideo2 clip embedding for retrieval, of unit length",
    "cls": "InternVideo2 class token after the last block that is run",
    "mean": "InternVideo2 patch tokens after the last block that is run, mean over frames and positions",
    "map": "InternVideo2 patch tokens after the last block that is run, mean over frames, rows then columns",
}


class InternVideo2(Trained):
    """Options of the ``internvideo2`` extractor, beside those of ``Trained``.

    Attributes
    ----------
    model
        Size: ``s14``, ``b14``, ``l14``, ``1b`` or ``6b``.
    projector, projector_sha256
        A file whose attention pooling takes the place of that in ``weights``, and the digest that it must have.
    f0
        Frames that the position table of ``weights`` is made for; needed for files that do not say it themselves.
    frames
        Frames of a clip.
    image_size
        Pixels of the side of a frame, a multiple of 14.
    gelu
        ``tanh``, as published weights were trained, or ``exact``.
    tokens
        What a step is: ``pooled``, ``projected``, ``cls``, ``mean`` or ``map``.
    map_size
        Side of the map; None is one cell per patch.
    skip_blocks
        Number of blocks left out at the end.
    crop, interpolation, mean, std
        Preprocessing; the defaults are those of the stage-2 and CLIP weights.
    """

    name: ClassVar[str] = "internvideo2"
    version: ClassVar[int] = 1
    input: ClassVar[Input] = "clips"

    model: str = "1b"
    weights: str = "stage2"
    projector: str | None = None
    projector_sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    f0: int | None = Field(default=None, ge=1, le=256)
    frames: int = Field(default=4, ge=1, le=256)
    image_size: int = Field(default=224, ge=14, le=4096)
    gelu: Gelu = "tanh"
    tokens: Tokens = "pooled"
    map_size: int | None = Field(default=None, ge=1)
    skip_blocks: int = Field(default=0, ge=0)
    crop: Crop = "squash"
    interpolation: Interpolation = "bicubic"
    mean: Rgb = IMAGENET_MEAN
    std: Rgb = IMAGENET_STD

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in BACKBONES:
            hint = nearest(value, BACKBONES, 3) or f" ({available(BACKBONES)})"
            raise ExtractorError(f"InternVideo2 has no size {value!r}{hint}")
        return value

    @field_validator("projector")
    @classmethod
    def _projector_is_a_file(cls, value: str | None) -> str | None:
        if value is None:
            return None
        source = parse(value)
        if not isinstance(source, WeightsFile):
            raise ExtractorError(f"option 'projector': {value!r} is not the path of a file")
        return str(source.path)

    @model_validator(mode="after")
    def _consistent_weights(self) -> Self:
        source, releases = self.source, self.backbone.releases
        if isinstance(source, HubTag):
            if not releases:
                raise WeightsError(f"{self.weights_of} has no tags: download its file and set weights to the path")
            if source.tag not in releases:
                raise unknown_tag(self.weights_of, source.tag, tuple(releases))
            if self.f0 not in (None, releases[source.tag].f0):
                raise ExtractorError(f"option 'f0': {source.tag!r} has f0={releases[source.tag].f0}, not {self.f0}")
        if self.projector is not None and isinstance(source, RandomWeights):
            raise ExtractorError("option 'projector' belongs to trained weights, not to random ones")
        if self.projector_sha256 is not None and self.projector is None:
            raise ExtractorError("option 'projector_sha256' pins the file that 'projector' names")
        return self

    @model_validator(mode="after")
    def _consistent_output(self) -> Self:
        patch, depth = self.backbone.patch, self.backbone.depth
        if self.image_size % patch:
            raise ExtractorError(f"option 'image_size': {self.image_size} is no multiple of {patch} pixels")
        if self.map_size is not None and self.tokens != "map":
            raise ExtractorError(f"option 'map_size' belongs to tokens=map, not {self.tokens}")
        if self.reading.grid % self.reading.map_size:
            raise ExtractorError(f"option 'map_size': {self.map_size} does not divide {self.reading.grid} patches")
        if self.skip_blocks >= depth:
            raise ExtractorError(f"option 'skip_blocks': {self.skip_blocks} leaves none of {depth} blocks")
        if self.skip_blocks and self.tokens in ("pooled", "projected"):
            raise ExtractorError(
                f"option 'skip_blocks': tokens={self.tokens} follows the last block; take cls, mean, map"
            )
        if min(self.std) <= 0:
            raise ExtractorError(f"option 'std': every channel must be positive (got {list(self.std)})")
        return self

    @cached_property
    def backbone(self) -> Backbone:
        """Shapes of the encoder."""
        return BACKBONES[self.model]

    @cached_property
    def reading(self) -> Reading:
        """What is taken from the encoder."""
        grid = self.image_size // self.backbone.patch
        blocks = self.backbone.depth - self.skip_blocks
        return Reading(self.frames, grid, self.tokens, self.map_size or grid, blocks)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation."""
        return Preprocessing(self.image_size, self.crop, self.interpolation, self.mean, self.std)

    @cached_property
    def table_frames(self) -> int:
        """Frames of the position table, F0: what a tag, a fetched file or the option ``f0`` says.

        Raises
        ------
        WeightsError
            If a file cannot be read, or neither it nor the option says it, or they disagree.
        """
        match self.source:
            case RandomWeights():
                return self.f0 or self.frames
            case HubTag(tag):
                return self.backbone.releases[tag].f0
            case WeightsFile(path):
                carried = facts(path).get("F0", self.f0)
                if not isinstance(carried, int):
                    raise WeightsError(
                        f"option 'f0' is needed: {path} does not say for how many frames its position table is made "
                        "(4 for stage 2, 8 for stage 1, classifiers and distilled models)"
                    )
                if self.f0 not in (None, carried):
                    raise WeightsError(f"option 'f0': weights file {path} has f0={carried}, not {self.f0}")
                return carried

    @property
    def pinned_projector(self) -> PinnedWeights | None:
        """The file of the attention pooling and its pin."""
        if self.projector is None:
            return None
        return PinnedWeights(self.weights_of, parse(self.projector), self.projector_sha256)

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads (and hashes, once per process) the weights files; imports no torch.

        Raises
        ------
        WeightsError
            If a weights file cannot be read, is not the pinned one, says that it holds another model, or does not say
            what its position table is made for.
        """
        projector = self.pinned_projector
        return {
            "extractor": self.name,
            "version": self.version,
            "model": self.model,
            "weights": identity(self.pinned_weights),
            "projector": None if projector is None else identity(projector),
            "positions": {"F0": self.table_frames, "time": "linear", "space": "bicubic", "one_frame": "image or mean"},
            "frames": self.frames,
            "gelu": self.gelu,
            "tokens": self.tokens,
            "map_size": self.reading.map_size if self.tokens == "map" else None,
            "blocks": self.reading.blocks,
            "preprocessing": self.preprocessing.spec(),
            "compute_dtype": self.compute_dtype_entry,
        }

    def output(self) -> OutputSpec:
        """Return ``[768]``, ``[512]``, ``[D]`` or ``[map_size, map_size, D]``."""
        side, backbone = self.reading.map_size, self.backbone
        shapes: dict[str, tuple[int, ...]] = {
            "pooled": (backbone.pooled,),
            "projected": (backbone.projected,),
            "map": (side, side, backbone.width),
        }
        return OutputSpec(shapes.get(self.tokens, (backbone.width,)), _UNITS[self.tokens])

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(frames, image_size, image_size, 3)``."""
        return (self.frames, self.image_size, self.image_size, 3)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.uint8]:
        """Turn clips ``uint8 [N,F,H,W,3]`` into ``uint8 [N,F,size,size,3]``; the model normalises."""
        check_clips(frames)
        return frame_by_frame(self.preprocessing.apply, frames)

    def prepare_tensor(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn clips ``uint8 [N,F,H,W,3]`` on any device into ``uint8 [N,F,size,size,3]`` there."""
        return frame_by_frame(self.preprocessing.apply_tensor, frames)

    def preparation(self) -> Json:
        """Return the geometry."""
        return self.preprocessing.geometry()

    def check_weights(self) -> None:
        """See that the files fit. Reads the shapes of their tensors alone; imports torch.

        Raises
        ------
        WeightsError
            If one does not fit.
        """
        if isinstance(self.source, WeightsFile):
            from extractors import internvideo2_tower

            internvideo2_tower.check_files(
                self.pinned_weights, self.pinned_projector, self.model, self.backbone, self.table_frames
            )

    @property
    def weights_of(self) -> str:
        """``internvideo2_`` and the size."""
        return f"{self.name}_{self.model}"

    def carried_facts(self) -> dict[str, Json]:
        """Return F0, which the published files do not say."""
        return {"F0": self.table_frames}

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the encoder on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit.
        ExtractorError
            If the device cannot be used.
        """
        from extractors import internvideo2_tower

        return internvideo2_tower.load(
            partial(self._build_network, self.gelu),
            self.pinned_projector,
            self.reading,
            self.output(),
            self.preprocessing,
            self.execution(device, threads),
        )

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the encoder as its weights were released, with the position table of F0 frames."""
        return self._build_network("tanh")

    def _build_network(self, gelu: Gelu) -> tuple[InternVideo2Encoder, str | None]:
        from extractors import internvideo2_tower

        return internvideo2_tower.build_network(self.pinned_weights, self.model, self.backbone, self.table_frames, gelu)
