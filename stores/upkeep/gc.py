"""Garbage collection: after a grace period, remove the files that no kept version names."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..commit import check_identity
from ..errors import StoreError
from ..format import durable, layout, leases, schemas
from ..format.inside import Root, StorePath
from ..format.live import live_values
from ..format.manifest import FeatureEntry, Manifest, load, publish, versions
from ..format.segments import SegmentRef

GRACE_SECONDS = 7 * 24 * 3600.0
"""Versions and files younger than this are kept, unless the caller says otherwise."""


@dataclass(slots=True)
class Collection:
    """What ``collect`` removed (or would remove in a dry run)."""

    versions: list[int] = field(default_factory=list)
    kept_for_leases: list[int] = field(default_factory=list)
    retired_specs: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    bytes: int = 0


def collect(root: Root, grace_seconds: float = GRACE_SECONDS, dry_run: bool = False) -> Collection:
    """Drop old versions, specs retired before the grace period, and the files that no kept version names.

    The latest version, leased versions and versions younger than the grace period are kept, with every file that they
    name. Files younger than the grace period are kept too: they may belong to a writer that has not committed yet.

    Parameters
    ----------
    root
        The store.
    grace_seconds
        The grace period. 0 is safe only if nothing writes to the store.
    dry_run
        Report what would be removed, and remove nothing.
    """
    root = check_identity(root)
    now = time.time()
    outcome = Collection()
    leased, dead_leases = leases.held(root, now)
    latest = _retire(root, now - grace_seconds, outcome, dry_run)
    kept: list[Manifest] = [latest]
    for version in versions(root):
        if version == latest.version:
            continue
        path = root / layout.VERSIONS / layout.version_file(version)
        if version in leased:
            outcome.kept_for_leases.append(version)
        elif version < latest.version and _old(path, now - grace_seconds):
            outcome.versions.append(version)
            continue
        kept.append(load(root, version))
    named = _named(root, kept)
    garbage = []
    for path in _files(root):
        if path.relative not in named and (status := _old(path, now - grace_seconds)):
            garbage.append(path)
            outcome.files.append(path.relative)
            outcome.bytes += status.st_size
    if dry_run:
        return outcome
    for version in outcome.versions:  # first the manifests, then the files that they name
        durable.unlink(root / layout.VERSIONS / layout.version_file(version))
    durable.sync_directory(root / layout.VERSIONS)
    for path in (*dead_leases, *garbage):
        durable.unlink(path)
    for parent in (layout.FEATURES, layout.TABLES):
        for directory in (root / parent).directories():
            if not directory.listing() and _old(directory, now - grace_seconds):
                with contextlib.suppress(OSError):  # a writer has just put its first shard there
                    durable.remove_directory(directory)
    return outcome


def _old(path: StorePath, before: float) -> os.stat_result | None:
    """Return the status of a file last written before a time; None if it is younger, or no longer there."""
    try:
        status = path.status()
    except FileNotFoundError:
        return None
    return status if status.st_mtime <= before else None


def _retire(root: StorePath, before: float, outcome: Collection, dry_run: bool) -> Manifest:
    """Drop specs retired before a time from the latest version, and return it."""

    def build(latest: Manifest) -> Manifest | None:
        outcome.retired_specs = []
        features = {}
        for name, feature in latest.features.items():
            kept = {}
            for spec_digest, entry in feature.specs.items():
                retired = entry.retired_at
                if retired and datetime.datetime.fromisoformat(retired).timestamp() <= before:
                    outcome.retired_specs.append(f"{name}@{spec_digest[:8]}")
                else:
                    kept[spec_digest] = entry
            features[name] = FeatureEntry(current=feature.current, specs=kept)
        if not outcome.retired_specs or dry_run:
            return None
        return latest.model_copy(update={"features": features})

    return publish(root, build)


def _named(root: StorePath, kept: list[Manifest]) -> set[str]:
    """Return every file that the kept versions need, relative to the store."""
    named: set[str] = set()
    logs: dict[tuple[str, str], set[tuple[SegmentRef, ...]]] = {}
    for manifest in kept:
        named |= manifest.files()
        for name, feature in manifest.features.items():
            for spec_digest, entry in feature.specs.items():
                named.add(f"{layout.SPECS}/{spec_digest}.json")
                logs.setdefault((name, spec_digest), set()).add(entry.index)
        for _, _, part in manifest.table_parts():
            named.add(f"{layout.SPECS}/{part.spec_digest}.json")
            named.update((root / file.path).with_suffix(".json").relative for file in part.files)
    for (name, spec_digest), indexes in sorted(logs.items()):
        directory = layout.feature_directory(root, name, spec_digest).relative
        for shard in live_values(root, indexes, schemas.INDEX, "shard"):
            named.update((f"{directory}/{shard.hex()}.h5", f"{directory}/{shard.hex()}.json"))
    return named


def _files(root: StorePath) -> Iterator[StorePath]:
    """Yield every file that could be garbage: data files, staged files, and nonces of commits that died."""
    nested, flat = (layout.FEATURES, layout.TABLES), (layout.INDEX, layout.SOURCES, layout.FAILURES, layout.STAGING)
    for name in (*nested, *flat, layout.SPECS):
        if not (root / name).exists():
            raise StoreError(f"{root / name}: missing; run `reelstore verify`")
    for name in nested:
        for directory in (root / name).directories():
            yield from directory.files()
    for name in (*flat, layout.SPECS):
        yield from (root / name).files()
    yield from (path for path in (root / layout.VERSIONS).files() if path.name.startswith("."))
