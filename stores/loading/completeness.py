"""What is wrong with features before a trainer finds out after an hour."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.table import Table

from ..errors import StoreError
from ..format.shard import ShardReader
from ..store import Store
from .gather import FeatureRows, as_tensor
from .questions import load_questions
from .views import View

KINDS = {
    "missing": "videos without a row",
    "steps": "rows of another T than expected",
    "not_finite": "rows with NaN or Inf",
    "all_zero": "rows of zeros only, though their mask says otherwise",
    "random_weights": "made with random weights",
    "mixed_numerics": "rows computed under different numerics",
    "stale": "made from data that has changed since",
}


class IncompleteError(StoreError):
    """A store is not fit to train on, and what is wrong was not allowed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one feature or dictionary: how many of how many, and the first keys."""

    name: str
    kind: str
    count: int
    total: int
    keys: tuple[str, ...] = ()
    detail: str = ""

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.keys[:3])) + (", …" if self.count > 3 else "")
        told = "; ".join(text for text in (self.detail, shown) if text)
        share = f"{self.count} of {self.total} " if self.keys else ""
        return f"{self.name!r}: {share}{KINDS[self.kind]}" + (f" ({told})" if told else "")


@dataclass(slots=True)
class Report:
    """The findings of :func:`check`. ``rows``: rows found, by feature; ``deep``: whether their values were read."""

    deep: bool
    rows: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def refused(self, allow: Collection[str] = ()) -> list[Finding]:
        """The findings whose kind is not allowed."""
        return [finding for finding in self.findings if finding.kind not in allow]

    def require(self, allow: Collection[str] = ()) -> None:
        """Return if nothing is wrong but what is allowed.

        Raises
        ------
        IncompleteError
            In one line, all that is wrong.
        StoreError
            If ``allow`` names what is no kind of finding.
        """
        if unknown := sorted(set(allow) - set(KINDS)):
            raise StoreError(f"allow={unknown[0]!r}: findings are {', '.join(KINDS)}")
        refused = self.refused(allow)
        if refused:
            kinds = ", ".join(dict.fromkeys(finding.kind for finding in refused))
            raise IncompleteError(
                f"not fit to train on: {'; '.join(map(str, refused))}. To train anyway, allow: {kinds}"
            )

    def table(self, allow: Collection[str] = ()) -> Table:
        """For a terminal: one line per finding."""
        table = Table("feature", "finding", "rows", "of", "first keys")
        for finding in self.findings:
            told = f"{KINDS[finding.kind]}{f' ({finding.detail})' if finding.detail else ''}"
            style = "dim" if finding.kind in allow else None
            count, total = (str(finding.count), str(finding.total)) if finding.keys else ("", "")
            table.add_row(finding.name, told, count, total, ", ".join(map(repr, finding.keys[:5])), style=style)
        for name, rows in self.rows.items():
            if all(finding.name != name for finding in self.findings):
                table.add_row(name, "complete" if self.deep else "complete; values not looked at", "", str(rows), "")
        return table


def check(
    store: Store,
    features: Sequence[str],
    split: str,
    dataset: str | None = None,
    expected_steps: Mapping[str, int] | None = None,
    dictionaries: Sequence[str] = (),
    deep: bool = False,
) -> Report:
    """Compare features with the questions of a split.

    Parameters
    ----------
    features : by name, as views name them.
    split, dataset : the questions whose videos must have rows.
    expected_steps : T by feature; by default what the feature's spec says, and any T where it says none.
    dictionaries : derived tables that must not be stale.
    deep : also read all values, for NaN, Inf and rows of zeros; takes as long as one epoch of reading.

    Raises
    ------
    StoreError
        If there are no such questions, features or tables.
    """
    videos = list(dict.fromkeys(load_questions(store, split, dataset).video_ids))
    report = Report(deep)
    for name in features:
        rows = FeatureRows(store, View(name), videos)
        report.rows[name] = len(videos) - len(rows.missing)
        wanted = (expected_steps or {}).get(name, store.spec(name).get("steps"))
        by_kind: dict[str, list[str]] = {"missing": rows.missing, "steps": [], "not_finite": [], "all_zero": []}
        found_steps = set()
        for video, shard, row in _rows(store, rows):
            steps = shard.span(row)[1]
            if wanted is not None and steps != wanted:
                by_kind["steps"].append(videos[video])
                found_steps.add(steps)
            if deep and (kind := _wrong_values(shard, row)):
                by_kind[kind].append(videos[video])
        for kind, keys in by_kind.items():
            if keys:
                told = ", ".join(map(str, sorted(found_steps)[:5]))
                detail = f"T is {told} and not {wanted}" if kind == "steps" else ""
                report.findings.append(Finding(name, kind, len(keys), len(videos), tuple(sorted(keys)[:5]), detail))
        for kind in store.caveats(name):
            report.findings.append(Finding(name, kind, report.rows[name], len(videos)))
    for name in dictionaries:
        if changed := store.stale(name):
            detail = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
            report.findings.append(Finding(name, "stale", len(changed), len(changed), detail=detail))
    return report


def _rows(store: Store, rows: FeatureRows) -> Iterator[tuple[int, ShardReader, int]]:
    """(video, shard, row) of every row that is there, shard by shard as they lie on disk."""
    order = np.lexsort((np.asarray(rows.row_of), np.asarray(rows.shard_of)))
    for video in order.tolist():
        if rows.shard_of[video] >= 0:
            yield video, store.shard(rows.view.name, rows.shards[rows.shard_of[video]]), rows.row_of[video]


def _wrong_values(shard: ShardReader, row: int) -> str | None:
    values = shard.values(row)
    if values.size == 0:
        return None
    low, high = torch.aminmax(as_tensor(values))  # NaN wins in both
    if not (torch.isfinite(low) and torch.isfinite(high)):
        return "not_finite"
    return "all_zero" if low == high == 0 and shard.valid(row).any() else None
