"""Columns of the logs that a manifest names; ``docs/format.md`` section 6 gives the meaning of each."""

from __future__ import annotations

import pyarrow as pa

from .segments import log_schema

INDEX = log_schema(
    [
        pa.field("shard", pa.binary(16), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("cache_key", pa.binary(32), nullable=False),
    ]
)
"""The row index of a feature's spec, one record per video key: which shard holds its row, and at which position."""

SHARDS = log_schema(
    [
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("numerics", pa.string(), nullable=False),
    ]
)
"""The shard list of a feature's spec, one record per shard; ``key`` is the shard's id (16 bytes)."""

SOURCES = log_schema(
    [
        pa.field("size", pa.int64(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
    ]
)
"""One record per source file, so that an unchanged file costs one ``stat`` call; ``key`` is its URI."""

FAILURES = log_schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("feature", pa.string(), nullable=False),
        pa.field("spec", pa.string(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("permanent", pa.bool_(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
    ]
)
"""One record per row that could not be stored; ``key`` is made by ``failure_key``, ``spec`` is the spec digest."""


def failure_key(feature: str, spec_digest: str, video_id: str) -> bytes:
    """Return the key of a failure: its three parts, joined by NUL bytes."""
    return f"{feature}\0{spec_digest}\0{video_id}".encode()
