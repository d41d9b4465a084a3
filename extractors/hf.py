"""``hf``: the image tower of a model of transformers: DINOv2 and DINOv3, SigLIP and SigLIP 2, ViT, ConvNeXt and others.

The model is a local folder or a repository of the Hugging Face hub, with ``config.json``, ``preprocessor_config.json``
and ``model.safetensors``. A repository and a copy of its files have one spec.

Output
------
``form=pooled`` is the model's ``pooler_output``, ``[C]``: the class token for DINOv2, the attention head for SigLIP. A
model of images and texts with a projection gives its image embedding, not normalised, as ``get_image_features`` does.
``form=cls`` is the class token of the last hidden state. ``form=map`` is the last hidden state as ``[h, w, C]``,
row-major: ``[0, 0]`` is the top left corner; class and register tokens are left out. The last hidden state is the
library's own: CLIP's comes before the final norm (the extractor ``clip`` gives it after).

Preprocessing
-------------
That of the model's image processor, as its backend ``pil`` does it; ``extractors/hf_processor.py`` says which
processors are known. Models of a fixed size refuse another one, unless ``interpolate_positions`` is set.

The origin of the weights and their licences are in ``extractors/hf_tower.py``.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from extractors import hf_processor
from extractors.base import ExtractorError, Json, Model, OutputSpec
from extractors.hf_folder import HfTrained
from extractors.preprocess import Crop, Interpolation, Preprocessing, Rgb
from extractors.trained import ImageTower

if TYPE_CHECKING:
    from torch import nn

    from extractors.hf_tower import HfNetwork

_LAYERS = {"pooled": "pooler_output", "cls": "last_hidden_state, class token", "map": "last_hidden_state"}
_UNITS = {
    "pooled": "pooled features of {}",
    "cls": "class token of {}, last hidden state",
    "map": "last hidden state of {}, rows then columns",
}


class Hf(HfTrained, ImageTower):
    """Options of the ``hf`` extractor, beside those of ``HfTrained``.

    Attributes
    ----------
    form
        ``pooled``, ``cls`` or ``map``; see the module.
    crop, interpolation, mean, std
        Preprocessing; None takes that of the image processor. A crop that is named takes the whole picture of
        ``image_size`` pixels, without the processor's margin.
    image_size
        Pixels; None is the processor's. The processor's margin grows in proportion.
    interpolate_positions
        Let a model of a fixed size take another one. DINOv2 always does, and needs no asking.
    """

    name: ClassVar[str] = "hf"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "frames"
    asked: ClassVar[str] = "extractors.hf_tower:describe"

    form: Literal["pooled", "cls", "map"] = "pooled"
    crop: Crop | None = None
    image_size: int | None = Field(default=None, ge=1, le=2048)
    interpolation: Interpolation | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    interpolate_positions: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.std is not None and min(self.std) <= 0:
            raise ExtractorError(f"option 'std': every channel must be positive (got {list(self.std)})")
        if self.preprocessing.crop == "letterbox" and not self.preprocessing.rounded:
            raise ExtractorError("option 'crop': this image processor resizes floats, for which there is no letterbox")
        _ = self.facts
        return self

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the library knows: ``model_type`` and ``step_shape``; kept, so that workers do not ask again.

        Raises
        ------
        ExtractorError
            If transformers is missing, knows no such model, or the model has nothing of this form or size.
        WeightsError
            If a file of the model is missing.
        """
        return self.ask_library(self.form, self.preprocessing.size, self.interpolate_positions)

    @cached_property
    def processor(self) -> tuple[str, Preprocessing]:
        """The class of the image processor, and what it does without the overrides of the options.

        Raises
        ------
        ExtractorError
            If the processor is not known, or asks for something that is not supported.
        WeightsError
            If its file is missing or cannot be read.
        """
        return self.read_processor(
            lambda settings: (hf_processor.processor_name(settings), hf_processor.read(settings))
        )

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation: those of the image processor, with the overrides of the options."""
        _, own = self.processor
        size = self.image_size or own.size
        short_side = own.short_side and round(own.short_side * size / own.size)
        return dataclasses.replace(
            own,
            size=size,
            crop=self.crop or own.crop,
            interpolation=self.interpolation or own.interpolation,
            mean=self.mean or own.mean,
            std=self.std or own.std,
            short_side=None if self.crop else short_side,
        )

    @property
    def prepared_dtype(self) -> str:  # type: ignore[override]  # a processor's own, where others have their class's
        """``uint8``, or ``float32`` if the processor does not round pictures to bytes."""
        return "uint8" if self.preprocessing.rounded else "float32"

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads and hashes the model's files (once per process); imports no torch.

        Raises
        ------
        WeightsError
            If a file of the model is missing, cannot be downloaded, or is not the pinned one.
        """
        return {
            "extractor": self.name,
            "version": self.version,
            "model": self.facts["model_type"],
            **self.weights_entries(),
            "form": self.form,
            "layer": _LAYERS[self.form],
            "interpolate_positions": self.interpolate_positions,
            "processor": self.processor[0],
            "preprocessing": {**self.preprocessing.spec(), "short_side": self.preprocessing.short_side},
            "compute_dtype": self.compute_dtype_entry,
        }

    def output(self) -> OutputSpec:
        """Return ``[C]`` or ``[h, w, C]``."""
        return OutputSpec(tuple(self.facts["step_shape"]), _UNITS[self.form].format(self.facts["model_type"]))

    def _check_files(self, files: list[Path]) -> None:
        from extractors import hf_tower

        hf_tower.check_files(self._network(), files)

    def _network(self) -> HfNetwork:
        from extractors.hf_tower import HfNetwork

        return HfNetwork(self.folder, self.random_seed, self.form, self.interpolate_positions)

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the image tower on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If a file of the model is missing, is not the pinned one, or does not fit.
        ExtractorError
            If the library cannot build the model, or the device cannot be used.
        """
        from extractors import hf_tower

        sha256 = None if self.random_weights else self.weights_digest()
        execution = self.execution(device, threads)
        return hf_tower.load(self._network(), self.output(), self.preprocessing, execution, sha256)

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the image tower."""
        from extractors import hf_tower

        return hf_tower.build_network(self._network()), None if self.random_weights else self.weights_digest()
