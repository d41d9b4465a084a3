"""The manifest: one immutable version of a store's listing, and how a new one is published.

A manifest names segments (see :mod:`stores.segments`) and table files, never single keys, so it
stays a few kilobytes however large the store is.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stores import durable, layout
from stores.errors import StoreDamageError, StoreError, StoreFormatError, StoreNotFoundError
from stores.segments import SegmentRef

_MAX_ATTEMPTS = 1000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpecEntry(_Frozen):
    """The rows of one feature computed by one spec."""

    rows: int = 0
    index: tuple[SegmentRef, ...] = ()
    shards: tuple[SegmentRef, ...] = ()
    retired_at: str | None = None


class FeatureEntry(_Frozen):
    """A feature name, its current spec and every spec that still has rows."""

    current: str
    specs: Mapping[str, SpecEntry]


class TableFile(_Frozen):
    path: str
    rows: int
    bytes: int
    sha256: str


class TableEntry(_Frozen):
    """A table: its Parquet files, in order, written under one spec."""

    spec: str
    files: tuple[TableFile, ...]


class Manifest(_Frozen):
    """One version of the store."""

    format: str = layout.FORMAT
    format_version: int = layout.FORMAT_VERSION
    version: int
    nonce: str
    created_at: str
    features: Mapping[str, FeatureEntry] = Field(default_factory=dict)
    tables: Mapping[str, TableEntry] = Field(default_factory=dict)
    failures: tuple[SegmentRef, ...] = ()
    sources: tuple[SegmentRef, ...] = ()

    def feature(self, name: str) -> FeatureEntry | None:
        return self.features.get(name)

    def spec_entry(self, name: str, spec_digest: str) -> SpecEntry:
        """The entry of one spec of one feature; an empty one where nothing is stored yet."""
        feature = self.features.get(name)
        return SpecEntry() if feature is None else feature.specs.get(spec_digest, SpecEntry())

    def files(self) -> set[str]:
        """Every segment and table file that this version names, relative to the store."""
        named = {ref.path for ref in (*self.failures, *self.sources)}
        for feature in self.features.values():
            for entry in feature.specs.values():
                named.update(ref.path for ref in (*entry.index, *entry.shards))
        for table in self.tables.values():
            named.update(file.path for file in table.files)
        return named


def now() -> str:
    """The current time, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def first_manifest() -> Manifest:
    return Manifest(version=0, nonce="", created_at=now())


def versions(root: Path) -> list[int]:
    """All published versions, ascending."""
    try:
        names = [entry.name for entry in (root / layout.VERSIONS).iterdir()]
    except FileNotFoundError:
        return []
    return sorted(version for name in names if (version := layout.parse_version(name)) is not None)


def load(root: Path, version: int | None = None) -> Manifest:
    """Read one version, the latest by default.

    Raises
    ------
    StoreNotFoundError
        If there is no such version.
    StoreDamageError, StoreFormatError
        If the file is not a manifest, or a newer Reelstore wrote it.
    """
    present = versions(root)
    if version is None:
        if not present:
            raise StoreNotFoundError(f"{root}: no version has been committed")
        version = present[-1]
    path = root / layout.VERSIONS / layout.version_file(version)
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        span = f"{present[0]}…{present[-1]}" if present else "none"
        raise StoreNotFoundError(f"{path}: no such version (there is {span})") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        if b'"format_version"' in text and _newer(text):
            raise StoreFormatError(f"{path}: written by a newer Reelstore; upgrade to read it") from error
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        raise StoreDamageError(f"{path}: not a valid manifest ({where}: {problem['msg']})") from error
    if manifest.format_version > layout.FORMAT_VERSION:
        raise StoreFormatError(f"{path}: format {manifest.format_version} is newer than this Reelstore reads")
    return manifest


def _newer(text: bytes) -> bool:
    marker = text.split(b'"format_version":', 1)[1].lstrip()
    digits = marker[: len(marker) - len(marker.lstrip(b"0123456789"))]
    return bool(digits) and int(digits) > layout.FORMAT_VERSION


def publish(root: Path, build: Callable[[Manifest], Manifest | None]) -> Manifest:
    """Commit: build the next manifest from the latest one and publish it; on a lost race, again.

    ``build`` gets the latest manifest and returns its successor with the files that it names
    already durable, or None when there is nothing to change. It runs once per attempt.

    Returns
    -------
    Manifest
        The published manifest, or the latest one when nothing changed.
    """
    directory = root / layout.VERSIONS
    for _ in range(_MAX_ATTEMPTS):
        latest = load(root)
        successor = build(latest)
        if successor is None:
            return latest
        successor = successor.model_copy(
            update={"version": latest.version + 1, "nonce": layout.new_id(), "created_at": now()}
        )
        data = successor.model_dump_json(exclude_none=True).encode() + b"\n"
        nonce_file = directory / f".{successor.nonce}"
        durable.write_new(nonce_file, data)
        won = durable.link_exclusive(nonce_file, directory / layout.version_file(successor.version), data)
        durable.unlink(nonce_file)
        durable.sync_directory(directory)
        if won:
            return successor
    raise StoreError(f"{directory}: lost {_MAX_ATTEMPTS} commit races in a row; is something else writing here?")
