"""One HTML page about a store that opens in any browser, without network and without scripts."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..format import durable, layout
from ..format.inside import StorePath
from ..format.rounding import RoundingError
from ..joins import SPLIT_COLUMNS, rows_of_split, splits_of
from ..store import Store
from .coverage import PlanCoverage, percent
from .inspect import FeatureDescription, describe_store, stale_changes

SHOWN_FAILURES = 500
"""The page lists at most this many missing rows."""
_SAMPLED_ROWS = 1000
"""Durations and padding come from at most this many rows per feature."""
_BINS = 24
_TEMPLATE = Path(__file__).with_name("page.html.j2")


def write_page(store: Store) -> Path:
    """Write the page into the store in one step, and return its path."""
    root = StorePath.of(store.path)
    path = root / layout.REPORT
    durable.replace_file(path, root / layout.STAGING / f"{layout.new_id()}.html", render_page(store).encode())
    return path.path


def render_page(store: Store) -> str:
    """Return HTML: how much of what is wanted is there, how it was made, and what failed and why.

    Durations and padding are measured on at most 1,000 rows per feature, evenly spaced over its sorted keys; the page
    says how many. At most 500 missing rows are listed. All text from the dataset is escaped.
    """
    description = describe_store(store)
    failures = description["failures"]
    missing = Counter(failure["feature"] for failure in failures)
    plans = description["coverage"]["plan"]
    features = [
        _feature(store, name, feature, missing[name], plans.get(name))
        for name, feature in description["features"].items()
    ]
    classes = Counter((failure["feature"], failure["class"]) for failure in failures)
    import jinja2  # here, because cards and inspections need no templates

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        name=store.path.name,
        version=store.version,
        features=features,
        total_bytes=sum(feature["bytes"] for feature in description["features"].values()),
        tables=[_table(store, name) for name in store.tables],
        questions=_questions(store),
        splits=description["coverage"]["splits"],
        percent=percent,
        anomalies=_anomalies(store),
        failures=failures[:SHOWN_FAILURES],
        failure_count=len(failures),
        classes=[(feature, failure_class, count) for (feature, failure_class), count in sorted(classes.items())],
    )


def _feature(
    store: Store, name: str, feature: FeatureDescription, missing: int, plan: PlanCoverage | None
) -> dict[str, object]:
    """Return what the template shows of a feature."""
    keys = store.index(name).column("key")
    places = np.unique(np.linspace(0, len(keys) - 1, min(len(keys), _SAMPLED_ROWS), dtype=int))
    sample: list[str] = keys.take(pa.array(places)).cast(pa.large_string()).to_pylist()
    durations = [seconds for key in sample if not math.isnan(seconds := store.clip(name, key)[1])]
    valid = [store.valid(name, key) for key in sample]
    steps = sum(map(len, valid))
    return {
        **feature,
        "name": name,
        "missing": missing,
        "plan": plan,
        "shape": "×".join(map(str, feature["shape"])),
        "spec_text": json.dumps(store.spec(name), indent=1, sort_keys=True, ensure_ascii=False),
        "numerics": [json.dumps(numerics, sort_keys=True) for numerics in feature["numerics"]],
        "rounding": {kind: str(RoundingError(**error)) for kind, error in feature["rounding"].items()},
        "sampled": len(sample),
        "padding": 1 - sum(int(mask.sum()) for mask in valid) / steps if steps else 0.0,
        "durations": _histogram(durations),
    }


def _histogram(values: list[float]) -> dict[str, object] | None:
    """Return bars as (height from 0 to 1, label), and the range; None if there are no values."""
    if not values:
        return None
    counts, edges = np.histogram(values, bins=_BINS, range=(0, max(values) or 1.0))
    bars = [
        (count / counts.max(), f"{low:.1f} to {high:.1f} s: {count}")
        for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
    ]
    return {"bars": bars, "least": min(values), "median": float(np.median(values)), "most": max(values)}


def _table(store: Store, name: str) -> dict[str, object]:
    entry = store.manifest.tables[name]
    return {"name": name, "rows": entry.rows, "parts": list(store.parts(name)), "stale": stale_changes(store, name)}


def _questions(store: Store) -> list[tuple[str, str, int, int, str]]:
    """Return (dataset, split, number of questions, number of videos, number of questions per type)."""
    if "questions" not in store.tables:
        return []
    table = store.table("questions", columns=(*SPLIT_COLUMNS, "video_id", "type"))
    if not {*SPLIT_COLUMNS, "video_id", "type"} <= set(table.column_names):
        return []
    listed = []
    for dataset, split in splits_of(table):
        rows = rows_of_split(table, dataset, split)
        counts = Counter(question_type or "" for question_type in rows.column("type").to_pylist())
        types = ", ".join(f"{question_type or 'untyped'} {count}" for question_type, count in sorted(counts.items()))
        listed.append((dataset, split, rows.num_rows, len(rows.column("video_id").unique()), types))
    return listed


def _anomalies(store: Store) -> list[tuple[str, str, int]]:
    """Return (kind, code, number) of the anomalies in annotation files."""
    if "annotation_report" not in store.tables:
        return []
    table = store.table("annotation_report")
    counts = Counter(zip(table.column("kind").to_pylist(), table.column("code").to_pylist(), strict=True))
    return [(kind, code, count) for (kind, code), count in sorted(counts.items())]
