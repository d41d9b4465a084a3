"""Reads what planning must know of the files of a source: whether they have changed, and which are copies of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.extract.identity import describe_os_error, hash_content, source_status
from pipeline.extract.remote import DEFAULT_BOUNDS, Bounds, remote_status
from pipeline.extract.sources import SourceItem, Sources
from pipeline.extract.threads import map_in_threads
from stores.commit import SourceRecord
from stores.format import Manifest, SegmentLog, schemas
from stores.format.segments import whole, whole_column

_HASHERS = 4  # hashing releases the GIL, so threads help; more would only compete for one disk
_ASKERS = 16  # statuses of remote files and of files in tables that are asked for at a time

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Contents:
    """What is known of the files of a source, by position in it.

    Attributes
    ----------
    size, stamp
        As ``identity`` defines them: int64 and string arrays; null for files that cannot be read.
    content_id
        String array; null if a worker will hash the file.
    unreadable
        (failure class, message) by position of files that cannot be read.
    hashed
        The records of the files that were hashed now.
    """

    size: pa.Array
    stamp: pa.Array
    content_id: pa.Array
    unreadable: dict[int, tuple[str, str]]
    hashed: list[SourceRecord]

    def record(self, position: int, uri: str) -> SourceRecord:
        """Return the record of a readable file; its content id is empty if a worker will hash it."""
        content_id = self.content_id[position].as_py() or ""
        return SourceRecord(uri, self.size[position].as_py(), self.stamp[position].as_py(), content_id)


def read_contents(
    root: Path,
    manifest: Manifest,
    items: Sources,
    known: Callable[[Positions], Mask],
    on_hashed: Callable[[int, int], None] | None,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Contents:
    """Read the files of a source: their statuses, and the content ids that planning must know.

    Parameters
    ----------
    root, manifest
        The store, and its version to compare with.
    items
        The videos of the source.
    known
        Says of the items at some positions whether their keys have rows or failures, so that their content must be
        compared.
    on_hashed
        Called with (files hashed, files to hash).
    bounds
        How long a remote filesystem may take to answer.
    """
    size, stamp, unreadable = _statuses(items, bounds)
    log = SegmentLog(root, manifest.sources, schemas.SOURCES).table()
    content_id = _known_contents(items.column("uri"), size, stamp, log)
    new = np.flatnonzero(pc.and_(size.is_valid(), content_id.is_null()))
    is_remote = pc.greater_equal(pc.find_substring(items.column("uri").take(pa.array(new)), b"://"), 0)
    new = new[~as_mask(is_remote)]
    hashed: list[SourceRecord] = []
    if len(new):
        chosen = new[known(new) | _occurs_again(items.column("uri"), new) | _size_occurs_again(size, log, new)]
        found = _hash_all(items, chosen, on_hashed)
        ids = [None if isinstance(result, OSError) else result for result in found]
        content_id = _put(content_id, chosen, pa.array(ids, pa.string()))
        failed = {}
        for position, item, result in zip(chosen.tolist(), items.items(chosen), found, strict=True):
            if isinstance(result, OSError):
                failed[position] = describe_os_error(result)
            else:
                hashed.append(SourceRecord(item.uri, size[position].as_py(), stamp[position].as_py(), result))
        unreadable |= failed
    return Contents(size, stamp, content_id, dict(sorted(unreadable.items())), list(dict.fromkeys(hashed)))


def _statuses(items: Sources, bounds: Bounds) -> tuple[pa.Array, pa.Array, dict[int, tuple[str, str]]]:
    """Return size and stamp of each file, and what is wrong with those that have none; each is asked for once."""
    size, stamp = items.column("size"), items.column("stamp")
    missing = np.flatnonzero(size.is_null())
    places: dict[tuple[str, float | None], list[int]] = {}
    asked: list[SourceItem] = []
    for position, item in zip(missing.tolist(), items.items(missing), strict=True):
        if (item.uri, item.image_rate) not in places:
            asked.append(item)
        places.setdefault((item.uri, item.image_rate), []).append(position)
    unreadable: dict[int, tuple[str, str]] = {}
    found: dict[int, tuple[int, str]] = {}
    asking = map_in_threads(partial(_status, bounds), asked, _ASKERS)
    for positions, answer in zip(places.values(), asking, strict=True):
        for position in positions:
            if isinstance(answer, OSError):
                unreadable[position] = describe_os_error(answer)
            else:
                found[position] = answer
    where = np.array(sorted(found), np.int64)
    answers = [found[position] for position in where.tolist()]
    size = _put(size, where, pa.array([answer[0] for answer in answers], pa.int64()))
    return size, _put(stamp, where, pa.array([answer[1] for answer in answers], pa.string())), unreadable


def _status(bounds: Bounds, item: SourceItem) -> tuple[int, str] | OSError:
    try:
        if item.is_remote:
            return remote_status(item.uri, bounds)
        return source_status(Path(item.uri), item.image_rate)
    except OSError as error:
        return error


def _put(array: pa.Array, positions: Positions, values: pa.Array) -> pa.Array:
    """Return the array with these values at these positions, which ascend."""
    if not len(positions):
        return array
    mask = np.zeros(len(array), bool)
    mask[positions] = True
    return pc.replace_with_mask(array, pa.array(mask), values)


def _known_contents(uri: pa.Array, size: pa.Array, stamp: pa.Array, log: pa.Table) -> pa.Array:
    """Return the content id of each file that has its earlier size and stamp; null for the others."""
    positions = pc.index_in(uri, value_set=whole_column(log, "key"))
    before = log.select(["size", "stamp", "content_id"]).take(positions)
    same = pc.and_(pc.equal(size, before.column("size")), pc.equal(stamp, before.column("stamp")))
    same = pc.and_(same, pc.not_equal(before.column("content_id"), ""))
    return whole(pc.if_else(same, before.column("content_id"), pa.scalar(None, pa.string())))


def as_mask(column: pa.Array | pa.ChunkedArray) -> Mask:
    """Return a bool column as an array."""
    mask: Mask = np.asarray(column)
    return mask


def _occurs_again(uri: pa.Array, positions: Positions) -> Mask:
    """Return for each position whether its file occurs at other positions as well, as it does with several clips."""
    chosen = uri.take(pa.array(positions))
    counts = uri.filter(pc.is_in(uri, value_set=chosen)).value_counts()
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    return as_mask(pc.is_in(chosen, value_set=repeated))


def _size_occurs_again(size: pa.Array, log: pa.Table, positions: Positions) -> Mask:
    """Return for each position whether another file has or had the size of its file, so that it may be a copy."""
    chosen = size.take(pa.array(positions))
    counts = pa.concat_arrays([size.drop_null(), whole_column(log, "size")])
    counts = counts.filter(pc.is_in(counts, value_set=chosen)).value_counts()
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    return as_mask(pc.is_in(chosen, value_set=repeated))


def _hash_all(
    items: Sources, positions: Positions, on_hashed: Callable[[int, int], None] | None
) -> Sequence[str | OSError]:
    """Return the content id of each file or folder of images, or the error that reading it gave."""

    def hash_one(place: tuple[str, float | None]) -> str | OSError:
        path, image_rate = place
        try:
            return hash_content(Path(path), image_rate)
        except OSError as error:
            return error

    wanted = [(item.uri, item.image_rate) for item in items.items(positions)]
    places = list(dict.fromkeys(wanted))
    found = map_in_threads(hash_one, places, min(_HASHERS, os.cpu_count() or 1), on_hashed)
    by_place = dict(zip(places, found, strict=True))
    return [by_place[place] for place in wanted]
