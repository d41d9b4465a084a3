"""Which values of a column the live records of many logs have, such as the shards that some version needs.

The versions of a store share most of their segments, so each segment is read once, not once per version.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .inside import StorePath
from .segments import SegmentRef, open_segment


def live_values(root: StorePath, logs: Collection[tuple[SegmentRef, ...]], schema: pa.Schema, column: str) -> list[Any]:
    """Return each value that a live record of one of the logs has in a column, sorted.

    Parameters
    ----------
    root
        The store.
    logs
        The segments of each log, oldest first.
    schema
        Their columns.
    column
        The column.
    """
    segments = _Segments(root, schema, column)
    certain: set[Any] = set()
    for log in logs:
        if log:  # nothing hides a record of the newest segment
            certain |= segments.values(log[-1])
    open_ = {value for log in logs for ref in log[:-1] for value in segments.values(ref)} - certain
    for log in sorted(logs, key=len, reverse=True):
        for number, ref in enumerate(log[:-1]):
            if wanted := open_ & segments.values(ref):
                open_ -= (found := segments.unhidden(ref, log[number + 1 :], wanted))
                certain |= found
    return sorted(certain)


class _Segments:
    """The segments of several logs, each opened once."""

    def __init__(self, root: StorePath, schema: pa.Schema, column: str) -> None:
        self._root, self._schema, self._column = root, schema, column
        self._tables: dict[str, pa.Table] = {}
        self._values: dict[str, set[Any]] = {}
        self._hidden: dict[tuple[str, str], pa.Array] = {}

    def _table(self, ref: SegmentRef) -> pa.Table:
        if ref.path not in self._tables:
            self._tables[ref.path] = open_segment(self._root, ref, self._schema).select(
                ["key", self._column, "removed"]
            )
        return self._tables[ref.path]

    def values(self, ref: SegmentRef) -> set[Any]:
        """Return the values of the records of a segment that are not removals."""
        if ref.path not in self._values:
            table = self._table(ref)
            self._values[ref.path] = set(table.filter(pc.invert(table["removed"]))[self._column].unique().to_pylist())
        return self._values[ref.path]

    def unhidden(self, ref: SegmentRef, newer: tuple[SegmentRef, ...], wanted: set[Any]) -> set[Any]:
        """Return which of the wanted values a record of a segment has that no newer segment hides."""
        table = self._table(ref)
        chosen = pc.is_in(
            table[self._column], value_set=pa.array(sorted(wanted), table.schema.field(self._column).type)
        )
        shown = pc.and_(chosen, pc.invert(table["removed"])).combine_chunks()
        for other in newer:
            shown = pc.and_not(shown, self._hides(other, ref))
        return set(table.filter(shown)[self._column].unique().to_pylist())

    def _hides(self, newer: SegmentRef, older: SegmentRef) -> pa.Array:
        """Return of each record of a segment whether a newer segment has its key, ``[N] bool``."""
        pair = (newer.path, older.path)
        if pair not in self._hidden:
            keys = self._table(newer)["key"].combine_chunks()
            self._hidden[pair] = pc.is_in(self._table(older)["key"], value_set=keys).combine_chunks()
        return self._hidden[pair]
