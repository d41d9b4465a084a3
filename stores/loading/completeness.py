"""Check features before training, so that a trainer does not fail after an hour."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from rich.table import Table

from ..errors import StoreError
from ..format.rows import EXTERNAL
from ..format.shard import ShardReader
from ..format.soundness import spans
from ..store import Store
from ..wording import available, first_few
from .columns import Column
from .gather import FeatureRows, as_tensor
from .questions import load_questions
from .views import View

KINDS = {
    "missing": "videos without a row",
    "steps": "rows with an unexpected T",
    "not_finite": "rows with NaN or Inf",
    "all_zero": "rows with valid steps but only zeros",
    "times_unknown": "imported rows whose times are not known",
    "random_weights": "made with random weights",
    "mixed_numerics": "rows computed under different numerics",
    "stale": "made from data that has changed since",
}
"""Kinds of findings, and how a message describes them."""


class IncompleteError(StoreError):
    """Raised when a store has findings that were not allowed for training."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a feature or dictionary.

    Attributes
    ----------
    name
        The feature or dictionary.
    kind
        A key of ``KINDS``.
    count, total
        It concerns ``count`` of ``total`` rows.
    keys
        The first of their keys, if it concerns single rows.
    detail
        More about it, for a message.
    """

    name: str
    kind: str
    count: int
    total: int
    keys: tuple[str, ...] = ()
    detail: str = ""

    def __str__(self) -> str:
        keys = ", ".join(map(repr, self.keys[:3])) + (", …" if self.keys and self.count > 3 else "")
        details = "; ".join(text for text in (self.detail, keys) if text)
        share = f"{self.count} of {self.total} " if self.keys else ""
        return f"{self.name!r}: {share}{KINDS[self.kind]}" + (f" ({details})" if details else "")


@dataclass(slots=True)
class Completeness:
    """Result of ``check``: what a split lacks.

    Attributes
    ----------
    deep
        Whether the values of rows were read.
    rows
        Number of videos that have a row, by feature.
    findings
        Everything that is wrong.
    """

    deep: bool
    rows: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def refused(self, allow: Collection[str] = ()) -> list[Finding]:
        """Return the findings whose kind is not allowed."""
        return [finding for finding in self.findings if finding.kind not in allow]

    def require(self, allow: Collection[str] = ()) -> None:
        """Check that every finding is allowed.

        Raises
        ------
        IncompleteError
            If not; the message lists all findings that are not allowed, in one line.
        StoreError
            If ``allow`` contains an unknown kind of finding.
        """
        if unknown := sorted(set(allow) - set(KINDS)):
            raise StoreError(f"allow={unknown[0]!r}: unknown kind of finding ({available(KINDS)})")
        refused = self.refused(allow)
        if refused:
            kinds = ", ".join(dict.fromkeys(finding.kind for finding in refused))
            raise IncompleteError(
                f"not fit to train on: {'; '.join(map(str, refused))}. To train anyway, allow: {kinds}"
            )

    def table(self, allow: Collection[str] = ()) -> Table:
        """Return a table for a terminal, with a line per finding and per complete feature."""
        table = Table("feature", "finding", "rows", "of", "first keys")
        for finding in self.findings:
            detail = f" ({finding.detail})" if finding.detail else ""
            style = "dim" if finding.kind in allow else None
            count, total = (str(finding.count), str(finding.total)) if finding.keys else ("", "")
            keys = ", ".join(map(repr, finding.keys[:5]))
            table.add_row(finding.name, f"{KINDS[finding.kind]}{detail}", count, total, keys, style=style)
        for name, rows in self.rows.items():
            if all(finding.name != name for finding in self.findings):
                table.add_row(name, "complete" if self.deep else "complete; values not checked", "", str(rows), "")
        return table


Report = Completeness  # its name in 0.1.0


def check(
    store: Store,
    features: Sequence[str],
    split: str,
    dataset: str | None = None,
    expected_steps: Mapping[str, int] | None = None,
    dictionaries: Sequence[str | tuple[str, str]] = (),
    deep: bool = False,
) -> Completeness:
    """Compare features with the questions of a split.

    Parameters
    ----------
    store
        The store.
    features
        Names of features, as in views.
    split, dataset
        The questions whose videos must have rows.
    expected_steps
        T by feature; by default, T is compared with the feature's spec, if that states one.
    dictionaries
        Derived tables that must not be stale, or (table, part) of them.
    deep
        Also read all values, to find NaN, Inf and rows of zeros. Takes as long as reading one epoch.

    Raises
    ------
    StoreError
        If there are no such questions, features or tables.
    """
    videos: Column[str] = Column(load_questions(store, split, dataset).video_ids.array.unique())
    report = Completeness(deep)
    for name in features:
        rows = FeatureRows(store, View(name), videos)
        report.rows[name] = len(videos) - len(rows.missing)
        expected = (expected_steps or {}).get(name, store.spec(name).get("steps"))
        report.findings += _findings(store, rows, expected, deep)
        for kind in store.caveats(name):
            report.findings.append(Finding(name, kind, report.rows[name], len(videos)))
    for dictionary in dictionaries:
        table, part = (dictionary, None) if isinstance(dictionary, str) else dictionary
        if changed := store.stale(table, part):
            name = f"{table} {part or ''}".rstrip()
            report.findings.append(Finding(name, "stale", len(changed), len(changed), detail=first_few(changed)))
    return report


def _findings(store: Store, rows: FeatureRows, expected: int | None, deep: bool) -> Iterator[Finding]:
    """Yield what is wrong with single rows of a feature."""
    found: dict[str, list[int]] = {"missing": [], "steps": [], "times_unknown": [], "not_finite": [], "all_zero": []}
    imported = store.spec(rows.view.name).get("extractor") == EXTERNAL
    unexpected: set[int] = set()
    shard_of, row_of = np.asarray(rows.shard_of), np.asarray(rows.row_of)
    found["missing"] = np.flatnonzero(shard_of < 0).tolist()
    order = np.lexsort((row_of, shard_of))[len(found["missing"]) :]  # of the present rows, as on disk
    ends = np.searchsorted(shard_of[order], np.arange(len(rows.shards) + 1)).tolist()
    for identity, (start, end) in zip(rows.shards, pairwise(ends), strict=True):
        shard, videos = store.shard(rows.view.name, identity), order[start:end]
        if expected is not None:
            steps = spans(shard, row_of[videos])[1]
            found["steps"] += videos[steps != expected].tolist()
            unexpected.update(np.unique(steps[steps != expected]).tolist())
        if imported:
            found["times_unknown"] += [
                video for video in videos.tolist() if np.isnan(shard.times(rows.row_of[video])).any()
            ]
        for video in videos.tolist() if deep else ():
            if kind := _wrong_values(shard, rows.row_of[video]):
                found[kind].append(video)
    lengths = ", ".join(map(str, sorted(unexpected)[:5]))
    for kind, concerned in found.items():
        if concerned:
            detail = f"T is {lengths}, not {expected}" if kind == "steps" else ""
            first = tuple(heapq.nsmallest(5, (rows.videos[video] for video in concerned)))
            yield Finding(rows.view.name, kind, len(concerned), len(rows.videos), first, detail)


def _wrong_values(shard: ShardReader, row: int) -> str | None:
    """Return the kind of finding that the values of a row give, if any."""
    values = shard.values(row)
    if values.size == 0:
        return None
    low, high = torch.aminmax(as_tensor(values))  # NaN wins in both
    if not (torch.isfinite(low) and torch.isfinite(high)):
        return "not_finite"
    return "all_zero" if low == high == 0 and shard.valid(row).any() else None
