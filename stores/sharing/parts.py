"""A part of a version: some of its features, and the videos and questions of some splits.

A part is a version of its own, made of the same shards and table files with smaller lists. Its number is that of the
version, and everything about it follows from the version and what was selected: who takes the same part twice gets the
same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import MissingKeyError
from ..format import StorePath, layout, schemas
from ..format.manifest import FeatureEntry, Manifest, SpecEntry, TableEntry
from ..format.segments import SegmentLog, SegmentRef, keep_segment
from ..format.table_files import read_table_file
from ..wording import available

QUESTIONS = "questions"


@dataclass(frozen=True, slots=True)
class Selection:
    """What a part holds.

    Attributes
    ----------
    features
        Names of features, each under its current spec; empty for all features with all their specs.
    splits
        Splits as the table ``questions`` names its parts (``nextgqa/val``); empty for all.
    """

    features: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.features or self.splits)

    def nonce(self, manifest: Manifest) -> str:
        """Return the nonce that this part of a version has; that of the version if nothing is left out."""
        if self.everything:
            return manifest.nonce
        chosen = {"of": manifest.nonce, "features": sorted(set(self.features)), "splits": sorted(set(self.splits))}
        return layout.digest(chosen)[:32]

    def __str__(self) -> str:
        chosen = [f"--features {name}" for name in self.features] + [f"--split {name}" for name in self.splits]
        return " ".join(chosen) or "everything"


EVERYTHING = Selection()


def check_selection(manifest: Manifest, selection: Selection) -> None:
    """Check that a version has what is selected.

    Raises
    ------
    MissingKeyError
        With the names that there are.
    """
    for name in selection.features:
        if name not in manifest.features:
            known = available(sorted(manifest.features))
            raise MissingKeyError(f"--features {name}: version {manifest.version} has no such feature ({known})")
    for name in selection.splits:
        if name not in (known_splits := _splits(manifest)):
            known = available(known_splits)
            raise MissingKeyError(f"--split {name}: version {manifest.version} has no questions of it ({known})")


def select(root: StorePath, manifest: Manifest, selection: Selection) -> Manifest:
    """Return the manifest of a part, whose lists are written into the store ``root``.

    ``root`` has the lists of the version; it need not have its shards.

    Raises
    ------
    MissingKeyError
        If the version lacks something that is selected.
    StoreDamageError
        If a list is damaged.
    OSError
        If a list cannot be written.
    """
    check_selection(manifest, selection)
    if selection.everything:
        return manifest
    keys = _keys(root, manifest, selection)
    features = {}
    for name in sorted(set(selection.features) or manifest.features):
        feature = manifest.features[name]
        entry = _with_keys(root, feature.specs[feature.current], keys)
        features[name] = FeatureEntry(current=feature.current, specs={feature.current: entry})
    return manifest.model_copy(
        update={
            "nonce": selection.nonce(manifest),
            "features": features,
            "tables": _tables(manifest, selection),
            "failures": _failures(root, manifest, features, keys),
            "sources": (),
        }
    )


def _splits(manifest: Manifest) -> list[str]:
    return sorted(manifest.tables[QUESTIONS].parts) if QUESTIONS in manifest.tables else []


def _keys(root: StorePath, manifest: Manifest, selection: Selection) -> pa.Array | None:
    """Return the keys of the videos that the questions of the splits are about; None for all."""
    if not selection.splits:
        return None
    parts = manifest.tables[QUESTIONS].parts
    columns = [
        read_table_file(root / file.path, file.rows, ["video_id"], {}).column("video_id")
        for split in sorted(set(selection.splits))
        for file in parts[split].files
    ]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()).unique()


def _with_keys(root: StorePath, entry: SpecEntry, keys: pa.Array | None) -> SpecEntry:
    """Return the rows of some keys, and the shards that have them."""
    index = SegmentLog(root, entry.index, schemas.INDEX).table()
    if keys is not None:
        index = index.filter(pc.is_in(index.column("key"), value_set=keys.cast(pa.large_binary())))
    shards = SegmentLog(root, entry.shards, schemas.SHARDS).table()
    used = index.column("shard").unique()
    shards = shards.filter(pc.is_in(shards.column("key").cast(pa.binary(16)), value_set=used))
    return SpecEntry(
        rows=index.num_rows,
        index=(keep_segment(root, layout.INDEX, index),) if index.num_rows else (),
        shards=(keep_segment(root, layout.INDEX, shards),) if shards.num_rows else (),
        retired_at=entry.retired_at,
    )


def _tables(manifest: Manifest, selection: Selection) -> dict[str, TableEntry]:
    """Return all tables, without the parts that belong to splits that are left out."""
    if not selection.splits:
        return dict(manifest.tables)
    left_out = set(_splits(manifest)) - set(selection.splits)
    tables = {}
    for name, table in manifest.tables.items():
        parts = {part: entry for part, entry in table.parts.items() if not _belongs(part, left_out)}
        if parts:
            tables[name] = TableEntry(parts=parts)
    return tables


def _belongs(part: str, splits: set[str]) -> bool:
    """Return whether a part of a table is of one of these splits: ``nextgqa/train``, or ``nextgqa/train/clip``."""
    names = part.split("/")
    return any("/".join(names[:count]) in splits for count in range(1, len(names) + 1))


def _failures(
    root: StorePath, manifest: Manifest, features: Mapping[str, FeatureEntry], keys: pa.Array | None
) -> tuple[SegmentRef, ...]:
    """Return the failures of these features, of some keys."""
    table = SegmentLog(root, manifest.failures, schemas.FAILURES).table()
    current = pa.array(sorted(f"{name}\0{entry.current}" for name, entry in features.items()), pa.string())
    owner = pc.binary_join_element_wise(table.column("feature"), table.column("spec"), "\0")
    wanted = pc.is_in(owner, value_set=current)
    if keys is not None:
        wanted = pc.and_(wanted, pc.is_in(table.column("video_id"), value_set=keys))
    table = table.filter(wanted)
    return (keep_segment(root, layout.FAILURES, table, ".parquet"),) if table.num_rows else ()
