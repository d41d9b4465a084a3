"""What one commit adds to a store: rows, shards, failures, sources, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .format.manifest import Manifest, TablePart
from .format.rows import Receipt


@dataclass(frozen=True, slots=True)
class Placed:
    """Place of a video key's row.

    ``moved_from`` is the (shard, row) of which the row is a copy: the key moves only if it still points there.
    """

    feature: str
    spec_digest: str
    key: str
    shard: str
    row: int
    cache_key: bytes
    moved_from: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that was wanted but could not be computed, and why."""

    video_id: str
    feature: str
    spec_digest: str
    failure_class: str
    permanent: bool
    message: str
    uri: str
    content_id: str
    attempts: int

    def record(self) -> dict[str, Any]:
        """Return the failure as a row of the failures table."""
        return {
            "video_id": self.video_id,
            "feature": self.feature,
            "spec": self.spec_digest,
            "class": self.failure_class,
            "permanent": self.permanent,
            "attempts": self.attempts,
            "message": _without_surrogates(self.message),
            "uri": _without_surrogates(self.uri),
            "content_id": self.content_id,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Failure:
        """Rebuild a failure from its row of the failures table."""
        names = ("video_id", "feature", "spec", "class", "permanent", "message", "uri", "content_id", "attempts")
        return cls(*(record[name] for name in names))


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What is known about a source file: a ``stamp`` from ``stat`` (mtime and inode, or etag) and its content id."""

    uri: str
    size: int
    stamp: str
    content_id: str


PartUpdate = Callable[[Manifest], TablePart | None]
"""Makes a part of a table from the latest version. It is called again if another writer committed first, so that two
writers who add to one part both keep their rows."""


@dataclass(slots=True)
class Changes:
    """Everything that one commit adds. Empty fields change nothing."""

    placed: list[Placed] = field(default_factory=list)
    """Rows to enter into the index."""
    shards: list[Receipt] = field(default_factory=list)
    """Receipts of the new shards that ``placed`` names."""
    spent: list[Receipt] = field(default_factory=list)
    """Shards without a wanted row. They are listed, so that they are not adopted again."""
    failures: list[Failure] = field(default_factory=list)
    """Rows that could not be computed."""
    sources: list[SourceRecord] = field(default_factory=list)
    """Source files as they were seen."""
    removed: list[tuple[str, str]] = field(default_factory=list)
    """(feature, key) of rows to hide from the feature's current spec."""
    settled: list[tuple[str, str, str]] = field(default_factory=list)
    """(feature, spec digest, key) of failures to drop. Those of ``placed`` keys are dropped anyway."""
    current: dict[str, str] = field(default_factory=dict)
    """The spec digest to make current, by feature."""
    tables: dict[str, dict[str, TablePart | None]] = field(default_factory=dict)
    """New parts by table and part name; None drops a part."""
    updates: dict[str, dict[str, PartUpdate]] = field(default_factory=dict)
    """As ``tables``, but made from the latest version."""
    stale: dict[tuple[str, str], tuple[str, ...] | None] = field(default_factory=dict)
    """Inputs that changed after a part of a table was built, by table and part; None if there are none."""
    replace: bool = False
    """Move keys to their new rows even if the cache key is the same (forced runs)."""

    def __bool__(self) -> bool:
        rows = (self.placed, self.spent, self.removed)
        logs = (self.failures, self.sources, self.settled)
        return any((*rows, *logs, self.current, self.tables, self.updates, self.stale))


def _without_surrogates(text: str) -> str:
    """Escape unpaired surrogates, which file names that are not UTF-8 contain and no table can store."""
    return text.encode("utf-8", "backslashreplace").decode()
