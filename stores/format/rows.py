"""One feature row, its digest, and the receipt of a finished shard."""

from __future__ import annotations

import builtins
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from . import layout
from .rounding import RoundingError

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """What one extractor says of one video.

    Attributes
    ----------
    key : video key.
    cache_key : 32 bytes, hash of (content id, clip bounds, spec digest).
    values : ``[T, *step_shape]`` in the stored dtype.
    time_s : ``[T] float64``, real time of each step in seconds from the start of the clip or video.
    valid : ``[T] bool``, False where a step is padding.
    duration_s : length of the clip or video in seconds.
    clip_start_s : where the clip starts in its source, in seconds; 0 for whole videos.
    published_time_s : ``[T] float64`` or None, the times that a published recipe claims.
    media : JSON-able record of the streams used and of how they were decoded.
    """

    key: str
    cache_key: bytes
    values: Array
    time_s: Array
    valid: Array
    duration_s: float
    clip_start_s: float = 0.0
    published_time_s: Array | None = None
    media: Mapping[str, Any] = field(default_factory=dict)


def row_digest(values: Array, time_s: Array, valid: Array, published_time_s: Array | None) -> bytes:
    """sha256 over everything a trainer reads of a row: values, times and mask, with their types."""
    hasher = hashlib.sha256()
    parts = (values, time_s, valid) if published_time_s is None else (values, time_s, valid, published_time_s)
    for part in parts:
        hasher.update(f"{part.dtype.str}{part.shape}".encode())
        hasher.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
    return hasher.digest()


def record_digest(digest: bytes, key: bytes, cache_key: bytes, clip: tuple[float, float], media: bytes) -> bytes:
    """sha256 over a row digest and all that is kept beside the row; ``clip`` is (start, duration) in seconds."""
    hasher = hashlib.sha256(digest + cache_key + struct.pack("<ddI", *clip, len(key)) + key)
    hasher.update(media)
    return hasher.digest()


class DatasetPlace(BaseModel):
    """Where a dataset lies in a shard file: contiguous, unfiltered, C order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Receipt(BaseModel):
    """What a finished shard leaves beside its file: enough to read it without HDF5, and to adopt it.

    ``spec`` is kept whole, so that a lost file under ``specs/`` can be restored (the file calls it ``recipe``, and
    ``spec_digest`` ``spec``). ``rounding`` says what was
    measured while the rows were computed; it is no part of their numerics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    feature: str
    spec_digest: str = Field(validation_alias="spec", serialization_alias="spec")
    spec: Mapping[str, Any] = Field(validation_alias="recipe", serialization_alias="recipe")
    rows: int
    ragged: bool
    bytes: int
    sha256: str
    datasets: Mapping[str, DatasetPlace]
    numerics: Mapping[str, Any]
    format_version: int
    rounding: Mapping[str, RoundingError] = {}

    def encode(self) -> builtins.bytes:
        """The bytes of its file, sealed against flipped bits."""
        return layout.seal(self.model_dump_json(indent=1, by_alias=True).encode())
