"""What a store holds, told as JSON-able values."""

from __future__ import annotations

from typing import Any

from stores import schemas
from stores.errors import MissingKeyError
from stores.segments import SegmentLog
from stores.store import Store


def describe_store(store: Store) -> dict[str, Any]:
    """Features with shape, dtype, size and numerics; tables; every missing row."""
    features = {}
    for name, info in store.features.items():
        spec = store.spec(name)
        entry = store.manifest.spec_entry(name, info.spec)
        shards = SegmentLog(store.path, entry.shards, schemas.SHARDS).table()
        features[name] = {
            "spec": info.spec,
            "rows": info.rows,
            "shape": ["T" if spec.get("steps") is None else spec["steps"], *spec.get("step_shape", [])],
            "dtype": spec.get("dtype", ""),
            "bytes": sum(shards.column("bytes").to_pylist()),
            "shards": shards.num_rows,
            "random_weights": bool(spec.get("random_weights")),
            "weights": "random" if spec.get("random_weights") else "imported" if spec.get("external") else "trained",
            "numerics": store.numerics(name),
            "older_specs": sorted(spec for spec in store.manifest.features[name].specs if spec != info.spec),
        }
    return {
        "path": str(store.path),
        "version": store.version,
        "features": features,
        "tables": {name: entry.rows for name, entry in sorted(store.manifest.tables.items())},
        "failures": store.failures().to_pylist(),
    }


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
            "spec": info.spec,
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
