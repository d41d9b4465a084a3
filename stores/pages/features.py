"""What a page says of a feature: its spec in words, and how durations, valid steps and norms are distributed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from ..describe.coverage import PlanCoverage
from ..describe.inspect import FeatureDescription
from ..describe.origins import locate
from ..format.media_damage import MediaDamage
from ..format.rounding import RoundingError
from ..format.rows import Array
from ..store import Store
from . import charts
from .words import spec_in_words

SAMPLED = 1000
"""Durations and masks come from at most this many rows of a feature."""
NORM_ROWS, NORM_BYTES = 200, 64 << 20
"""Norms come from at most this many of these rows, and bytes of values."""


def sample(count: int, most: int) -> list[int]:
    """Return at most ``most`` positions, evenly spaced over ``count``."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(count, most), dtype=np.int64)).tolist() if count else []
    return places


def describe(store: Store, name: str, feature: FeatureDescription, plan: PlanCoverage | None) -> dict[str, Any]:
    """Return what the pages show of a feature."""
    index = store.index(name).column("key")
    keys: list[str] = index.take(pa.array(sample(len(index), SAMPLED), pa.int64())).cast(pa.large_string()).to_pylist()
    masks = [store.valid(name, key) for key in keys]
    steps = sum(map(len, masks))
    measured, norms = _norms(store, name, keys)
    return {
        **feature,
        "name": name,
        "plan": plan,
        "shape": " × ".join(map(str, feature["shape"])),
        "words": spec_in_words(store.spec(name)),
        "spec_text": json.dumps(store.spec(name), indent=1, sort_keys=True, ensure_ascii=False),
        "numerics": [sorted(numerics.items()) for numerics in feature["numerics"]],
        "rounding": {kind: str(RoundingError(**error)) for kind, error in feature["rounding"].items()},
        "damage": MediaDamage(**feature["media_damage"]),
        "sampled": len(keys),
        "measured": measured,
        "padding": 1 - sum(int(mask.sum()) for mask in masks) / steps if steps else 0.0,
        "charts": _charts(store, name, keys, masks, norms),
    }


def _charts(
    store: Store, name: str, keys: Sequence[str], masks: Sequence[Array], norms: Array
) -> list[tuple[str, Markup]]:
    """Return each distribution with its heading, of those that are known."""
    durations = [seconds for key in keys if not math.isnan(seconds := store.clip(name, key)[1])]
    told: list[tuple[str, Any, str, str]] = [
        ("Rows by duration of the video or clip", durations, "durations", "s"),
        ("Rows by valid steps", [int(mask.sum()) for mask in masks], "valid steps", "steps"),
        ("Valid steps by L2 norm", norms, "norms", ""),
    ]
    return [(title, charts.histogram(values, what, unit)) for title, values, what, unit in told if len(values)]


def _norms(store: Store, name: str, keys: Sequence[str]) -> tuple[int, Array]:
    """Return how many rows were measured, and the L2 norm of each of their valid steps that is finite."""
    if not keys:
        return 0, np.empty(0)
    shape, dtype = store.shape(name, keys[0])
    row_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    chosen = [keys[place] for place in sample(len(keys), max(1, min(NORM_ROWS, NORM_BYTES // row_bytes)))]
    norms = [step_norms(store, name, key) for key in chosen]
    found = np.concatenate(norms)
    return len(chosen), found[np.isfinite(found)]


def step_norms(store: Store, name: str, key: str) -> Array:
    """Return the L2 norm of each valid step of a row, ``[valid] float64``."""
    reader, row = locate(store, name, key)
    values = reader.values(row)
    flat = values[store.valid(name, key)].reshape(-1, math.prod(values.shape[1:])).astype(np.float64)
    norms: Array = np.sqrt(np.einsum("ij,ij->i", flat, flat))
    return norms


def similarity(values: Array) -> Array:
    """Return the cosine of every two steps of a row ``[T, ...]``, ``[T, T] float32``; 0 where a step is zero."""
    flat = np.nan_to_num(values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float32))
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)
    cosines: Array = unit @ unit.T
    return cosines
