"""What extractors with trained weights share: where the weights come from, and how to fetch and verify them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from extractors import tensors
from extractors.base import Execution, Extractor, ExtractorError, FetchedWeights, Json
from extractors.dtypes import ComputeDtype, spec_entry, used_on
from extractors.preprocess import Preprocessing
from extractors.weights import HubTag, PinnedWeights, RandomWeights, Weights, WeightsFile, parse

if TYPE_CHECKING:
    import torch
    from torch import nn


class Trained(Extractor):
    """An extractor whose network has trained weights.

    The network lives in a module of its own, the tower, which ``load`` and ``build_network`` import when they are
    called: describing the extractor then imports no torch. A tower takes plain values and value objects, never the
    extractor itself, so that neither module needs the other to be imported.

    Attributes
    ----------
    weights
        A hub tag, a ``.safetensors`` or torch file, or ``random:<seed>``.
    sha256
        Digest that the weights file must have.
    compute_dtype
        ``float32``, ``float16`` or ``bfloat16``, or ``auto``: float16 on GPUs, float32 on CPUs. For a half type the
        weights are cast once, and everything between the layers is kept in it, too.
    compile
        Run the network through ``torch.compile``; part of the numerics, not of the spec.
    """

    weights: str
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    compute_dtype: ComputeDtype = "float32"
    compile: bool = False

    @field_validator("weights")
    @classmethod
    def _canonical_weights(cls, value: str) -> str:
        source = parse(value)
        return str(source.path) if isinstance(source, WeightsFile) else value

    @model_validator(mode="after")
    def _pins_a_file(self) -> Self:
        if isinstance(self.source, RandomWeights) and self.sha256:
            raise ExtractorError("option 'sha256' pins a file; random weights have none")
        return self

    @cached_property
    def source(self) -> Weights:
        """The ``weights`` option, parsed."""
        return parse(self.weights)

    @property
    def random_weights(self) -> bool:
        """True for ``random:<seed>``."""
        return isinstance(self.source, RandomWeights)

    @property
    def weights_of(self) -> str:
        """Name of the model whose weights these are, as ``weights.json`` lists it."""
        return self.name

    @property
    def pinned_weights(self) -> PinnedWeights:
        """The weights and their pin, as a tower takes them."""
        return PinnedWeights(self.weights_of, self.source, self.sha256)

    @property
    def compute_dtype_entry(self) -> Json:
        """What the spec says of ``compute_dtype``: the same on every machine."""
        return spec_entry(self.compute_dtype)

    def execution(self, device: str, threads: int | None) -> Execution:
        """Return how the network runs on a device, as a tower takes it."""
        return Execution(device, used_on(device, self.compute_dtype), threads, self.compile)

    @abstractmethod
    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the network on the CPU, as its weights were released, and load them strictly.

        Returns
        -------
        network
            Its ``state_dict`` is what ``fetch`` saves.
        sha256
            Digest of the file that the weights came from; None for random weights.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit.
        """

    def carried_facts(self) -> Mapping[str, Json]:
        """Return the facts that a fetched file carries in its header beside its model and tag."""
        return {}

    def fetch(self, directory: Path) -> FetchedWeights | None:
        """Download a tag's weights as safetensors; return None for files and random weights."""
        if not isinstance(self.source, HubTag):
            return None
        model, tag = self.weights_of, self.source.tag
        network, source_sha256 = self.build_network()
        return tensors.save(
            network.state_dict(),
            directory / f"{model}-{tag}.safetensors",
            {"model": model, "tag": tag, **self.carried_facts()},
            extractor=self.name,
            model=model,
            tag=tag,
            source_sha256=source_sha256 or "",
        )

    def verify(self, directory: Path) -> FetchedWeights | None:
        """Check the digest of what ``fetch`` left and load it strictly; return None for files and random weights."""
        if not isinstance(self.source, HubTag):
            return None
        path, entry = tensors.fetched(directory, self.name, self.weights_of, self.source.tag)
        options = self.model_dump(exclude_unset=True) | {"weights": str(path), "sha256": entry.sha256}
        type(self).model_validate(options).load("cpu")
        return entry


class ImageTower(Trained):
    """A trained extractor of single frames, which are resized and cropped as ``preprocessing`` says."""

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation."""

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(size, size, 3)``."""
        return (self.preprocessing.size, self.preprocessing.size, 3)

    def prepare(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Turn ``uint8 [N,H,W,3]`` into ``[N,size,size,3]``, 0..255, of the prepared dtype; the model normalises."""
        return self.preprocessing.apply(frames)

    def prepare_tensor(self, frames: torch.Tensor) -> torch.Tensor | None:
        """Turn ``uint8 [N,H,W,3]`` on any device into ``uint8 [N,size,size,3]`` there; None for floats."""
        return self.preprocessing.apply_tensor(frames) if self.preprocessing.rounded else None

    def preparation(self) -> Json:
        """Return the geometry."""
        return self.preprocessing.geometry()
