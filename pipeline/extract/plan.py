"""The plan of an extraction: what will be computed, why, and what it will cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.extract.carrying import CarriedRow
from stores.commit import Failure, Placed, SourceRecord


class Reason(StrEnum):
    """Why a wanted row is, or is not, computed in this run."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CARRIED = "carried"
    NEW = "new"
    CONTENT_CHANGED = "content_changed"
    SPEC_CHANGED = "spec_changed"
    MISSING_SHARD = "missing_shard"
    RETRY = "retry"
    FORCED = "forced"
    FAILED_PERMANENT = "failed_permanent"
    REMOVED = "removed"


COMPUTED = (
    Reason.NEW,
    Reason.CONTENT_CHANGED,
    Reason.SPEC_CHANGED,
    Reason.MISSING_SHARD,
    Reason.RETRY,
    Reason.FORCED,
)


@dataclass(frozen=True, slots=True)
class Unit:
    """One decode: a file (or a clip of it), the keys that share its bytes, and the features that want it.

    Attributes
    ----------
    uri
        The file: a local path or an fsspec URI.
    keys
        ``keys[0]`` names the row in its shard; the others become aliases in the index.
    features
        Names of the wanted features, sorted.
    content_id
        None for files that the worker hashes: remote ones while it copies them, local ones that are new and like no
        other.
    size, stamp
        Bytes and stamp of the file when it was planned.
    start_s, end_s
        Bounds of the clip in seconds; None means the video's own.
    image_rate
        Images per second if ``uri`` is a folder of images, else None.
    attempts
        Feature name to the number of attempts that have failed so far.
    stored
        Feature name to the cache key of the stored row if ``content_id`` is None, so that a touched file with the same
        bytes computes nothing.
    """

    uri: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    content_id: str | None
    size: int
    stamp: str
    start_s: float | None = None
    end_s: float | None = None
    image_rate: float | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of planning, as on the command line."""

    retry_failed: bool = False
    """Try rows again that failed for good, or too often."""
    force: bool = False
    """Compute stored rows again."""
    prune: bool = False
    """Drop rows of videos that the source no longer has."""
    only: frozenset[str] = frozenset()
    """Keys to plan; all if empty."""
    limit: int | None = None
    """Most units to compute; all if None."""


@dataclass(slots=True)
class Plan:
    """What one run will do.

    Attributes
    ----------
    units
        What is to be computed.
    placed
        Wanted rows that are stored under another key with the same bytes.
    carried
        Wanted rows that are copied from an older spec whose differences do not touch them.
    removed
        (feature, key) of rows to drop.
    settled
        (feature, spec digest, key) of failures to forget.
    failures
        Files that cannot even be opened.
    skipped
        Earlier failures that are not tried again.
    sources
        Files that were hashed now.
    reasons
        Feature name to the number of rows by reason.
    lacking
        Feature name to the number of wanted rows whose key has none under the feature's spec, not even one of other
        content.
    wanted, stored
        Number of rows that are wanted, and of those that need no computing.
    bytes_to_write, bytes_to_read
        Estimated size of the new rows, and size of the files to decode.
    """

    units: list[Unit] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    carried: list[CarriedRow] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    settled: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: list[Failure] = field(default_factory=list)
    sources: list[SourceRecord] = field(default_factory=list)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    lacking: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    stored: int = 0
    bytes_to_write: int = 0
    bytes_to_read: int = 0

    @property
    def rows_to_compute(self) -> int:
        """Number of rows, at one per unit and feature."""
        return sum(len(unit.features) for unit in self.units)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute and nothing to commit."""
        return not (self.units or self.placed or self.carried or self.removed or self.failures or self.settled)
