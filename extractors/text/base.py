"""The contract of text encoders: a frozen description that loads into a model, strings in, one vector each out.

The built-in encoders are `clip` (text tower of any open_clip model), `sentence` (a transformers sentence encoder) and
`hashed` (no weights); `package.module:Class` names one of the user's own, a subclass of `TextEncoder`. Describing an
encoder imports no torch; `load()` does.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from extractors import registry
from extractors.base import Json

_ENTRIES = {
    "clip": "extractors.text.clip:ClipText",
    "hashed": "extractors.text.hashed:HashedText",
    "sentence": "extractors.text.sentence:SentenceText",
}


class TextModel(ABC):
    """A loaded text encoder. Not picklable, not shared between threads."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed strings.

        Parameters
        ----------
        texts:
            N strings in any order; the empty string and repeated ones are welcome.

        Returns
        -------
        `[N, dim] float32`, row i for `texts[i]`. A row depends on its own text only, bit by bit: neither on its place,
        nor on the texts beside it, nor on how they are split over calls.

        Raises
        ------
        ModelOutputError:
            The model returned values that are not finite; names the texts.
        """

    @abstractmethod
    def numerics(self) -> dict[str, Json]:
        """Everything but the recipe that can move the last bits of what `encode` returned so far."""


class TextEncoder(BaseModel, ABC):
    """Options of one text encoder, validated and frozen.

    Class attributes
    ----------------
    name:
        The name in configurations and specs.
    version:
        Raised whenever this code changes the numbers it produces; part of the spec.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int]

    @abstractmethod
    def spec(self) -> dict[str, Json]:
        """The recipe, the identity of the weights included: equal specs promise equal vectors on equal numerics.

        Raises
        ------
        WeightsError:
            A weights file cannot be read or is not the pinned one.
        """

    @property
    @abstractmethod
    def dim(self) -> int:
        """Numbers in a vector."""

    @property
    def random_weights(self) -> bool:
        """True if the network is not trained: logs and cards warn."""
        return False

    @abstractmethod
    def load(self, device: str, threads: int | None = None) -> TextModel:
        """Load the weights on a torch device, `cpu` or `cuda`; `threads` are CPU threads, None torch's own number.

        Raises
        ------
        WeightsError:
            The weights cannot be had or do not fit.
        """

    @property
    def digest(self) -> str:
        """sha256 of the spec's canonical JSON, hexadecimal."""
        text = json.dumps(self.spec(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def text_encoder_names() -> list[str]:
    """The built-in text encoders, sorted."""
    return sorted(_ENTRIES)


def build_text_encoder(name: str, options: Mapping[str, Any]) -> TextEncoder:
    """Build the text encoder `name` from its options.

    Raises
    ------
    ExtractorError:
        The name is unknown or an option is; one line that names it and, where there is one, the nearest right word.
    """
    # mypy does not take an abstract class for `type[T]`
    cls: type[TextEncoder] = registry.find(TextEncoder, "text encoder", _ENTRIES, name)  # type: ignore[type-abstract]
    return registry.build_named(cls, name, options)
