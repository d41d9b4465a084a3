"""Columns of the logs that a manifest names."""

from __future__ import annotations

import pyarrow as pa

from .segments import log_schema

# One row per video key of a feature's spec: which shard holds it, at which position.
INDEX = log_schema(
    [
        pa.field("shard", pa.binary(16), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("cache_key", pa.binary(32), nullable=False),
    ]
)

# One row per shard; ``key`` is the shard's id (16 bytes).
SHARDS = log_schema(
    [
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("numerics", pa.string(), nullable=False),
    ]
)

# One row per source file; ``key`` is its URI. Lets an unchanged tree cost one stat per file.
SOURCES = log_schema(
    [
        pa.field("size", pa.int64(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
    ]
)

# One row per (feature, spec, video) that could not be stored; ``key`` joins the three with NULs.
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


def failure_key(feature: str, spec: str, video_id: str) -> bytes:
    return f"{feature}\0{spec}\0{video_id}".encode()
