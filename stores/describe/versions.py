"""What the versions of a store hold that others do not: its history, and the difference of two versions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import StoreDamageError
from ..format import schemas
from ..format.indexed import by_shard
from ..format.manifest import Manifest, TablePart, first_manifest, load, versions
from ..format.rows import Array
from ..format.segments import SegmentRef
from ..joins import rows_of_split, splits_of
from ..store import Store
from ..wording import first_few, plural

_ORDER = ("row",)
"""Columns of the ``questions`` table that say where a question is in its file, not what it is."""


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """A version: when it was published, by which command line (None: by a program), and what it changed."""

    version: int
    created_at: str
    command: str | None
    changes: list[str]


def history(root: Path, latest: int | None = None, until: int | None = None) -> list[VersionDescription]:
    """Return every version that is still there, oldest first; a version that is damaged says so.

    If the version before one is gone or damaged, its changes are those since the last that can be read.

    Parameters
    ----------
    root
        The store directory.
    latest
        Describe only this many versions, the latest; None describes all of them.
    until
        The last version to describe; None for the newest.
    """
    described: list[VersionDescription] = []
    before: Manifest | None = None
    shown = [version for version in versions(root) if until is None or version <= until]
    if latest is not None and len(shown) > latest:
        before, shown = _last_readable(root, shown[:-latest]), shown[-latest:]
    for version in shown:
        try:
            manifest = load(root, version)
        except StoreDamageError as error:
            described.append(VersionDescription(version, "", None, [str(error)]))
            continue
        changes = _changes(before or first_manifest(), manifest)
        if version and (before is None or before.version != version - 1):  # what it changed itself cannot be told
            since = "holds" if before is None else f"since version {before.version}"
            changes = [f"{since}: {change}" for change in changes]
        described.append(VersionDescription(version, manifest.created_at, manifest.command, changes))
        before = manifest
    return described


def _last_readable(root: Path, known: Sequence[int]) -> Manifest | None:
    for version in reversed(known):
        with suppress(StoreDamageError):
            return load(root, version)
    return None


def _changes(before: Manifest, after: Manifest) -> list[str]:
    """Return what one version adds to and removes from another, by feature and by part of a table, in rows."""
    changes = []
    for name in sorted(before.features.keys() | after.features.keys()):
        old, new = before.feature(name), after.feature(name)
        old_rows = old.specs[old.current].rows if old is not None else 0
        new_rows = new.specs[new.current].rows if new is not None else 0
        if old is not None and new is not None and old.current != new.current:
            specs = f"spec {old.current[:8]} to {new.current[:8]}"
            changes.append(f"{name}: {specs}, {old_rows} to {plural(new_rows, 'row')}")
        elif old is None or new is None or old != new:
            moved = "rows moved" if old_rows == new_rows and old is not None else _signed(new_rows - old_rows)
            changes.append(f"{name}: {moved}" + (" (no longer in the store)" if new is None else ""))
    for name, part in _places(before, after):
        old_part, new_part = _part(before, name, part), _part(after, name, part)
        title = f"{name} {part}".rstrip()
        if old_part is None or new_part is None or old_part.files != new_part.files:
            difference = (new_part.rows if new_part else 0) - (old_part.rows if old_part else 0)
            changes.append(f"{title}: {_signed(difference) if difference else 'written anew'}")
        elif old_part.stale != new_part.stale:
            changes.append(f"{title}: {'stale' if new_part.stale else 'no longer stale'}")
    if before.failures != after.failures:
        changes.append("failures: changed")
    return changes


def _signed(rows: int) -> str:
    return f"{rows:+d} {'row' if abs(rows) == 1 else 'rows'}"


def _places(*manifests: Manifest) -> list[tuple[str, str]]:
    """Return (table, part) of all tables of some versions, sorted."""
    return sorted({(name, part) for manifest in manifests for name, part, _ in manifest.table_parts()})


def _part(manifest: Manifest, name: str, part: str) -> TablePart | None:
    return manifest.tables[name].parts.get(part) if name in manifest.tables else None


@dataclass(slots=True)
class KeyChanges:
    """Rows of one feature, or questions of one split, that differ between two versions.

    Attributes
    ----------
    name
        The feature, or ``<dataset>/<split>``.
    added, removed
        Keys that only one of the versions has.
    changed
        Keys that both have, with other content.
    why
        Why the changed ones differ.
    """

    name: str
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    why: str = ""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def lines(self) -> list[str]:
        """Return one line for what was added, one for what was removed, and one for what changed."""
        reason = f" ({self.why})" if self.why else ""
        named = (("added", self.added, ""), ("removed", self.removed, ""), ("changed", self.changed, reason))
        return [
            f"{self.name}: {len(keys)} {what}{why}: {first_few([repr(key) for key in keys])}"
            for what, keys, why in named
            if keys
        ]


@dataclass(slots=True)
class Difference:
    """What differs between two versions of a store.

    Attributes
    ----------
    before, after
        The versions.
    features, questions
        Rows by feature, and questions by split.
    failures
        Failures that only the later version has (``<feature>: <key>: <class>``), and those that are gone.
    tables
        One line for each other part of a table that differs, with the reason.
    """

    before: int
    after: int
    features: list[KeyChanges] = field(default_factory=list)
    questions: list[KeyChanges] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.features or self.questions or self.failures or self.tables)

    def lines(self) -> list[str]:
        """Return the difference for a person."""
        lines = [line for changes in (*self.features, *self.questions) for line in changes.lines()]
        lines += [f"failures {what}: {len(found)}: {first_few(found)}" for what, found in self.failures.items()]
        return lines + self.tables


def diff(before: Store, after: Store) -> Difference:
    """Say which rows, questions and tables differ between two versions, and why."""
    result = Difference(before.version, after.version)
    for name in sorted(before.features.keys() | after.features.keys()):
        if changes := _feature(name, before, after):
            result.features.append(changes)
    result.questions = list(_questions(before, after))
    old, new = (_failures(store) for store in (before, after))
    known = {"added": [line for line in new if line not in old], "gone": [line for line in old if line not in new]}
    result.failures = {what: found for what, found in known.items() if found}
    for name, part in _places(before.manifest, after.manifest):
        if line := _table(name, part, before.manifest, after.manifest):
            result.tables.append(line)
    return result


def _feature(name: str, before: Store, after: Store) -> KeyChanges:
    if _log(name, before) == _log(name, after):
        return KeyChanges(name)
    old, new = _rows(name, before), _rows(name, after)
    known = name in before.features and name in after.features
    fields = _differing(before.spec(name), after.spec(name)) if known else []
    at = pc.index_in(new["key"], value_set=old["key"].combine_chunks())  # where the earlier version has each key
    common = pc.is_valid(at)
    here, there = new.filter(common), old.take(at.drop_null())
    moved = functools.reduce(pc.or_, [pc.not_equal(here[column], there[column]) for column in ("shard", "row")])
    other_content = pc.not_equal(here["cache_key"], there["cache_key"])
    at_all = pc.indices_nonzero(pc.or_(moved, other_content))  # other rows are the same rows
    differ = _row_digests(name, before, there.take(at_all)) != _row_digests(name, after, here.take(at_all))
    changed = at_all.filter(pa.array(differ.any(axis=1)))  # not a row that only moved, as compaction moves it
    changes = KeyChanges(
        name,
        added=_keys(new.filter(pc.invert(common))),
        removed=_keys(old.filter(pc.invert(pc.is_in(old["key"], value_set=new["key"].combine_chunks())))),
        changed=_keys(here if fields else here.take(changed)),
    )
    if fields:
        equal = here.num_rows - len(changed)
        changes.why = f"other spec: {first_few(fields, 6)}" + (f"; {equal} have equal values" if equal else "")
    else:
        contents = pc.all(other_content.take(changed), min_count=0).as_py()
        changes.why = "other content" if contents else "computed anew, with other values"
    return changes


def _log(name: str, store: Store) -> tuple[str, tuple[SegmentRef, ...]] | None:
    """Return what decides which rows a feature has: its spec, and the segments of its index."""
    if name not in store.features:
        return None
    spec_digest = store.features[name].spec_digest
    return spec_digest, store.manifest.spec_entry(name, spec_digest).index


def _rows(name: str, store: Store) -> pa.Table:
    """Return the row index of a feature; an empty one if the version lacks the feature."""
    return store.index(name) if name in store.features else schemas.INDEX.empty_table()


def _keys(index: pa.Table) -> list[str]:
    keys: list[str] = index["key"].cast(pa.large_string()).to_pylist()
    return keys


def _row_digests(name: str, store: Store, index: pa.Table) -> Array:
    """Return the row digests of some records of a feature's index, ``[N, 32] uint8``."""
    digests = np.empty((index.num_rows, 32), np.uint8)
    rows = index["row"].to_numpy()
    for shard, places in by_shard(index):
        digests[places] = store.shard(name, shard.hex()).column("row_digest")[rows[places]]
    return digests


def _differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the dotted names of the fields in which two JSON values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted(old.keys() | new.keys())
        return [
            field for name in names for field in _differing(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
        ]
    return [] if old == new else [path]


def _questions(before: Store, after: Store) -> Iterator[KeyChanges]:
    """Yield the changed questions of every split of either version."""
    places = {place for place in _places(before.manifest, after.manifest) if place[0] == "questions"}
    parts = [part for _, part in sorted(places) if _files(before, part) != _files(after, part)]
    tables = [_read_parts(store, parts) for store in (before, after)]
    splits = sorted({split for table in tables if _has_splits(table) for split in splits_of(table)})
    for dataset, split in splits:
        old, new = (_by_id(table, dataset, split) for table in tables)
        fields_of = {key: _differing(old[key], new[key]) for key in new if key in old}
        differing = {key for key, fields in fields_of.items() if fields}
        changes = _compare(f"{dataset}/{split}", old, new, differing.__contains__)
        fields = dict.fromkeys(field for key in changes.changed for field in fields_of[key])
        changes.why = f"other {', '.join(fields)}" if fields else ""
        if changes:
            yield changes


def _files(store: Store, part: str) -> list[str] | None:
    """Return what identifies the files of a part of the questions; None if the version lacks it."""
    held = _part(store.manifest, "questions", part)
    return None if held is None else [file.sha256 for file in held.files]


def _read_parts(store: Store, parts: Sequence[str]) -> pa.Table | None:
    """Read some parts of the questions, of those that a version has; None if it has none of them."""
    held = [part for part in parts if _files(store, part) is not None]
    tables = [store.table("questions", part) for part in held]
    return pa.concat_tables(tables, promote_options="default") if tables else None


def _has_splits(table: pa.Table | None) -> bool:
    return table is not None and {"dataset", "split", "question_id"} <= set(table.column_names)


def _by_id(table: pa.Table | None, dataset: str, split: str) -> dict[str, Any]:
    if table is None or not _has_splits(table):
        return {}
    rows = rows_of_split(table, dataset, split).to_pylist()
    return {row["question_id"]: {name: row[name] for name in row if name not in _ORDER} for row in rows}


def _compare(name: str, old: Mapping[str, Any], new: Mapping[str, Any], differs: Callable[[str], bool]) -> KeyChanges:
    return KeyChanges(
        name,
        added=sorted(key for key in new if key not in old),
        removed=sorted(key for key in old if key not in new),
        changed=sorted(key for key in new if key in old and differs(key)),
    )


def _failures(store: Store) -> dict[str, None]:
    records = store.failures().to_pylist()
    return dict.fromkeys(f"{row['feature']}: {row['video_id']!r}: {row['class']}" for row in records)


def _table(name: str, part: str, before: Manifest, after: Manifest) -> str | None:
    """Return how a part of a table differs, in one line; None if it does not."""
    old, new, title = _part(before, name, part), _part(after, name, part), f"table {name} {part}".rstrip()
    if old is None or new is None:
        rows = sum(entry.rows for entry in (old, new) if entry is not None)
        return f"{title}: {'removed' if new is None else 'added'} ({plural(rows, 'row')})"
    if old.spec_digest != new.spec_digest:
        return f"{title}: other spec ({old.rows} to {plural(new.rows, 'row')})"
    if [file.sha256 for file in old.files] != [file.sha256 for file in new.files]:
        return f"{title}: other rows ({old.rows} to {plural(new.rows, 'row')})"
    if old.stale != new.stale:
        return f"{title}: {'stale: ' + first_few(new.stale) if new.stale else 'no longer stale'}"
    return None
