"""What extractors with trained weights share: where the weights come from, and the way to fetch and verify them."""

from __future__ import annotations

import importlib
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from extractors.base import Extractor, ExtractorError, FetchedWeights, Model
from extractors.weights import HubTag, RandomWeights, Weights, fetched, parse


class Trained(Extractor):
    """An extractor whose network lives in `tower_module`, apart, so that describing it imports no torch.

    Class attributes
    ----------------
    tower_module:
        Module with `load(extractor, device, threads)` and `fetch(extractor, tag, directory)`.

    Options
    -------
    weights:
        A hub tag, a local file, or `random:<seed>`.
    sha256:
        Digest that the weights' file must have.
    """

    tower_module: ClassVar[str]

    weights: str
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")

    @model_validator(mode="after")
    def _pins_a_file(self) -> Self:
        if isinstance(self.source, RandomWeights) and self.sha256:
            raise ExtractorError("option 'sha256' pins a file; random weights have none")
        return self

    @cached_property
    def source(self) -> Weights:
        """The `weights` option, parsed."""
        return parse(self.weights)

    @property
    def random_weights(self) -> bool:
        """True for `random:<seed>`."""
        return isinstance(self.source, RandomWeights)

    @property
    def weights_of(self) -> str:
        """The model whose weights these are, as `weights.json` names it."""
        return self.name

    def _tower(self) -> Any:
        return importlib.import_module(self.tower_module)

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the tower on `device` and load its weights, strictly; downloads a tag not yet in the hub cache."""
        model: Model = self._tower().load(self, device, threads)
        return model

    def fetch(self, directory: Path) -> FetchedWeights | None:
        """Download a tag's weights as safetensors; None for files and random weights."""
        if not isinstance(self.source, HubTag):
            return None
        entry: FetchedWeights = self._tower().fetch(self, self.source.tag, directory)
        return entry

    def verify(self, directory: Path) -> FetchedWeights | None:
        """Check what `fetch` left: digest, and a strict load. None for files and random weights."""
        if not isinstance(self.source, HubTag):
            return None
        path, entry = fetched(directory, self.name, self.weights_of, self.source.tag)
        options = self.model_dump(exclude_unset=True) | {"weights": str(path), "sha256": entry.sha256}
        type(self).model_validate(options).load("cpu")
        return entry
