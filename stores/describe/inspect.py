"""What a store holds, told as JSON-able values."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import MissingKeyError, StoreDamageError
from ..format import layout, schemas
from ..format.rounding import RoundingError, pooled
from ..format.segments import SegmentLog
from ..format.shard import read_receipt
from ..store import Store


def describe_store(store: Store) -> dict[str, Any]:
    """Features with shape, dtype, size and numerics; tables; every missing row."""
    features = {}
    for name, info in store.features.items():
        spec = store.spec(name)
        entry = store.manifest.spec_entry(name, info.spec_digest)
        used = SegmentLog(store.path, entry.index, schemas.INDEX).table().column("shard").unique()
        shards = SegmentLog(store.path, entry.shards, schemas.SHARDS).table()
        shards = shards.filter(pc.is_in(shards.column("key").cast(pa.binary(16)), value_set=used))
        features[name] = {
            "spec": info.spec_digest,
            "rows": info.rows,
            "shape": ["T" if spec.get("steps") is None else spec["steps"], *spec.get("step_shape", [])],
            "dtype": spec.get("dtype", ""),
            "bytes": sum(shards.column("bytes").to_pylist()),
            "shards": shards.num_rows,
            "random_weights": bool(spec.get("random_weights")),
            "weights": _kind_of_weights(spec),
            "numerics": store.numerics(name),
            "rounding": {kind: error.model_dump() for kind, error in rounding_errors(store, name).items()},
            "older_specs": sorted(spec for spec in store.manifest.features[name].specs if spec != info.spec_digest),
        }
    return {
        "path": str(store.path),
        "version": store.version,
        "features": features,
        "tables": {name: entry.rows for name, entry in sorted(store.manifest.tables.items())},
        "stale": {name: list(store.stale(name)) for name in store.tables if store.stale(name)},
        "failures": store.failures().to_pylist(),
    }


def weights_of(spec: dict[str, Any]) -> Any:
    """What a recipe says of its model's weights; None where it has none."""
    model = spec.get("model")
    return model.get("weights") if isinstance(model, dict) else None


def _kind_of_weights(spec: dict[str, Any]) -> str:
    """``random | imported | trained``, or ``none`` for a recipe that has no weights."""
    if spec.get("random_weights"):
        return "random"
    if spec.get("external"):
        return "imported"
    return "none" if weights_of(spec) is None else "trained"


def rounding_errors(store: Store, name: str) -> dict[str, RoundingError]:
    """Measured error of a feature's present rows against float32, by kind; empty where none was measured.

    Receipts that cannot be read do not count: `verify` tells of them.
    """
    spec = store.features[name].spec_digest
    entry = store.manifest.spec_entry(name, spec)
    index = SegmentLog(store.path, entry.index, schemas.INDEX).table()
    directory = layout.feature_directory(store.path, name, spec)
    found: dict[str, list[RoundingError]] = {}
    for shard in sorted(index.column("shard").unique().to_pylist()):
        with suppress(StoreDamageError):
            for kind, error in read_receipt(directory / f"{shard.hex()}.json").rounding.items():
                found.setdefault(kind, []).append(error)
    return {kind: pooled(errors) for kind, errors in sorted(found.items())}


def describe_key(store: Store, key: str) -> dict[str, Any]:
    """One video key's story: its row in every feature, or why there is none.

    Raises
    ------
    MissingKeyError
        If no feature has heard of the key.
    """
    failures = [record for record in store.failures().to_pylist() if record["video_id"] == key]
    rows = {}
    for name, info in store.features.items():
        if (name, key) not in store:
            continue
        clip_start, duration = store.clip(name, key)
        published = store.published_times(name, key)
        shape, dtype = store.shape(name, key)
        shard, row = store.place(name, key)
        rows[name] = {
            "spec": info.spec_digest,
            "shape": list(shape),
            "dtype": dtype,
            "row_digest": store.digest(name, key),
            "shard": shard,
            "row": row,
            "clip_start_s": clip_start,
            "duration_s": duration,
            "time_s": store.times(name, key).tolist(),
            "published_time_s": None if published is None else published.tolist(),
            "valid": store.valid(name, key).tolist(),
            "media": store.media(name, key),
        }
    if not rows and not failures:
        raise MissingKeyError(
            f"{store.path}: no feature has a row or a failure of key {key!r} in version {store.version}"
        )
    return {"key": key, "version": store.version, "rows": rows, "failures": failures}
