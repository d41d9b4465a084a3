"""Small rows, shards and stores for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stores import Store
from stores.commit import Changes, commit, create_store, place_shard, write_spec
from stores.format.inside import StorePath
from stores.format.manifest import Manifest
from stores.format.rows import Receipt, Row
from stores.format.shard import ShardWriter

SPEC = {"name": "demo", "steps": 3, "step_shape": [4], "dtype": "float16"}
OTHER_SPEC = {**SPEC, "revision": 2, "scale": 1e-05, "note": "é"}
NUMERICS = {"device": "cpu", "micro_batch": 4, "threads": 1}


def cache_key(key: str, content: int = 0) -> bytes:
    return hashlib.sha256(f"{key}\0{content}".encode("utf-8", "surrogatepass")).digest()


def row(
    key: str,
    content: int = 0,
    steps: int = 3,
    step_shape: tuple[int, ...] = (4,),
    dtype: Any = np.float16,
    published: bool = False,
    media: Mapping[str, Any] | None = None,
) -> Row:
    """Return a row whose values depend on its key and content only."""
    seed = int.from_bytes(cache_key(key, content)[:8], "little")
    generator = np.random.default_rng(seed)
    times = np.arange(steps, dtype=np.float64) / 3
    return Row(
        key=key,
        cache_key=cache_key(key, content),
        values=generator.standard_normal((steps, *step_shape)).astype(dtype),
        time_s=times,
        valid=np.arange(steps) % 3 != 2,
        duration_s=steps / 3,
        clip_start_s=0.5,
        published_time_s=times + 0.25 if published else None,
        media={"stream": 0, "codec": "h264"} if media is None else media,
    )


def write_shard(
    root: Path,
    rows: Iterable[Row],
    feature: str = "demo",
    spec: Mapping[str, Any] = SPEC,
    numerics: Mapping[str, Any] = NUMERICS,
) -> Receipt:
    writer = ShardWriter(root, feature, write_spec(root, spec), numerics)
    try:
        for new_row in rows:
            writer.add(new_row)
        return writer.finish()
    finally:
        writer.discard()


def changes_of(root: Path, receipt: Receipt, **more: Any) -> Changes:
    placed = place_shard(root, receipt)
    return Changes(placed=placed, shards=[receipt], current={receipt.feature: receipt.spec_digest}, **more)


def commit_rows(root: Path, rows: Iterable[Row], **where: Any) -> Manifest:
    return commit(root, changes_of(root, write_shard(root, rows, **where)))


def store_with(root: Path, *keys: str) -> Path:
    create_store(root)
    if keys:
        commit_rows(root, [row(key) for key in keys])
    return root


def row_digests(root: Path) -> dict[tuple[str, str], str]:
    """Return the row digests of the latest version by (feature, key)."""
    with Store.open(root, lease=False) as store:
        return {(name, key): store.digest(name, key) for name in store.features for key in store.keys(name)}


def files_under(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def inside(path: Path) -> StorePath:
    """Return a file of a feature or table, as a path of its store."""
    return StorePath(path.parents[2], path.parts[-3:])


def flip(path: Path, bit: int) -> None:
    """Invert one bit of a file in place."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)


def staged_is_empty(root: Path) -> bool:
    return not any((root / "staging").iterdir())
