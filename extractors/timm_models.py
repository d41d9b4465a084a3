"""``timm``: any image model of timm, by its name.

Output
------
``form=pooled`` is what ``create_model(name, num_classes=0)`` returns, ``[C]``: what the classifier would see.
``form=map`` is what ``forward_features`` returns before pooling, as ``[h, w, C]``, row-major: ``[0, 0]`` is the top
left corner. Class, register and distillation tokens are left out. A few models, such as those of two branches, have no
map.

Weights and preprocessing
-------------------------
A model's tag names its weights: ``model=vit_base_patch16_224.mae``, or ``weights=mae`` beside
``model=vit_base_patch16_224``. The preprocessing is that of the tag's own data configuration. With a file in
``weights``, the tag in the model's name says whose data configuration belongs to it; a file that ``fetch`` wrote knows
it, and a model all of whose tags have the same needs none.

The origin of the weights and their licences are in ``extractors/timm_tower.py``. Swin towers have an extractor of their
own, ``swin``, which also reads the checkpoints of the original repository.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from extractors import weights as weights_
from extractors.asking import ask
from extractors.base import ExtractorError, Json, Model, OutputSpec
from extractors.preprocess import Crop, Interpolation, Preprocessing, Rgb
from extractors.trained import ImageTower
from extractors.weights import HubTag, WeightsFile, identity

if TYPE_CHECKING:
    from torch import nn

    from extractors.timm_tower import TimmNetwork

_CROPS: dict[str, Crop] = {"center": "center_crop", "squash": "squash", "border": "letterbox"}
_FILTERS: tuple[Interpolation, ...] = ("bicubic", "bilinear")
_LAYERS = {"pooled": "create_model(num_classes=0)", "map": "forward_features"}
_DATA = "data"  # the data configuration in the header of a fetched file


@dataclass(frozen=True, slots=True)
class TimmFacts:
    """What timm knows about a model and its weights.

    Attributes
    ----------
    data
        timm's data configuration: ``input_size``, ``interpolation``, ``mean``, ``std``, ``crop_pct``, ``crop_mode``.
    pooled
        Channels of the pooled features.
    map
        ``[h, w, C]`` of the unpooled ones, or as a text why there is no map.
    """

    data: Mapping[str, Any]
    pooled: int
    map: tuple[int, int, int] | str


class Timm(ImageTower):
    """Options of the ``timm`` extractor, beside those of ``Trained``.

    Attributes
    ----------
    model
        timm's name of a model, with or without a tag.
    form
        ``pooled`` or ``map``; see the module.
    crop, interpolation, mean, std
        Preprocessing; None takes that of the data configuration. A crop that is named takes the whole picture of
        ``image_size`` pixels, without timm's margin.
    image_size
        Pixels; None is that of the data configuration. Another size interpolates positions, as timm does.
    """

    name: ClassVar[str] = "timm"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "frames"

    model: str
    form: Literal["pooled", "map"] = "pooled"
    crop: Crop | None = None
    image_size: int | None = Field(default=None, ge=1, le=2048)
    interpolation: Interpolation | None = None
    mean: Rgb | None = None
    std: Rgb | None = None

    @model_validator(mode="before")
    @classmethod
    def _tag_of_the_name(cls, options: Any) -> Any:
        """Take the tag in a model's name for its weights, unless others are named."""
        if not isinstance(options, Mapping) or not isinstance(name := options.get("model"), str):
            return options
        tag = name.partition(".")[2]
        if not tag and "weights" not in options:
            raise ExtractorError(
                f"option 'weights': name the tag of {name} that you mean (python -c \"import timm; "
                f"print(timm.list_pretrained('{name}.*'))\" lists them), a file, or random:<seed>"
            )
        return {"weights": tag, **options}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self._tag and isinstance(self.source, HubTag) and self.source.tag != self._tag:
            raise ExtractorError(f"model {self.model} and weights {self.weights!r} name two tags; name one")
        if self.form == "map" and isinstance(self.facts.map, str):
            raise ExtractorError(self.facts.map)
        if self.std is not None and min(self.std) <= 0:
            raise ExtractorError(f"option 'std': every channel must be positive (got {list(self.std)})")
        _ = self.preprocessing
        return self

    @property
    def _tag(self) -> str:
        return self.model.partition(".")[2]

    @property
    def weights_of(self) -> str:
        """Name of the model, without a tag."""
        return self.model.partition(".")[0]

    @cached_property
    def facts(self) -> TimmFacts:
        """What timm knows about the model; kept, so that workers do not ask again.

        Raises
        ------
        ExtractorError
            If timm is missing, has no such model, or the model does not take pictures of this size.
        WeightsError
            If the model has no such tag, or the header of a file says that it holds another model.
        """
        tag = self.source.tag if isinstance(self.source, HubTag) else self._tag or None
        carried = None
        if isinstance(self.source, WeightsFile):
            weights_.check_model(self.source.path, self.weights_of)
            carried = weights_.facts(self.source.path).get(_DATA)
        size = self.image_size or (carried and carried["input_size"][1])
        known = ask("the timm extractor", "timm", "extractors.timm_tower:describe", self.weights_of, tag, size)
        if isinstance(self.source, WeightsFile) and carried is None and tag is None and not known["one_data"]:
            raise ExtractorError(
                f"the tags of {self.model} differ in their data configuration; name that of {self.source.path.name}, "
                f"for example model={self.model}.{known['tags'][0]}"
            )
        mapped = known["map"]
        return TimmFacts(carried or known[_DATA], known["pooled"], mapped if isinstance(mapped, str) else tuple(mapped))

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation: those of the data configuration, with the overrides of the options.

        Raises
        ------
        ExtractorError
            If the data configuration asks for something that is not supported.
        """
        data = self.facts.data
        size: int = self.image_size or data["input_size"][1]
        own = _CROPS[data["crop_mode"]]
        resized = math.floor(size / data["crop_pct"])
        if self.crop is None and own == "letterbox" and resized != size:
            raise ExtractorError(f"{self.model} crops a picture with borders, which is not supported; name a crop")
        if self.interpolation is None and data["interpolation"] not in _FILTERS:
            raise ExtractorError(f"{self.model} resizes by {data['interpolation']!r}; name interpolation=bicubic")
        crop = self.crop or own
        keeps_margin = self.crop is None and crop != "letterbox" and (crop == "center_crop" or resized != size)
        return Preprocessing(
            size=size,
            crop=crop,
            interpolation=self.interpolation or data["interpolation"],
            mean=self.mean or cast(Rgb, tuple(data["mean"])),
            std=self.std or cast(Rgb, tuple(data["std"])),
            short_side=resized if keeps_margin else None,
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
            "model": self.weights_of,
            "weights": identity(self.pinned_weights),
            "form": self.form,
            "layer": _LAYERS[self.form],
            "preprocessing": {**self.preprocessing.spec(), "short_side": self.preprocessing.short_side},
            "compute_dtype": self.compute_dtype_entry,
        }

    def output(self) -> OutputSpec:
        """Return ``[C]`` or ``[h, w, C]``."""
        if isinstance(self.facts.map, str) or self.form == "pooled":
            return OutputSpec((self.facts.pooled,), f"pooled features of {self.weights_of}, before the classifier")
        return OutputSpec(self.facts.map, f"features of {self.weights_of} before pooling, rows then columns")

    def check_weights(self) -> None:
        """See that a file fits. Reads the shapes of its tensors alone; imports torch.

        Raises
        ------
        WeightsError
            If it does not.
        """
        if isinstance(self.source, WeightsFile):
            from extractors import timm_tower

            timm_tower.check_file(self.weights_of, self.source.path)

    def _network(self, image_size: int | None) -> TimmNetwork:
        from extractors.timm_tower import TimmNetwork

        return TimmNetwork(self.pinned_weights, image_size)

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the network on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit.
        ExtractorError
            If the device cannot be used.
        """
        from extractors import timm_tower

        network = self._network(self.preprocessing.size)
        execution = self.execution(device, threads)
        return timm_tower.load(network, self.form, self.output(), self.preprocessing, execution)

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the network, without the classifier, for images of its own size."""
        from extractors import timm_tower

        return timm_tower.build_network(self._network(None))

    def carried_facts(self) -> Mapping[str, Json]:
        """Return the data configuration of a tag."""
        return {_DATA: dict(self.facts.data)}
