"""The manifest: an immutable list of everything in one version of a store, and how a new version is published.

A manifest names segments (see ``segments.py``) and table files, never single keys, so it stays at a few kilobytes
however large the store is.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import StoreDamageError, StoreError, StoreFormatError, StoreNotFoundError
from ..wording import without_credentials
from . import durable, layout
from .inside import Root, StorePath
from .segments import SegmentRef

_MAX_ATTEMPTS = 1000
_FORMAT_VERSION = re.compile(rb'"format_version":\s*(\d{1,9})')
_DIGEST = r"^[0-9a-f]{64}$"
_LONGEST_COMMAND = 1000
_LOGS = {layout.INDEX, layout.SOURCES, layout.FAILURES}
"""Directories of segments, whose new names must last before a version lists them."""
_signature: list[str] = []


def _checked_time(text: str) -> str:
    """Return a time unchanged; raise ValueError if it is not one with a time zone."""
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpecEntry(_Frozen):
    """The rows of one feature under one spec.

    Attributes
    ----------
    rows
        Number of keys that have a row.
    index, shards
        Segments of the row index and of the shard list, oldest first.
    retired_at
        Time (ISO 8601, UTC) since which the spec is no longer the current one; None while it is.
    """

    rows: int = Field(default=0, ge=0)
    index: tuple[SegmentRef, ...] = ()
    shards: tuple[SegmentRef, ...] = ()
    retired_at: Annotated[str, AfterValidator(_checked_time)] | None = None


class FeatureEntry(_Frozen):
    """A feature: the digest of its current spec, and every spec that still has rows, by digest."""

    current: str
    specs: Mapping[str, SpecEntry]


class TableFile(_Frozen):
    """One Parquet file of a table. ``path`` is relative to the store."""

    path: str = Field(pattern=r"^tables/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}-[0-9a-f]{8}/[0-9a-f]{32}\.parquet$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TablePart(_Frozen):
    """One part of a table: its Parquet files, in order, written under one spec.

    For a part derived from rows, ``stale`` lists the rows that have changed since; None if there is none.
    """

    spec_digest: str = Field(
        validation_alias=AliasChoices("spec", "spec_digest"), serialization_alias="spec", pattern=_DIGEST
    )
    files: tuple[TableFile, ...]
    stale: tuple[str, ...] | None = None

    @property
    def rows(self) -> int:
        """Number of rows in all files."""
        return sum(file.rows for file in self.files)


class TableEntry(_Frozen):
    """A table: its parts by name.

    Writers replace whole parts, so two writers of different parts never lose each other's rows.
    """

    parts: Mapping[str, TablePart]

    @model_validator(mode="before")
    @classmethod
    def _read_older_formats(cls, value: Any) -> Any:
        """Name the only part of format 1, and move what format 2 says of a whole table to each of its parts."""
        if not isinstance(value, dict):
            return value
        if "files" in value:
            value = {"parts": {"": {name: item for name, item in value.items() if name != "stale"}}, **_stale(value)}
        if "stale" in value:
            value = {"parts": {name: {**part, **_stale(value)} for name, part in value["parts"].items()}}
        return value

    @property
    def rows(self) -> int:
        """Number of rows in all parts."""
        return sum(part.rows for part in self.parts.values())


def _stale(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"stale": entry["stale"]} if "stale" in entry else {}


class Manifest(_Frozen):
    """One version of a store. ``command`` is the command line that published it; None if a program did."""

    format: str = layout.FORMAT
    format_version: int = layout.FORMAT_VERSION
    version: int = Field(ge=0)
    nonce: str
    created_at: Annotated[str, AfterValidator(_checked_time)]
    command: str | None = None
    features: Mapping[str, FeatureEntry] = Field(default_factory=dict)
    tables: Mapping[str, TableEntry] = Field(default_factory=dict)
    failures: tuple[SegmentRef, ...] = ()
    sources: tuple[SegmentRef, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Manifest:
        """Refuse what would be read, or written, as something else than it is listed as."""
        for name, feature in self.features.items():
            layout.check_name(name)
            if feature.current not in feature.specs:
                raise ValueError(f"feature {name!r} lacks its current spec")
            if not all(re.fullmatch(_DIGEST, spec_digest) for spec_digest in feature.specs):
                raise ValueError(f"feature {name!r}: a spec is named by its digest")
        for name, _, part in self.table_parts():
            directory = f"{layout.TABLES}/{layout.check_name(name)}-{part.spec_digest[:8]}/"
            if not all(file.path.startswith(directory) for file in part.files):
                raise ValueError(f"table {name!r} names a file of another one")
        return self

    def encode(self) -> bytes:
        """Return the content of its file, sealed against flipped bits."""
        return layout.seal(self.model_dump_json(exclude_none=True, by_alias=True).encode())

    def feature(self, name: str) -> FeatureEntry | None:
        """Return a feature, or None if this version has no such feature."""
        return self.features.get(name)

    def spec_entry(self, name: str, spec_digest: str) -> SpecEntry:
        """Return the entry of one spec of one feature, an empty one if nothing is stored under it yet."""
        feature = self.features.get(name)
        return SpecEntry() if feature is None else feature.specs.get(spec_digest, SpecEntry())

    def files(self) -> set[str]:
        """Return every segment and table file that this version names, relative to the store."""
        named = {ref.path for ref in (*self.failures, *self.sources)}
        for feature in self.features.values():
            for entry in feature.specs.values():
                named.update(ref.path for ref in (*entry.index, *entry.shards))
        for _, _, part in self.table_parts():
            named.update(file.path for file in part.files)
        return named

    def table_parts(self) -> Iterator[tuple[str, str, TablePart]]:
        """Yield (table name, part name, part), sorted by both names."""
        for name, table in sorted(self.tables.items()):
            for part_name, part in sorted(table.parts.items()):
                yield name, part_name, part


@contextmanager
def signed(command: str) -> Iterator[None]:
    """Let every version that this process publishes meanwhile name its command line, without credentials in URIs."""
    text = without_credentials(command)
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    before = list(_signature)
    _signature[:] = [shown if len(shown) <= _LONGEST_COMMAND else f"{shown[:_LONGEST_COMMAND]}…"]
    try:
        yield
    finally:
        _signature[:] = before


def now() -> str:
    """Return the current time in UTC as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def first_manifest() -> Manifest:
    """Return the manifest of an empty store, version 0."""
    return Manifest(version=0, nonce="", created_at=now())


def versions(root: Root) -> list[int]:
    """Return all published versions, ascending."""
    names = (StorePath.of(root) / layout.VERSIONS).listing()
    return sorted(version for name in names if (version := layout.parse_version(name)) is not None)


def newest_version(root: Root) -> int:
    """Return the number of the latest version. Cheaper than ``versions``, since every commit calls it.

    Raises
    ------
    StoreNotFoundError
        If no version has been committed.
    """
    width = len(layout.version_file(0))
    names = (StorePath.of(root) / layout.VERSIONS).listing()
    newest = layout.parse_version(max((name for name in names if len(name) == width and name[0].isdigit()), default=""))
    if newest is None:
        raise StoreNotFoundError(f"{root}: no version has been committed")
    return newest


def load(root: Root, version: int | None = None) -> Manifest:
    """Read one version, the latest by default.

    Raises
    ------
    StoreNotFoundError
        If there is no such version.
    StoreDamageError, StoreFormatError
        If the file is not a manifest, or was written by a newer Reelstore.
    """
    if version is None:
        version = newest_version(root)
    path = StorePath.of(root) / layout.VERSIONS / layout.version_file(version)
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        present = versions(root)
        span = f"{present[0]}…{present[-1]}" if present else "none"
        raise StoreNotFoundError(f"{path}: no such version (available: {span})") from error
    return decode(path, text)


def decode(path: object, data: bytes) -> Manifest:
    """Return the manifest that a file holds; ``path`` is for messages.

    Raises
    ------
    StoreDamageError, StoreFormatError
        If the bytes are not a manifest, or were written by a newer Reelstore.
    """
    try:
        text = layout.unseal(data)
    except ValueError as error:
        raise StoreDamageError(f"{path}: damaged: {error}; run `reelstore repair`") from error
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


def newest_readable(root: StorePath) -> Manifest:
    """Return the newest manifest that is not damaged (for repair)."""
    for version in reversed(versions(root)):
        try:
            return load(root, version)
        except StoreDamageError:
            continue
    raise StoreDamageError(f"{root / layout.VERSIONS}: no manifest can be read")


def publish(root: Root, build: Callable[[Manifest], Manifest | None], past_damage: bool = False) -> Manifest:
    """Build the next manifest from the latest one and publish it; try again if another writer was faster.

    Parameters
    ----------
    root
        The store.
    build
        Gets the latest manifest and returns its successor, or None if nothing changes. The files that the successor
        names are already durable. Called once per attempt.
    past_damage
        Build on the newest readable manifest, and supersede the newest one if that is damaged.

    Returns
    -------
    Manifest
        The published manifest, or the latest one if nothing changed.

    Raises
    ------
    StoreError
        If other writers were faster every time.
    """
    root = StorePath.of(root)
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
                "command": _signature[0] if _signature else None,
            }
        )
        for logs in sorted({path.partition("/")[0] for path in successor.files() - latest.files()} & _LOGS):
            durable.sync_directory(root / logs)
        data = successor.encode()
        target = directory / layout.version_file(successor.version)
        won = durable.create_whole(target, directory / f".{successor.nonce}", data)
        durable.sync_directory(directory)
        if won:
            return successor
    raise StoreError(f"{directory}: lost {_MAX_ATTEMPTS} commit races in a row; check what else is writing here")
