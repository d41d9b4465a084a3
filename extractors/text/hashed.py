"""``hashed``: character n-grams, hashed and projected. No weights, no network, the same bytes on every machine.

The encoder of demonstrations and tests: strings that share words get similar vectors, but it knows no meanings.

All arithmetic before the final division is on whole numbers, so that no order of summation can show: counts of
hashed n-grams (MurmurHash3 with alternating signs, scikit-learn's ``HashingVectorizer``) times a projection of signs ±1
(Dimitris Achlioptas, "Database-friendly random projections", 2003) drawn from SHAKE-256 of the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from extractors.base import Json
from extractors.text.base import TextEncoder, TextModel

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import HashingVectorizer

_BUCKETS = 1 << 14
_NGRAMS = (2, 4)
_TEXTS_AT_ONCE = 1024


class HashedText(TextEncoder):
    """Options of the ``hashed`` text encoder.

    Attributes
    ----------
    size
        Numbers in a vector.
    seed
        Random seed of the projection.
    """

    name: ClassVar[str] = "hashed"
    version: ClassVar[int] = 1

    size: Annotated[int, Field(ge=1, le=4096)] = 256
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def spec(self) -> dict[str, Json]:
        """Return the spec, which has no weights."""
        return {
            "encoder": self.name,
            "version": self.version,
            "analyzer": "char_wb",
            "ngrams": list(_NGRAMS),
            "buckets": _BUCKETS,
            "size": self.size,
            "seed": self.seed,
            "normalise": "l2",
            "weights": None,
        }

    @property
    def dim(self) -> int:
        return self.size

    def load(self, device: str = "cpu", threads: int | None = None) -> TextModel:
        """Draw the projection. The model runs on the CPU, whatever the device."""
        return _Hashed(self.size, self.seed)


class _Hashed(TextModel):
    """Counts of hashed n-grams times a projection."""

    def __init__(self, size: int, seed: int) -> None:
        self._vectorizer = _vectorizer()
        bits = np.frombuffer(hashlib.shake_256(str(seed).encode()).digest(_BUCKETS * size // 8), np.uint8)
        # [buckets, size] of -1 and 1
        self._signs = np.unpackbits(bits).reshape(_BUCKETS, size).astype(np.int32) * 2 - 1

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return ``[N, size] float32`` vectors of length 1; the vector of an empty text is all zeros."""
        vectors = np.empty((len(texts), self._signs.shape[1]), np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk = texts[start : start + _TEXTS_AT_ONCE]
            counts = self._vectorizer.transform(chunk).astype(np.int32)
            projected = (counts @ self._signs).astype(np.float64)
            length = np.sqrt((projected**2).sum(axis=1, keepdims=True))
            vectors[start : start + len(chunk)] = projected / np.where(length == 0, 1, length)
        return vectors

    def numerics(self) -> dict[str, Json]:
        """Return nothing: whole numbers have no last bits."""
        return {}


def _vectorizer() -> HashingVectorizer:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=_NGRAMS, n_features=_BUCKETS, norm=None)
