"""How much of what is wanted a store holds: of the last plan's rows, and of the questions of every split.

A failure is recorded only for what was tried. What was never tried is missing as well, so the number of failures says
nothing about completeness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from ..format import StorePath, events
from ..joins import SPLIT_COLUMNS, rows_of_split, splits_of
from ..store import Store

PLAN = "plan"
"""The event of ``events/*.jsonl`` by which an extraction says what it wants."""


class PlanCoverage(TypedDict):
    """Rows of one feature that the last plan of an extraction wanted, and how many of them are stored."""

    wanted: int
    stored: int


class _FeaturePlan(BaseModel):
    """What an extraction says of a feature: its spec digest, and numbers of rows."""

    spec: str
    wanted: int
    lacking: int
    rows: int


class _Plan(BaseModel):
    """What an extraction says of itself before it begins."""

    version: int
    features: Mapping[str, _FeaturePlan]


class SplitCoverage(TypedDict):
    """The questions and videos of a split, and by feature how many of them have a row."""

    dataset: str
    split: str
    questions: int
    videos: int
    questions_with: dict[str, int]
    videos_with: dict[str, int]


class Coverage(TypedDict):
    """Coverage of a version; ``plan`` lacks features that no plan has wanted (imported ones)."""

    plan: dict[str, PlanCoverage]
    splits: list[SplitCoverage]


def coverage(store: Store) -> Coverage:
    """Count what is wanted and what is stored, of the last plan and of each split."""
    return {"plan": _of_plan(store), "splits": list(_of_splits(store))}


def percent(part: int, whole: int) -> str:
    """Return a share; never ``100 %`` of something incomplete."""
    if part == whole:
        return "100 %"
    return f"{min(100 * part / whole, 99.99):.2f} %"


def coverage_lines(found: Coverage) -> list[str]:
    """Return coverage for a person, one line per feature and per split."""
    lines = []
    for name, plan in found["plan"].items():
        share = percent(plan["stored"], plan["wanted"])
        lines.append(f"{name}: {plan['stored']} of {plan['wanted']} rows of the last plan ({share})")
    for split in found["splits"]:
        total = split["questions"]
        shares = [f"{name} {count} ({percent(count, total)})" for name, count in split["questions_with"].items()]
        where = f"{split['dataset']}/{split['split']}: {total} questions of {split['videos']} videos"
        lines.append(f"{where}, with a row of {', '.join(shares) or 'no feature'}")
    return lines


def _of_plan(store: Store) -> dict[str, PlanCoverage]:
    """Find the last plan of each feature's current spec.

    A plan says how many rows it lacks. The rows that the feature has gained since are some of them.
    """
    found: dict[str, PlanCoverage] = {}
    for event in _plans(store):
        for name, plan in event.features.items():
            info = store.features.get(name)
            if name in found or info is None or plan.spec != info.spec_digest:
                continue
            lacking = max(0, plan.lacking - max(0, info.rows - plan.rows))
            found[name] = {"wanted": plan.wanted, "stored": plan.wanted - lacking}
    return dict(sorted(found.items()))


def _plans(store: Store) -> Iterator[_Plan]:
    """Yield the plans of whole sources up to this version, the latest first."""
    for event in events.latest_first(StorePath.of(store.path)):
        if event.get("event") == PLAN and "features" in event:
            with suppress(ValidationError):  # logs are not sealed
                plan = _Plan.model_validate(event)
                if plan.version <= store.version:
                    yield plan


def _of_splits(store: Store) -> Iterator[SplitCoverage]:
    if "questions" not in store.tables:
        return
    table = store.table("questions", columns=(*SPLIT_COLUMNS, "video_id"))
    if not {*SPLIT_COLUMNS, "video_id"} <= set(table.column_names):
        return
    keys = {name: store.index(name).column("key").combine_chunks() for name in store.features}
    for dataset, split in splits_of(table):
        asked = rows_of_split(table, dataset, split).column("video_id").combine_chunks()
        videos = asked.unique()
        yield {
            "dataset": dataset,
            "split": split,
            "questions": len(asked),
            "videos": len(videos),
            "questions_with": {name: _count(asked, known) for name, known in keys.items()},
            "videos_with": {name: _count(videos, known) for name, known in keys.items()},
        }


def _count(videos: pa.Array, keys: pa.Array) -> int:
    """Return how many of the videos have a key."""
    found = pc.is_in(videos.cast(pa.large_binary()), value_set=keys.cast(pa.large_binary()))
    return int(pc.sum(found).as_py() or 0)
