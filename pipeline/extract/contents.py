"""Reads what planning must know of the files of a source: whether they have changed, and which are copies of others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path

from pipeline.extract.identity import describe_os_error, hash_content, remote_status, source_status
from pipeline.extract.sources import SourceItem
from pipeline.extract.threads import map_in_threads
from stores.commit import SourceRecord
from stores.format import Manifest, SegmentLog, schemas

_HASHERS = 4  # hashing releases the GIL, so threads help; more would only compete for one disk


def read_records(
    root: Path,
    manifest: Manifest,
    items: Sequence[SourceItem],
    known: Set[str],
    on_hashed: Callable[[int, int], None] | None,
) -> tuple[dict[str, SourceRecord], dict[str, tuple[str, str]], list[SourceRecord]]:
    """Read the files of a source: their statuses, and the content ids that planning must know.

    Parameters
    ----------
    root, manifest
        The store, and its version to compare with.
    items
        The videos of the source.
    known
        Keys with rows or failures, whose content must be compared.
    on_hashed
        Called with (files hashed, files to hash).

    Returns
    -------
    records
        A record by uri; its content id is empty if a worker will hash the file.
    unreadable
        (failure class, message) by uri of every other file.
    hashed
        The records of the files that were hashed now.
    """
    table = SegmentLog(root, manifest.sources, schemas.SOURCES).table()
    columns = [table.column(name).to_pylist() for name in ("key", "size", "stamp", "content_id")]
    earlier = {uri: (size, stamp, content_id) for uri, size, stamp, content_id in zip(*columns, strict=True)}
    records: dict[str, SourceRecord] = {}
    unreadable: dict[str, tuple[str, str]] = {}
    hashed: list[SourceRecord] = []
    unhashed: dict[str, SourceRecord] = {}
    rates = {item.uri: item.image_rate for item in items}
    for item in items:
        if item.uri in records or item.uri in unreadable:
            continue
        try:
            size, stamp = _status(item)
        except OSError as error:
            unreadable[item.uri] = describe_os_error(error)
            continue
        before = earlier.get(item.uri.encode("utf-8", "surrogateescape"))
        if before is not None and before[:2] == (size, stamp):
            records[item.uri] = SourceRecord(item.uri, size, stamp, before[2])
        else:
            records[item.uri] = SourceRecord(item.uri, size, stamp, "")
            if not item.is_remote:
                unhashed[item.uri] = records[item.uri]
    sizes = Counter(size for size, _, _ in earlier.values()) + Counter(record.size for record in records.values())
    clips = Counter(item.uri for item in items)
    to_compare = {item.uri for item in items if item.key in known or clips[item.uri] > 1}
    to_hash = [record for uri, record in unhashed.items() if uri in to_compare or sizes[record.size] > 1]
    for record, result in zip(
        to_hash, _hash_all([(record.uri, rates[record.uri]) for record in to_hash], on_hashed), strict=True
    ):
        if isinstance(result, OSError):
            del records[record.uri]
            unreadable[record.uri] = describe_os_error(result)
        else:
            records[record.uri] = replace(record, content_id=result)
            hashed.append(records[record.uri])
    return records, unreadable, hashed


def _status(item: SourceItem) -> tuple[int, str]:
    if item.is_remote:
        return remote_status(item.uri)
    return source_status(Path(item.uri), item.image_rate, item.status)


def _hash_all(
    paths: Sequence[tuple[str, float | None]], on_hashed: Callable[[int, int], None] | None
) -> Sequence[str | OSError]:
    """Return the content id of each file or folder of images, or the error that reading it gave."""

    def hash_one(place: tuple[str, float | None]) -> str | OSError:
        path, image_rate = place
        try:
            return hash_content(Path(path), image_rate)
        except OSError as error:
            return error

    return map_in_threads(hash_one, paths, min(_HASHERS, os.cpu_count() or 1), on_hashed)
