"""The contract of text encoders: a frozen description that loads into a model; strings in, one vector each out.

A new encoder is one file, as a new extractor is: subclass ``TextEncoder`` and ``TextModel``, then name it
``package.module:Class``. ``extractors.testing.check_text_encoder`` checks that it keeps the contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extractors.base import Description, Json, spec_digest


class TextModel(ABC):
    """A loaded text encoder. It cannot be pickled and is not shared between threads."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed strings.

        Parameters
        ----------
        texts
            N strings in any order. Empty and repeated strings are allowed.

        Returns
        -------
        vectors
            ``[N, dim] float32``, row i for ``texts[i]``. A row depends on its own text only, bit by bit: neither on its
            place, nor on the texts beside it, nor on how the texts are split over calls.

        Raises
        ------
        ModelOutputError
            If the model returns values that are not finite; it names the texts.
        """

    @abstractmethod
    def numerics(self) -> dict[str, Json]:
        """Return all that can move the last bits of what ``encode`` returned so far, beside the spec."""


class TextEncoder(Description):
    """Options of one text encoder."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Numbers in a vector."""

    @abstractmethod
    def load(self, device: str, threads: int | None = None) -> TextModel:
        """Load the weights.

        Parameters
        ----------
        device
            A torch device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads
            CPU threads of the network; None keeps the library's own number.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit.
        """

    @property
    def digest(self) -> str:
        """The spec digest: sha256 of the spec's canonical JSON, hexadecimal."""
        return spec_digest(self.spec())
