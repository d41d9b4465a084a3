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
import hashlib
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from extractors import hf_processor, tensors
from extractors.asking import ask
from extractors.base import ExtractorError, FetchedWeights, Json, Model, OutputSpec, WeightsError
from extractors.hub import ModelFiles
from extractors.preprocess import Crop, Interpolation, Preprocessing, Rgb
from extractors.trained import ImageTower
from extractors.weights import RandomWeights, WeightsFile, check_pin, digest

if TYPE_CHECKING:
    from torch import nn

    from extractors.hf_tower import HfNetwork

_CONFIG, _PROCESSOR, _WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OWN = "model"
_LAYERS = {"pooled": "pooler_output", "cls": "last_hidden_state, class token", "map": "last_hidden_state"}
_UNITS = {
    "pooled": "pooled features of {}",
    "cls": "class token of {}, last hidden state",
    "map": "last hidden state of {}, rows then columns",
}


class Hf(ImageTower):
    """Options of the ``hf`` extractor, beside those of ``Trained``.

    Attributes
    ----------
    model
        A folder, or a repository such as ``facebook/dinov2-base``.
    revision
        Branch, tag or commit of a repository; None is the main branch. Not in the spec, which has the files' digests.
    weights
        ``model``, the weights of the folder or repository, or ``random:<seed>``.
    sha256
        Digest that ``model.safetensors`` must have.
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

    model: str = Field(min_length=1)
    revision: str | None = None
    weights: str = _OWN
    form: Literal["pooled", "cls", "map"] = "pooled"
    crop: Crop | None = None
    image_size: int | None = Field(default=None, ge=1, le=2048)
    interpolation: Interpolation | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    interpolate_positions: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.source, WeightsFile) or (not self.random_weights and self.weights != _OWN):
            raise ExtractorError(
                f"option 'weights': write {_OWN} for the weights of the model's own folder, or random:<seed> "
                f"(got {self.weights!r}); the folder goes into model"
            )
        self.files.check()
        if self.std is not None and min(self.std) <= 0:
            raise ExtractorError(f"option 'std': every channel must be positive (got {list(self.std)})")
        if self.preprocessing.crop == "letterbox" and not self.preprocessing.rounded:
            raise ExtractorError("option 'crop': this image processor resizes floats, for which there is no letterbox")
        _ = self.facts
        return self

    @property
    def files(self) -> ModelFiles:
        """The files of the model."""
        return ModelFiles(self.model, (_CONFIG, _PROCESSOR, _WEIGHTS), self.revision)

    @property
    def weights_of(self) -> str:
        """The folder or repository."""
        return self.model

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
        config = self.files.file(_CONFIG)
        known: dict[str, Any] = ask(
            "the hf extractor",
            "transformers",
            "extractors.hf_tower:describe",
            str(config.parent),
            digest(config),
            self.form,
            self.preprocessing.size,
            self.interpolate_positions,
        )
        return known

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
        settings = self.files.read_json(_PROCESSOR)
        try:
            return hf_processor.processor_name(settings), hf_processor.read(settings)
        except ExtractorError as error:
            raise ExtractorError(f"{self.model}: {_PROCESSOR} {error}") from error

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
            "config_sha256": digest(self.files.file(_CONFIG)),
            "weights": {"random": self.source.seed}
            if isinstance(self.source, RandomWeights)
            else {"sha256": self._weights_digest()},
            "form": self.form,
            "layer": _LAYERS[self.form],
            "interpolate_positions": self.interpolate_positions,
            "processor": self.processor[0],
            "preprocessing": {**self.preprocessing.spec(), "short_side": self.preprocessing.short_side},
            "compute_dtype": self.compute_dtype_entry,
        }

    def _weights_files(self) -> list[Path]:
        """Return the files of the weights; large models have several, which an index lists."""
        try:
            return [self.files.file(_WEIGHTS)]
        except WeightsError as error:
            try:
                listed = self.files.read_json(_INDEX).get("weight_map")
            except WeightsError:
                raise error from None
        if not isinstance(listed, dict):
            raise WeightsError(f"{self.model}: {_INDEX} has no weight_map")
        return [self.files.file(str(name)) for name in sorted(set(listed.values()))]

    def _weights_digest(self) -> str:
        """Return the sha256 of the weights file; of several, that of the list of their digests and names."""
        files = self._weights_files()
        if len(files) == 1:
            return check_pin(files[0], self.sha256)
        if self.sha256 is not None:
            raise ExtractorError(f"option 'sha256' pins one file; {self.model} has {len(files)}")
        return hashlib.sha256("".join(f"{digest(file)}  {file.name}\n" for file in files).encode()).hexdigest()

    def output(self) -> OutputSpec:
        """Return ``[C]`` or ``[h, w, C]``."""
        return OutputSpec(tuple(self.facts["step_shape"]), _UNITS[self.form].format(self.facts["model_type"]))

    def check_weights(self) -> None:
        """See that the files of the weights fit. Reads the shapes of their tensors alone; imports torch.

        Raises
        ------
        WeightsError
            If one is missing or they do not fit.
        """
        if not self.random_weights:
            from extractors import hf_tower

            hf_tower.check_files(self._network(), self._weights_files())

    def _network(self) -> HfNetwork:
        from extractors.hf_tower import HfNetwork

        folder = self.files.file(_CONFIG).parent
        seed = self.source.seed if isinstance(self.source, RandomWeights) else None
        return HfNetwork(folder, seed, self.form, self.interpolate_positions)

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

        sha256 = None if self.random_weights else self._weights_digest()
        execution = self.execution(device, threads)
        return hf_tower.load(self._network(), self.output(), self.preprocessing, execution, sha256)

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the image tower."""
        from extractors import hf_tower

        return hf_tower.build_network(self._network()), None if self.random_weights else self._weights_digest()

    def fetch(self, directory: Path) -> FetchedWeights | None:
        """Copy the files of a repository into a folder of ``directory``; return None for folders and random weights."""
        if self.random_weights or self.files.is_local:
            return None
        folder = directory / self.model.replace("/", "--")
        files = [self.files.file(_CONFIG), self.files.file(_PROCESSOR), *self._weights_files()]
        if len(files) > 3:
            files.append(self.files.file(_INDEX))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copyfile(file, folder / file.name)
        except OSError as error:
            raise WeightsError(f"cannot write {folder}: {error.strerror or error}") from error
        sha256 = self._weights_digest()
        return tensors.list_in_index(
            directory,
            FetchedWeights(folder.name, sha256, self.name, self.model, self.revision or "main", sha256, "model"),
        )

    def verify(self, directory: Path) -> FetchedWeights | None:
        """Check the digest of what ``fetch`` left and load it strictly; return None for folders and random weights."""
        if self.random_weights or self.files.is_local:
            return None
        entry = tensors.listed(directory, self.name, self.model, self.revision or "main")
        options = self.model_dump(exclude_unset=True) | {"model": str(directory / entry.file), "revision": None}
        copy = type(self).model_validate(options)
        if (actual := copy._weights_digest()) != entry.sha256:
            raise WeightsError(f"weights of {copy.model} have sha256 {actual}, but {entry.sha256} is listed")
        copy.load("cpu")
        return entry
