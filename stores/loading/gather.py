"""Rows of one feature, gathered from memory-mapped shards into one tensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import StoreError
from ..format.mapped import PAGE_BYTES, will_read
from ..format.rows import Array
from ..format.shard import ShardReader
from ..store import Store
from .buffers import Buffers
from .views import View, runs


class Gathered(NamedTuple):
    """B rows of a feature as a batch; T is the largest number of steps of a row in it.

    Attributes
    ----------
    values
        ``[B, T, *step]`` in the view's dtype; zeros after the end of a row.
    valid
        ``[B, T] bool``: False where a step is padding, in the store or after the end of a row.
    times
        ``[B, T] float64``: seconds from the start of the clip or video; 0 after the end of a row.
    """

    values: torch.Tensor
    valid: torch.Tensor
    times: torch.Tensor


class _Row(NamedTuple):
    """One row as a view shows it, ready to be copied."""

    source: (
        Any  # the view's steps (all steps, if ``picked`` is set) as an array, or as a tensor if it must be converted
    )
    picked: Array | None  # step positions, if they cannot be written as a slice
    times: Array
    valid: Array
    length: int


_ABSENT = _Row(None, None, np.empty(0), np.empty(0, bool), 0)


class _EvenRows:
    """Rows of one length, side by side, so that a batch of them takes one copy each of values, times and masks.

    Their own times and masks are small and far apart: reading them one by one costs more than copying some rows of
    values.
    """

    def __init__(self, videos: int, steps: int) -> None:
        self.whole = True
        """Whether the values of all these rows are arrays as the view wants them."""
        self._steps = steps
        self._seen = np.zeros(videos, bool)
        self._sources: list[Any] = [None] * videos
        self._times = np.zeros((videos, steps))
        self._valid = np.zeros((videos, steps), bool)

    def add(self, video: int, row: _Row) -> None:
        """Keep a row, if it has the length."""
        if row.length == self._steps:
            self._times[video], self._valid[video], self._seen[video] = row.times, row.valid, True
            self._sources[video] = row.source
            self.whole = self.whole and row.picked is None

    def take(self, videos: Sequence[int]) -> tuple[Array, Array] | None:
        """Return (times, masks) ``[B, T]`` of rows, or None if one of them is not here."""
        chosen = np.array(videos, np.intp)
        if not len(chosen) or not self._seen.take(chosen).all():
            return None
        return self._times.take(chosen, 0), self._valid.take(chosen, 0)

    def sources(self, videos: Sequence[int]) -> Sequence[Any]:
        """Return the values of rows that are here."""
        return itemgetter(*videos)(self._sources) if len(videos) > 1 else [self._sources[video] for video in videos]


class _Writable:
    """The memory of an array, not marked as read-only.

    PyTorch warns about read-only arrays, once per process, and silencing that warning is not safe in threads.
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (_address(array), False)}


def as_tensor(view: Array) -> torch.Tensor:
    """Return a memory-mapped array as a tensor without copying. Only read it: writing to it kills the process."""
    return torch.from_numpy(np.asarray(_Writable(view)))


class FeatureRows:
    """The rows of one feature for a list of videos, looked up in the index once.

    Can be pickled, and is safe under fork and spawn: each process maps shards on first use.

    Parameters
    ----------
    store
        The pinned store.
    view
        The feature, its steps and their form.
    videos
        Video keys. All methods take videos as positions in this list.
    """

    def __init__(self, store: Store, view: View, videos: Sequence[str]) -> None:
        self.path = store.path
        self.view = view
        self.videos = videos
        self._store = store
        with Store(store.path, store.manifest) as index:  # its files are closed again
            self._spec = index.spec(view.name)
            places = index.places(view.name, videos)
        self.shards = places.shards
        self.shard_of: list[int] = places.shard.tolist()
        self.row_of: list[int] = places.row.tolist()
        self._used_by = 0
        self._rows: list[_Row | None] = []
        self._even: _EvenRows | None = None
        self._form: _Form | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_used_by": 0, "_rows": [], "_even": None}

    @property
    def missing(self) -> list[str]:
        """Videos without a row."""
        return [self.videos[video] for video in np.flatnonzero(np.asarray(self.shard_of) < 0).tolist()]

    def gather(self, videos: Sequence[int], buffers: Buffers) -> Gathered:
        """Return the rows of videos as one batch. A video without a row has zeros and a mask of False.

        Raises
        ------
        StoreError
            If a row lacks a step that the view lists, or rows differ in step shape or dtype.
        """
        beside = self._beside(videos)
        if beside is None:
            rows = self._ready(videos)
            beside = self._beside(videos)
            if beside is None:
                return self._gather_uneven(rows, buffers)
        times, valid = beside
        form = self._form or self._form_of_spec()
        values = buffers.take((*times.shape, *self.view.step_shape(form.step)), form.target)
        if form.plain and self._even and self._even.whole:
            np.concatenate(self._even.sources(videos), out=values.numpy().reshape(-1, *values.shape[2:]))
        else:
            self._copy(self._ready(videos), form, values)
        return Gathered(values, torch.from_numpy(valid), torch.from_numpy(times))

    def _beside(self, videos: Sequence[int]) -> tuple[Array, Array] | None:
        """Return (times, masks) of rows, if this process has seen all of them and they have one length."""
        return self._even.take(videos) if self._even and self._used_by == os.getpid() else None

    def _gather_uneven(self, rows: Sequence[_Row], buffers: Buffers) -> Gathered:
        """Return rows of different lengths as one batch."""
        form = self._form or self._form_of_spec()
        count, steps = len(rows), max((row.length for row in rows), default=0)
        values = buffers.take((count, steps, *self.view.step_shape(form.step)), form.target)
        times, valid = np.zeros((count, steps)), np.zeros((count, steps), bool)
        for place, row in enumerate(rows):
            times[place, : row.length], valid[place, : row.length] = row.times, row.valid
            values[place, row.length :] = 0
        self._copy(rows, form, values)
        return Gathered(values, torch.from_numpy(valid), torch.from_numpy(times))

    def _copy(self, rows: Sequence[_Row], form: _Form, values: torch.Tensor) -> None:
        """Copy rows one by one into a batch, ``[B, T, *step]``."""
        if form.plain:
            for out, row in zip(values.numpy(), rows, strict=True):
                if row.picked is not None:
                    np.take(row.source, row.picked, 0, out[: row.length], "clip")  # "raise" would copy twice
                elif row.length:
                    np.copyto(out[: row.length], row.source)
        else:
            for target, row in zip(values.unbind(), rows, strict=True):
                if row.length:
                    self._convert(row, target[: row.length])

    def frames(self, videos: Sequence[int], steps: Sequence[int], buffers: Buffers) -> torch.Tensor:
        """Return ``[K, *step]``: step ``steps[k]`` of video ``videos[k]``, reading the pages of these steps only.

        The view's pool and dtype apply, its ``steps`` do not.

        Raises
        ------
        StoreError
            If a video has no row, or its row no such step.
        """
        singles = [self._single(video, step) for video, step in zip(videos, steps, strict=True)]
        form = self._form or self._form_of_spec()
        values = buffers.take((len(singles), 1, *self.view.step_shape(form.step)), form.target)
        for single in singles:
            will_read(_address(single), single.nbytes)
        for out, single in zip(values, singles, strict=True):
            self._convert(_ABSENT._replace(source=as_tensor(single)), out)
        return values[:, 0]

    def length(self, video: int) -> int:
        """Return the number of steps that the view shows of a video; 0 if it has no row."""
        return self._select(video, self._span(video)[2])[1] if self.shard_of[video] >= 0 else 0

    def whole(self) -> tuple[tuple[int, ...], torch.dtype]:
        """Return the shape ``[V, T, *step]`` and the dtype of all rows as one tensor, padded to the longest.

        Raises
        ------
        StoreError
            As ``gather``.
        """
        present = next((video for video, shard in enumerate(self.shard_of) if shard >= 0), None)
        if present is not None:
            self._ready([present])
        form = self._form or self._form_of_spec()
        steps = max(map(self.length, range(len(self.videos))), default=0)
        return (len(self.videos), steps, *self.view.step_shape(form.step)), form.target

    def _ready(self, videos: Sequence[int]) -> list[_Row]:
        """Return the rows of a batch, ready to be copied.

        For the rows that this process sees for the first time, the kernel is asked to read exactly the bytes that the
        view wants, before any of them is copied.
        """
        if self._used_by != os.getpid():
            self._rows, self._even = [None] * len(self.videos), None
            self._used_by = os.getpid()
        known = self._rows
        return [known[video] or self._prepare(video) for video in videos]

    def _prepare(self, video: int) -> _Row:
        """Look up a row and ask the kernel to read it."""
        if self.shard_of[video] < 0:
            self._rows[video] = _ABSENT
            return _ABSENT
        shard, first, span = self._span(video)
        chosen, length = self._select(video, span)
        values, times, valid = (shard.steps(name)[first : first + span] for name in ("values", "time_s", "valid"))
        form = self._checked_form(video, values)
        step_bytes = max(values.strides[0], 1)
        for start, count in runs(chosen, span, gap=(PAGE_BYTES - 1) // step_bytes):
            will_read(_address(values) + start * step_bytes, count * step_bytes)
        for beside in (times, valid):
            will_read(_address(beside), beside.nbytes)
        wanted = values[chosen] if isinstance(chosen, slice) else values
        row = self._rows[video] = _Row(
            source=wanted if form.plain else as_tensor(wanted),
            picked=None if isinstance(chosen, slice) else np.array(chosen, np.intp),
            times=shard.times(self.row_of[video])[chosen],
            valid=valid[chosen].view(bool),
            length=length,
        )
        if length:
            self._even = self._even or _EvenRows(len(self.videos), length)
            self._even.add(video, row)
        return row

    def _span(self, video: int) -> tuple[ShardReader, int, int]:
        """Return (shard, first step in it, T) of a row that is present."""
        shard = self._store.shard(self.view.name, self.shards[self.shard_of[video]])
        return (shard, *shard.span(self.row_of[video]))

    def _select(self, video: int, span: int) -> tuple[slice | list[int], int]:
        """Return the steps of a row that the view wants, and their number."""
        try:
            chosen = self.view.selection(span)
        except IndexError as error:
            raise StoreError(f"{self._where(video)} {error}") from error
        return chosen, len(range(span)[chosen]) if isinstance(chosen, slice) else len(chosen)

    def _single(self, video: int, step: int) -> Array:
        """Return one step of a row, ``[1, *stored]``."""
        if self.shard_of[video] < 0:
            raise StoreError(f"{self._where(video)} has no row")
        shard, first, span = self._span(video)
        if not -span <= step < span:
            raise StoreError(f"{self._where(video)} has {span} steps, no step {step}")
        at = first + step % span
        single: Array = shard.steps("values")[at : at + 1]
        self._checked_form(video, single)
        return single

    def _where(self, video: int) -> str:
        return f"{self.path}: feature {self.view.name!r}: key {self.videos[video]!r}"

    def _checked_form(self, video: int, values: Array) -> _Form:
        """Return the form of the feature, or raise if a row has another one."""
        if self._form is None:
            self._form = self._form_of(values.dtype, values.shape[1:])
        form = self._form
        if (values.dtype, values.shape[1:]) != (form.stored, form.step):
            raise StoreError(
                f"{self._where(video)} has steps of {values.dtype}{list(values.shape[1:])}, "
                f"others of {form.stored}{list(form.step)}; compute them under one spec"
            )
        return form

    def _form_of(self, stored: np.dtype[Any], step: tuple[int, ...]) -> _Form:
        dtype = torch.from_numpy(np.empty(0, stored)).dtype
        target = self.view.torch_dtype(dtype)
        return _Form(stored, step, target, plain=target == dtype and not self.view.pool)

    def _form_of_spec(self) -> _Form:
        """Return the form that the spec states, for a batch without a single row."""
        if "step_shape" not in self._spec or "dtype" not in self._spec:
            raise StoreError(f"{self.path}: feature {self.view.name!r}: has no row, and its spec states no shape")
        return self._form_of(np.dtype(self._spec["dtype"]), tuple(self._spec["step_shape"]))

    def _convert(self, row: _Row, out: torch.Tensor) -> None:
        """Copy a row into ``out [T, *step]``, averaged and cast as the view says."""
        wanted = row.source if row.picked is None else row.source[row.picked]
        if self.view.pool and wanted.ndim > 2:
            wanted = wanted.mean(dim=tuple(range(1, wanted.ndim - 1)), dtype=torch.float32)
        out.copy_(wanted)


class _Form(NamedTuple):
    """Stored dtype and step shape of a feature, the dtype of a batch, and whether rows are copied unchanged."""

    stored: np.dtype[Any]
    step: tuple[int, ...]
    target: torch.dtype
    plain: bool


def _address(array: Array) -> int:
    """Return the address of an array's first byte."""
    address: int = array.__array_interface__["data"][0]
    return address
