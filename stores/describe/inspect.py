"""Contents of a store, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import MissingKeyError, StoreDamageError
from ..format import MediaDamage, ShardReader, layout, media_damage, schemas
from ..format.indexed import rows_by_shard
from ..format.receipts import read_receipt
from ..format.rounding import RoundingError, pooled_by_kind
from ..format.segments import SegmentLog
from ..store import Store
from .coverage import Coverage, coverage

FailureRecord = TypedDict(
    "FailureRecord",
    {
        "video_id": str,
        "feature": str,
        "spec": str,
        "class": str,
        "permanent": bool,
        "attempts": int,
        "message": str,
        "uri": str,
        "content_id": str,
    },
)
"""A row of ``Store.failures``. ``spec`` is the spec digest, ``class`` the failure class."""


class FeatureDescription(TypedDict):
    """A feature under its current spec. ``shape`` begins with ``"T"`` if rows differ in length."""

    spec: str
    rows: int
    shape: list[str | int]
    dtype: str
    bytes: int
    shards: int
    random_weights: bool
    weights: str
    numerics: list[dict[str, Any]]
    rounding: dict[str, dict[str, Any]]
    media_damage: dict[str, int]
    older_specs: list[str]


class StoreDescription(TypedDict):
    """A version of a store. ``tables`` has the number of rows, ``stale`` the changed inputs, by table."""

    path: str
    version: int
    features: dict[str, FeatureDescription]
    coverage: Coverage
    tables: dict[str, int]
    stale: dict[str, list[str]]
    failures: list[FailureRecord]


class RowDescription(TypedDict):
    """One row. ``shard`` is the path of its shard relative to the store, ``row`` its position there.

    ``duration_s`` and ``time_s`` are None if they are not known.
    """

    spec: str
    shape: list[int]
    dtype: str
    row_digest: str
    shard: str
    row: int
    clip_start_s: float
    duration_s: float | None
    time_s: list[float] | None
    published_time_s: list[float] | None
    valid: list[bool]
    media: dict[str, Any]


class KeyDescription(TypedDict):
    """A video key: its rows by feature, and its failures."""

    key: str
    version: int
    rows: dict[str, RowDescription]
    failures: list[FailureRecord]


def describe_store(store: Store) -> StoreDescription:
    """Describe features (shape, dtype, size, numerics), tables and every missing row."""
    return {
        "path": str(store.path),
        "version": store.version,
        "features": {name: _describe_feature(store, name) for name in store.features},
        "coverage": coverage(store),
        "tables": {name: entry.rows for name, entry in sorted(store.manifest.tables.items())},
        "stale": {name: changes for name in store.tables if (changes := stale_changes(store, name))},
        "failures": store.failures().to_pylist(),
    }


def stale_changes(store: Store, name: str) -> list[str]:
    """Return what has changed since a table was built; if it has several parts, after the name of the part."""
    parts = store.parts(name)
    return [f"{part}: {change}" if len(parts) > 1 else change for part in parts for change in store.stale(name, part)]


def _describe_feature(store: Store, name: str) -> FeatureDescription:
    info = store.features[name]
    spec = store.spec(name)
    entry = store.manifest.spec_entry(name, info.spec_digest)
    used = store.index(name).column("shard").unique()
    shards = SegmentLog(store.path, entry.shards, schemas.SHARDS).table()
    shards = shards.filter(pc.is_in(shards.column("key").cast(pa.binary(16)), value_set=used))
    return {
        "spec": info.spec_digest,
        "rows": info.rows,
        "shape": ["T" if spec.get("steps") is None else spec["steps"], *spec.get("step_shape", [])],
        "dtype": spec.get("dtype", ""),
        "bytes": sum(shards.column("bytes").to_pylist()),
        "shards": shards.num_rows,
        "random_weights": bool(spec.get("random_weights")),
        "weights": _origin_of_weights(spec),
        "numerics": store.numerics(name),
        "rounding": {kind: error.model_dump() for kind, error in rounding_errors(store, name).items()},
        "media_damage": count_media_damage(store, name).model_dump(),
        "older_specs": sorted(digest for digest in store.manifest.features[name].specs if digest != info.spec_digest),
    }


def weights_of(spec: Mapping[str, Any]) -> object:
    """Return what a spec says about the weights of its model; None if it has none."""
    model = spec.get("model")
    return model.get("weights") if isinstance(model, dict) else None


def _origin_of_weights(spec: Mapping[str, Any]) -> str:
    """Return ``random``, ``imported``, ``trained``, or ``none`` for a spec without weights."""
    if spec.get("random_weights"):
        return "random"
    if spec.get("external"):
        return "imported"
    return "none" if weights_of(spec) is None else "trained"


def rounding_errors(store: Store, name: str) -> dict[str, RoundingError]:
    """Return the measured errors of a feature's present rows against float32, by kind; empty if none were measured.

    Receipts that cannot be read are left out; ``verify`` reports them.
    """
    spec_digest = store.features[name].spec_digest
    directory = layout.feature_directory(store.path, name, spec_digest)
    by_kind: dict[str, list[RoundingError]] = {}
    for shard in sorted(store.index(name).column("shard").unique().to_pylist()):
        with suppress(StoreDamageError):
            for kind, error in read_receipt(directory / f"{shard.hex()}.json").rounding.items():
                by_kind.setdefault(kind, []).append(error)
    return pooled_by_kind(by_kind)


def count_media_damage(store: Store, name: str) -> MediaDamage:
    """Count the rows of a feature whose videos were damaged or cut short. Shards that cannot be read are left out."""
    spec_digest = store.features[name].spec_digest
    directory = layout.feature_directory(store.path, name, spec_digest)
    total = MediaDamage()
    for shard, rows in sorted(rows_by_shard(store.index(name)).items()):
        path = directory / f"{shard.hex()}.h5"
        with suppress(StoreDamageError):
            reader = ShardReader(path, read_receipt(path.with_suffix(".json")), check_header=False)
            total += media_damage(reader, np.unique(rows.numbers).tolist())
            reader.close()
    return total


def describe_key(store: Store, key: str) -> KeyDescription:
    """Describe one video key: its row in every feature, or why it has none.

    Raises
    ------
    MissingKeyError
        If no feature has a row or a failure for the key.
    """
    failures: list[FailureRecord] = [record for record in store.failures().to_pylist() if record["video_id"] == key]
    rows = {name: _describe_row(store, name, key) for name in store.features if (name, key) in store}
    if not rows and not failures:
        raise MissingKeyError(
            f"{store.path}: no feature has a row or a failure for key {key!r} in version {store.version}"
        )
    return {"key": key, "version": store.version, "rows": rows, "failures": failures}


def _describe_row(store: Store, name: str, key: str) -> RowDescription:
    clip_start, duration = store.clip(name, key)
    times, published = store.times(name, key), store.published_times(name, key)
    shape, dtype = store.shape(name, key)
    shard, row = store.place(name, key)
    return {
        "spec": store.features[name].spec_digest,
        "shape": list(shape),
        "dtype": dtype,
        "row_digest": store.digest(name, key),
        "shard": shard,
        "row": row,
        "clip_start_s": clip_start,
        "duration_s": None if math.isnan(duration) else duration,
        "time_s": None if np.isnan(times).any() else times.tolist(),
        "published_time_s": None if published is None else published.tolist(),
        "valid": store.valid(name, key).tolist(),
        "media": store.media(name, key),
    }
