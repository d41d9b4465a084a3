"""A feature row, its digests, and the receipt of a finished shard."""

from __future__ import annotations

import builtins
import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

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

    offset: int = Field(ge=0)
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str = Field(pattern=r"^(\|[bui]1|[<>][iuf][248])$")

    @property
    def nbytes(self) -> int:
        """Size of the dataset in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


_OPTIONAL = frozenset({"published_time_s"})
"""Datasets that not every shard has."""


def _columns(rows: int, steps: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of each dataset beside the values; the empty shape for one of any length."""
    texts = dict.fromkeys(("keys", "media"), ((), "|u1"))
    offsets = dict.fromkeys(("key_offset", "media_offset"), ((rows + 1,), "<i8"))
    digests = dict.fromkeys(("cache_key", "row_digest", "record_digest"), ((rows, 32), "|u1"))
    seconds = dict.fromkeys(("duration_s", "clip_start_s"), ((rows,), "<f8"))
    times = dict.fromkeys(("time_s", "published_time_s"), (steps, "<f8"))
    return {**texts, **offsets, **digests, **seconds, **times, "valid": (steps, "|u1")}


class Receipt(BaseModel):
    """The file beside a finished shard: enough to read the shard without HDF5, and to adopt it after a crash.

    The whole spec is included, so that a lost file under ``specs/`` can be restored. In the file, ``spec`` is called
    ``recipe`` and ``spec_digest`` is called ``spec``. ``rounding`` holds the errors measured while the rows were
    computed, by kind; they do not belong to the numerics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    feature: str
    spec_digest: str = Field(validation_alias="spec", serialization_alias="spec", pattern=r"^[0-9a-f]{64}$")
    spec: Mapping[str, Any] = Field(validation_alias="recipe", serialization_alias="recipe")
    rows: int = Field(ge=0)
    ragged: bool
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    datasets: Mapping[str, DatasetPlace]
    numerics: Mapping[str, Any]
    format_version: int
    rounding: Mapping[str, RoundingError] = {}

    @model_validator(mode="after")
    def _check_places(self) -> Receipt:
        """Refuse places that are not those of such a shard: whoever maps the file trusts them."""
        values = self.datasets.get("values")
        if values is None or len(values.shape) < (1 if self.ragged else 2):
            raise ValueError("it has no dataset of values")
        steps = values.shape[:1] if self.ragged else (self.rows, values.shape[1])
        expected = _columns(self.rows, steps)
        if self.ragged:
            expected["offset"] = ((self.rows + 1,), "<i8")
        beside = set(self.datasets) - {"values"}
        if not set(expected) - _OPTIONAL <= beside <= set(expected):
            raise ValueError("its datasets are not those of a shard")
        for name, place in self.datasets.items():
            shape, dtype = expected.get(name, (values.shape, values.dtype))
            if place.dtype != dtype or (place.shape != shape if shape else len(place.shape) != 1):
                raise ValueError(f"dataset {name!r} has another form than in a shard")
            if place.offset % np.dtype(place.dtype).itemsize or place.offset + place.nbytes > self.bytes:
                raise ValueError(f"dataset {name!r} does not lie within its file")
        if values.shape[: len(steps)] != steps:
            raise ValueError("it states another number of rows than its values have")
        return self

    def encode(self) -> builtins.bytes:
        """Return the content of its file, sealed against flipped bits."""
        return layout.seal(self.model_dump_json(by_alias=True).encode())
