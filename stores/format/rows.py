"""A feature row, its digests, and the receipt of a finished shard."""

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
EXTERNAL = "external"
"""The extractor of imported rows."""
UNKNOWN = "unknown"
"""What a media record says of the ``times`` or the ``duration`` of a row if they are not known."""


@dataclass(frozen=True, slots=True)
class Row:
    """One feature of one video.

    Attributes
    ----------
    key
        Video key.
    cache_key
        32 bytes: hash of content id, clip bounds and spec digest.
    values
        ``[T, *step_shape]`` in the stored dtype.
    time_s
        ``[T] float64``: real time of each step in seconds from the start of the clip or video; NaN if unknown.
    valid
        ``[T] bool``: False where a step is padding.
    duration_s
        Length of the clip or video in seconds; NaN if unknown.
    clip_start_s
        Start of the clip in its source in seconds; 0 for whole videos.
    published_time_s
        ``[T] float64``: the times that a published recipe states for its steps, or None.
    media
        Record of the streams used and of how they were decoded, as JSON values.
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
    """Return the sha256 over everything that a trainer reads of a row: values, times and mask, with their dtypes."""
    hasher = hashlib.sha256()
    parts = (values, time_s, valid) if published_time_s is None else (values, time_s, valid, published_time_s)
    for part in parts:
        hasher.update(f"{part.dtype.str}{part.shape}".encode())
        hasher.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
    return hasher.digest()


def record_digest(digest: bytes, key: bytes, cache_key: bytes, clip: tuple[float, float], media: bytes) -> bytes:
    """Return the sha256 over a row digest and all that is kept beside the row.

    ``clip`` is (start in the source, duration) in seconds.
    """
    hasher = hashlib.sha256(digest + cache_key + struct.pack("<ddI", *clip, len(key)) + key)
    hasher.update(media)
    return hasher.digest()


class DatasetPlace(BaseModel):
    """Place of a dataset in a shard file: contiguous, unfiltered, in C order. ``offset`` is in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size of the dataset in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Receipt(BaseModel):
    """The file beside a finished shard: enough to read the shard without HDF5, and to adopt it after a crash.

    The whole spec is included, so that a lost file under ``specs/`` can be restored. In the file, ``spec`` is called
    ``recipe`` and ``spec_digest`` is called ``spec``. ``rounding`` holds the errors measured while the rows were
    computed, by kind; they do not belong to the numerics.
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
        """Return the content of its file, sealed against flipped bits."""
        return layout.seal(self.model_dump_json(by_alias=True).encode())
