"""Columns of a table as sequences whose values become Python objects only when they are asked for.

A million questions as lists of strings take gigabytes, and a forked worker of a ``DataLoader`` copies what it touches
of them. The same columns in Arrow's buffers take a few hundred megabytes, which all workers share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_Value = TypeVar("_Value", covariant=True)
_Read = Callable[[int], Any]

_KEPT = 1 << 16
"""Rows of columns whose values are kept: all of a small split, so that its second epoch makes none."""


def _none() -> None:
    return None


class Column(Sequence[_Value]):
    """A column as a sequence of N Python values.

    It is equal to any sequence of equal values, and ``pyarrow.array`` takes it as it is.

    Parameters
    ----------
    column
        The values.
    null
        Makes the value that stands for null.
    change
        Applied to each value that is not null.
    """

    def __init__(
        self,
        column: pa.Array | pa.ChunkedArray,
        null: Callable[[], Any] = _none,
        change: Callable[[Any], Any] | None = None,
    ) -> None:
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
        self.array: pa.Array = column
        self._null, self._change = null, change
        self._reading: _Read | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reading": None}

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return self.array if type is None else self.array.cast(type)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> _Value: ...

    @overload
    def __getitem__(self, index: slice) -> list[_Value]: ...

    def __getitem__(self, index: int | slice) -> _Value | list[_Value]:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        position = range(len(self))[index]  # raises IndexError as a list does
        return self.take((position,))[0]

    def take(self, positions: Iterable[int]) -> list[_Value]:
        """Return the values at some positions, counted from 0."""
        return list(map(self._read(), positions))

    def _read(self) -> _Read:
        self._reading = self._reading or _reader(self.array, self._null, self._change)
        return self._reading

    def __iter__(self) -> Iterator[_Value]:
        return map(self._read(), range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list, it is compared by its values

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"[{shown}{', …' if len(self) > 3 else ''}] ({len(self)} values)"


class Rows:
    """Columns whose values are wanted together, again and again; the values of the last rows are kept.

    Can be pickled; the values themselves are not. Threads may share it.

    Parameters
    ----------
    columns
        Columns of equal length.
    """

    def __init__(self, *columns: Column[Any]) -> None:
        self._columns = columns
        self._made: dict[int, tuple[Any, ...]] = {}

    def __reduce__(self) -> tuple[type[Rows], tuple[Column[Any], ...]]:
        return type(self), self._columns

    def take(self, positions: Sequence[int]) -> list[list[Any]]:
        """Return the values at some positions, counted from 0: a list for each column."""
        made = self._made
        missing = [position for position in dict.fromkeys(positions) if position not in made]
        if missing:
            if len(made) + len(missing) > _KEPT:  # readers of the old values keep them
                made = self._made = {position: made[position] for position in positions if position in made}
            values = zip(*(column.take(missing) for column in self._columns), strict=True)
            made.update(zip(missing, values, strict=True))
        rows = [made[position] for position in positions]
        return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in self._columns]


def _reader(array: pa.Array, null: Callable[[], Any], change: Callable[[Any], Any] | None = None) -> _Read:
    """Return a function that makes the value at a position."""
    if pa.types.is_null(array.type):
        return lambda position: null()
    read = _valid_reader(array)
    if change is not None:
        read = _changed(read, change)
    if not array.null_count:
        return read
    valid = pc.is_valid(array).to_numpy(zero_copy_only=False).data
    return lambda position: read(position) if valid[position] else null()


def _changed(read: _Read, change: Callable[[Any], Any]) -> _Read:
    return lambda position: change(read(position))


def _valid_reader(array: pa.Array) -> _Read:
    """Return a function that makes the value at a position that is not null.

    ``as_py`` makes a scalar of Arrow first, which takes ten times as long.
    """
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        ends, data = _offsets(array), memoryview(array.buffers()[2] or b"")
        return lambda position: str(data[ends[position] : ends[position + 1]], "utf-8")
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        ends, item = _offsets(array), _reader(array.values, _none)
        return lambda position: [item(place) for place in range(ends[position], ends[position + 1])]
    if pa.types.is_floating(array.type) and not array.null_count:
        number: _Read = array.to_numpy().data.__getitem__
        return number
    return lambda position: array[position].as_py()


def _offsets(array: pa.Array) -> memoryview:
    large = pa.types.is_large_string(array.type) or pa.types.is_large_list(array.type)
    dtype = np.dtype(np.int64 if large else np.int32)
    return np.frombuffer(array.buffers()[1], dtype, len(array) + 1, array.offset * dtype.itemsize).data


class Groups(Sequence[list[int]]):
    """The positions of N items by group: group ``g`` is an ascending list of them, made on access.

    Parameters
    ----------
    group
        ``[N]`` integers: the group of each item.
    count
        The number of groups.
    """

    def __init__(self, group: npt.NDArray[Any], count: int) -> None:
        self._order: npt.NDArray[np.int64] = np.argsort(group, kind="stable")
        self._ends: npt.NDArray[np.int64] = np.searchsorted(group[self._order], np.arange(count + 1))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        members: list[int] = self._order[self._ends[position] : self._ends[position + 1]].tolist()
        return members
