"""What the first page says: what is wrong, how much of what is wanted is there, what the questions are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..describe.coverage import percent
from ..describe.inspect import StoreDescription, stale_changes
from ..format.media_damage import MediaDamage
from ..joins import SPLIT_COLUMNS, rows_of_split, splits_of
from ..store import Store
from ..wording import first_few, plural


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that a reader should know before anything else.

    Attributes
    ----------
    level
        ``bad`` if rows are missing or must not be used, ``note`` otherwise.
    text
        One sentence.
    page, anchor
        Where more is said; empty on the first page.
    """

    level: str
    text: str
    page: str = ""
    anchor: str = ""


def warnings_of(store: Store, described: StoreDescription) -> list[Warned]:
    """Return what is wrong or odd with a store, the worst first."""
    found = [*_of_features(store, described), *_of_coverage(described), *_of_failures(described), *_of_tables(store)]
    return sorted(found, key=lambda warned: warned.level != "bad")


def _of_features(store: Store, described: StoreDescription) -> Iterator[Warned]:
    for name, feature in described["features"].items():
        caveats = store.caveats(name)
        if "random_weights" in caveats:
            text = f"{name}: random weights: these rows are placeholders; do not train a model on them"
            yield Warned("bad", text, "features", name)
        if "mixed_numerics" in caveats:
            text = f"{name}: its rows were computed under {len(feature['numerics'])} numerics; training refuses them"
            yield Warned("bad", text, "features", name)
        if (damage := MediaDamage(**feature["media_damage"])).any:
            yield Warned("note", f"{name}: {damage}", "features", name)


def _of_coverage(described: StoreDescription) -> Iterator[Warned]:
    for name, plan in described["coverage"]["plan"].items():
        if plan["stored"] < plan["wanted"]:
            share = percent(plan["stored"], plan["wanted"])
            yield Warned("bad", f"{name}: {plan['stored']:,} of {plan['wanted']:,} wanted rows are stored ({share})")
    for split in described["coverage"]["splits"]:
        total = split["questions"]
        lacking = [name for name, count in split["questions_with"].items() if count < total]
        if lacking:
            least = min(split["questions_with"][name] for name in lacking)
            where = f"{split['dataset']}/{split['split']}"
            text = (
                f"{where}: not every question has a row of {first_few(lacking)}; at least {least:,} of {total:,} have"
            )
            yield Warned("bad", text)


def _of_failures(described: StoreDescription) -> Iterator[Warned]:
    if failures := described["failures"]:
        classes = Counter(failure["class"] for failure in failures)
        named = [f"{count:,} {failure_class}" for failure_class, count in sorted(classes.items())]
        yield Warned("bad", f"{plural(len(failures), 'row')} failed: {first_few(named, 6)}", "failures")


def _of_tables(store: Store) -> Iterator[Warned]:
    for name in store.tables:
        if changes := stale_changes(store, name):
            yield Warned("note", f"{name} is stale: {first_few(changes)}", anchor="tables")
    if errors := sum(count for kind, _, count in anomalies(store) if kind == "error"):
        yield Warned("note", f"{plural(errors, 'row')} of the annotation files were refused", anchor="anomalies")


def question_types(store: Store) -> list[dict[str, Any]]:
    """Return dataset, split, number of questions and videos, and questions by type, of each split."""
    if "questions" not in store.tables:
        return []
    table = store.table("questions", columns=(*SPLIT_COLUMNS, "video_id", "type"))
    if not {*SPLIT_COLUMNS, "video_id", "type"} <= set(table.column_names):
        return []
    listed = []
    for dataset, split in splits_of(table):
        rows = rows_of_split(table, dataset, split)
        counts = {
            record["values"] or "untyped": record["counts"] for record in rows.column("type").value_counts().to_pylist()
        }
        listed.append(
            {
                "name": f"{dataset}/{split}",
                "questions": rows.num_rows,
                "videos": len(rows.column("video_id").unique()),
                "types": sorted(counts.items(), key=lambda item: (-item[1], item[0])),
            }
        )
    return listed


def anomalies(store: Store) -> list[tuple[str, str, int]]:
    """Return (kind, code, number) of the anomalies in annotation files."""
    if "annotation_report" not in store.tables:
        return []
    table = store.table("annotation_report", columns=("kind", "code"))
    counts = Counter(zip(table.column("kind").to_pylist(), table.column("code").to_pylist(), strict=True))
    return [(kind, code, count) for (kind, code), count in sorted(counts.items())]


def tables_of(store: Store) -> list[dict[str, Any]]:
    """Return name, rows, parts and what made stale, of each table."""
    return [
        {
            "name": name,
            "rows": store.manifest.tables[name].rows,
            "parts": [part for part in store.parts(name) if part],
            "stale": stale_changes(store, name),
        }
        for name in store.tables
    ]


def failure_classes(failures: Sequence[Any]) -> list[tuple[str, str, bool, int]]:
    """Return (feature, class, permanent, number) of the failures."""
    counts = Counter((record["feature"], record["class"], record["permanent"]) for record in failures)
    return [(*what, count) for what, count in sorted(counts.items())]
