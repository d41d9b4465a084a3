"""Rows of one feature that are read once and kept in memory or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import StoreError
from .buffers import Buffers
from .gather import FeatureRows, Gathered

_ROWS_AT_ONCE = 64


class ResidentRows:
    """The same rows as ``FeatureRows``, from one tensor ``[V, T, *step]`` on one device.

    Rows are padded to the longest of them, so one long row makes a ragged feature large. Masks and times are small and
    stay in memory, whatever the device.
    """

    def __init__(self, rows: FeatureRows, device: str) -> None:
        self.view, self.videos, self.missing = rows.view, rows.videos, rows.missing
        self.shards, self.shard_of = rows.shards, rows.shard_of
        self._path = rows.path
        count = len(rows.videos)
        order = sorted(range(count), key=lambda video: (rows.shard_of[video], rows.row_of[video]))  # as on disk
        shape, dtype = rows.whole()
        is_memory = torch.device(device).type == "cpu"
        self._values = Buffers().take(shape, dtype) if is_memory else torch.empty(shape, dtype=dtype, device=device)
        self._valid = torch.zeros(shape[:2], dtype=torch.bool)
        self._times = torch.zeros(shape[:2], dtype=torch.float64)
        read = Buffers()
        for first in range(0, count, _ROWS_AT_ONCE):
            some = rows.gather(order[first : first + _ROWS_AT_ONCE], read)
            at, steps = slice(first, first + len(some.valid)), some.valid.shape[1]
            self._values[at, :steps], self._values[at, steps:] = some.values.to(device), 0
            self._valid[at, :steps], self._times[at, :steps] = some.valid, some.times
        self._at = torch.empty(count, dtype=torch.int64)
        self._at[torch.tensor(order, dtype=torch.int64)] = torch.arange(count)
        self._lengths = torch.tensor([rows.length(video) for video in range(count)], dtype=torch.int64)

    def length(self, video: int) -> int:
        """Return the number of steps that the view shows of a video; 0 if it has no row."""
        return int(self._lengths[video])

    def gather(self, videos: Sequence[int], buffers: Buffers) -> Gathered:
        """Gather rows as ``FeatureRows.gather`` does; their values are on the device that holds them."""
        chosen = torch.tensor(videos, dtype=torch.int64)
        steps = int(self._lengths[chosen].max()) if len(chosen) else 0
        at, values = self._at[chosen], self._values[:, :steps]
        if values.is_cpu:
            out = buffers.take((len(chosen), *values.shape[1:]), values.dtype)
            values = torch.index_select(values, 0, at, out=out)
        else:
            values = values.index_select(0, self._moved(at))
        return Gathered(values, self._valid[at, :steps], self._times[at, :steps])

    def frames(self, videos: Sequence[int], steps: Sequence[int], buffers: Buffers) -> torch.Tensor:
        """Gather steps as ``FeatureRows.frames`` does.

        Raises
        ------
        StoreError
            If a row has no such step, or the view does not have all steps.
        """
        if self.view.steps is not None:
            raise StoreError(f"{self._path}: feature {self.view.name!r}: only steps={self.view.steps} are preloaded")
        chosen, wanted = torch.tensor(videos, dtype=torch.int64), torch.tensor(steps, dtype=torch.int64)
        lengths = self._lengths[chosen]
        outside = ((wanted < -lengths) | (wanted >= lengths)).nonzero().flatten().tolist()
        if outside:
            key, length = self.videos[videos[outside[0]]], int(lengths[outside[0]])
            raise StoreError(
                f"{self._path}: feature {self.view.name!r}: key {key!r} has {length} steps, no step {steps[outside[0]]}"
            )
        return self._values[self._moved(self._at[chosen]), self._moved(wanted % lengths)]

    def _moved(self, at: torch.Tensor) -> torch.Tensor:
        """Return positions where the rows are; from page-locked memory, a copy to a GPU waits for nothing."""
        device = self._values.device
        return at.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else at.to(device)
