"""A seam in the text encoder of the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.text import TextModel
from extractors.text.hashed import HashedText

Callback = Callable[[int], None]


@pytest.fixture
def before_encoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callback], None]:
    """A function that has a callback called ahead of every chunk of strings, with the chunk's number from 1."""
    load = HashedText.load

    def install(callback: Callback) -> None:
        numbers = count(1)

        def load_observed(encoder: HashedText, device: str = "cpu", threads: int | None = None) -> TextModel:
            model = load(encoder, device, threads)
            encode = model.encode

            def encode_observed(texts: Sequence[str]) -> NDArray[np.float32]:
                callback(next(numbers))
                return encode(texts)

            monkeypatch.setattr(model, "encode", encode_observed)
            return model

        monkeypatch.setattr(HashedText, "load", load_observed)

    return install
