"""What text encoders with a network share: texts of equal length go through it in micro-batches of one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from extractors.base import Json, Model
from extractors.batching import MicroBatcher
from extractors.text.base import TextModel

MICRO_BATCH = 32
LENGTH_STEP = 8

Tokenize: TypeAlias = Callable[[Sequence[str]], list[NDArray[np.int64]]]


class TokenTextModel(TextModel):
    """A network over token ids, run under the rules of ``extractors.batching``.

    Most strings are far shorter than the context that networks were made for. Each is therefore padded to a length that
    follows from its text alone, and texts of one length share micro-batches.

    Parameters
    ----------
    tokenize
        Turns texts into their padded ids, ``int64 [L_i]`` each.
    model
        Turns ids ``int64 [M, L]`` into ``float32 [M, dim]``.
    """

    def __init__(self, tokenize: Tokenize, model: Model) -> None:
        self._tokenize = tokenize
        self._model = model
        self._batchers: dict[int, MicroBatcher] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return ``[N, dim] float32`` vectors; each distinct text is computed once."""
        place = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        unique = list(place)
        by_length: dict[int, list[tuple[str, NDArray[np.int64]]]] = {}
        for text, ids in zip(unique, self._tokenize(unique), strict=True):
            by_length.setdefault(len(ids), []).append((text, ids[np.newaxis]))
        vectors = np.empty((len(unique), *self._model.output.step_shape), np.float32)
        for length, rows in sorted(by_length.items()):
            batcher = self._batchers.setdefault(length, MicroBatcher(self._model, MICRO_BATCH))
            for text, vector in batcher.run(rows):
                vectors[place[text]] = vector[0]
        return vectors[[place[text] for text in texts]]

    def numerics(self) -> dict[str, Json]:
        """Return the network's numerics and the smallest micro-batch that memory allowed."""
        sizes = [batcher.micro_batch for batcher in self._batchers.values()]
        return {**self._model.numerics(), "micro_batch": min(sizes, default=MICRO_BATCH)}


def padded_length(tokens: int, limit: int) -> int:
    """Return the length to pad a number of tokens to: the next multiple of ``LENGTH_STEP``, at most ``limit``."""
    return min(-(-tokens // LENGTH_STEP) * LENGTH_STEP, limit)
