"""The manifest: one immutable version of a store's listing, and how a new one is published.

A manifest names segments (see :mod:`stores.format.segments`) and table files, never single keys, so it
stays a few kilobytes however large the store is.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import StoreDamageError, StoreError, StoreFormatError, StoreNotFoundError
from . import durable, layout
from .segments import SegmentRef

_MAX_ATTEMPTS = 1000
_FORMAT_VERSION = re.compile(rb'"format_version":\s*(\d+)')


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


class TablePart(_Frozen):
    """One part of a table: its Parquet files, in order, written under one spec."""

    spec_digest: str = Field(validation_alias=AliasChoices("spec", "spec_digest"), serialization_alias="spec")
    files: tuple[TableFile, ...]


class TableEntry(_Frozen):
    """A table: its parts by name.

    Jobs replace whole parts, so two that write different ones never lose each other's rows. ``stale`` says of a
    table that was derived from rows which of them have changed since.
    """

    parts: Mapping[str, TablePart]
    stale: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_part_in_format_1(cls, value: Any) -> Any:
        if isinstance(value, dict) and "files" in value:
            return {"parts": {"": value}}
        return value

    @property
    def rows(self) -> int:
        return sum(file.rows for part in self.parts.values() for file in part.files)


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

    def encode(self) -> bytes:
        """The bytes of its file, sealed against flipped bits."""
        return layout.seal(self.model_dump_json(exclude_none=True, by_alias=True).encode())

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
        for _, _, part in self.table_parts():
            named.update(file.path for file in part.files)
        return named

    def table_parts(self) -> Iterator[tuple[str, str, TablePart]]:
        """(table, part, its files), sorted by table and part name."""
        for name, table in sorted(self.tables.items()):
            for part_name, part in sorted(table.parts.items()):
                yield name, part_name, part


def now() -> str:
    """The current time, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def first_manifest() -> Manifest:
    return Manifest(version=0, nonce="", created_at=now())


def versions(root: Path) -> list[int]:
    """All published versions, ascending."""
    try:
        names = os.listdir(root / layout.VERSIONS)
    except FileNotFoundError:
        return []
    return sorted(version for name in names if (version := layout.parse_version(name)) is not None)


def newest_version(root: Path) -> int:
    """The number of the latest version; cheaper than listing all, since every commit asks.

    Raises
    ------
    StoreNotFoundError
        If there is none.
    """
    try:
        width = len(layout.version_file(0))
        names = [name for name in os.listdir(root / layout.VERSIONS) if len(name) == width and name[0].isdigit()]
    except FileNotFoundError:
        names = []
    newest = layout.parse_version(max(names, default=""))
    if newest is None:
        raise StoreNotFoundError(f"{root}: no version has been committed")
    return newest


def load(root: Path, version: int | None = None) -> Manifest:
    """Read one version, the latest by default.

    Raises
    ------
    StoreNotFoundError
        If there is no such version.
    StoreDamageError, StoreFormatError
        If the file is not a manifest, or a newer Reelstore wrote it.
    """
    if version is None:
        version = newest_version(root)
    path = root / layout.VERSIONS / layout.version_file(version)
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        present = versions(root)
        span = f"{present[0]}…{present[-1]}" if present else "none"
        raise StoreNotFoundError(f"{path}: no such version (there is {span})") from error
    return _decode(path, text)


def _decode(path: Path, data: bytes) -> Manifest:
    try:
        text = layout.unseal(data)
    except ValueError as error:
        raise StoreDamageError(f"{path}: damaged: {error}; see `store.py repair`") from error
    written = _FORMAT_VERSION.search(text)
    if written and int(written.group(1)) > layout.FORMAT_VERSION:
        raise StoreFormatError(
            f"{path}: format {int(written.group(1))} is newer than format {layout.FORMAT_VERSION}, "
            "which this Reelstore reads; upgrade Reelstore"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        raise StoreDamageError(f"{path}: not a valid manifest ({where}: {problem['msg']})") from error


def newest_readable(root: Path) -> Manifest:
    """The newest version whose manifest is not damaged (for repair)."""
    for version in reversed(versions(root)):
        try:
            return load(root, version)
        except StoreDamageError:
            continue
    raise StoreDamageError(f"{root / layout.VERSIONS}: no manifest is readable")


def publish(root: Path, build: Callable[[Manifest], Manifest | None], past_damage: bool = False) -> Manifest:
    """Commit: build the next manifest from the latest one and publish it; on a lost race, again.

    ``build`` gets the latest manifest and returns its successor with the files that it names
    already durable, or None when there is nothing to change. It runs once per attempt. With
    ``past_damage`` it gets the newest readable manifest, and a damaged newest one is superseded.

    Returns
    -------
    Manifest
        The published manifest, or the latest one when nothing changed.
    """
    directory = root / layout.VERSIONS
    for _ in range(_MAX_ATTEMPTS):
        latest = newest_readable(root) if past_damage else load(root)
        newest = versions(root)[-1] if past_damage else latest.version
        successor = build(latest)
        if successor is None and newest == latest.version:
            return latest
        successor = (successor or latest).model_copy(
            update={
                "format_version": layout.FORMAT_VERSION,
                "version": newest + 1,
                "nonce": layout.new_id(),
                "created_at": now(),
            }
        )
        data = successor.encode()
        nonce_file = directory / f".{successor.nonce}"
        durable.write_new(nonce_file, data)
        try:
            won = durable.link_exclusive(nonce_file, directory / layout.version_file(successor.version), data)
        finally:
            durable.unlink(nonce_file)
        durable.sync_directory(directory)
        if won:
            return successor
    raise StoreError(f"{directory}: lost {_MAX_ATTEMPTS} commit races in a row; is something else writing here?")
