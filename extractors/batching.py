"""Reference numerics: one fixed micro-batch shape, whatever rows arrive together.

Matrix libraries choose their kernels by shape, so a frame computed in a batch of 7 differs in its last bits from the
same frame in a batch of 32. Every forward pass here therefore has exactly ``micro_batch`` steps; the last batch is
padded.

Fixing the shape is not always enough: with two threads and a batch of five, the library cuts the batch in the middle
of a frame, and that frame comes out 1e-6 apart from the others. The values of a row are hence *defined* as those of
aligned batches: each row starts a batch of its own and pads with its own last step, so that nothing else can reach
it. Filling batches across rows is an optimisation, used only after a probe has shown that it cannot be seen: one
noise frame repeated ``micro_batch`` times must come out bitwise equal at every position.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.base import ExtractorError, Json, Model, ModelOutputError, Steps
from extractors.faults import is_out_of_memory

logger = logging.getLogger("reelstore.extractors.batching")

Row = tuple[str, Steps]
Features = tuple[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Steps ``start:stop`` of row number ``row``, whose key is ``key``, at position ``at`` of a micro-batch."""

    key: str
    row: int
    start: int
    stop: int
    at: int


# What a submitted batch holds, and the function that waits for its features.
_Submitted = tuple[list[_Segment], Callable[[], NDArray[np.float32]]]


class MicroBatcher:
    """Run rows of any length through a model, in micro-batches of one fixed shape.

    A row's values depend neither on the rows beside it, nor on their order, nor on how they are split over calls.

    Attributes
    ----------
    before_forward
        Called before each forward pass of ``run``; what it raises ends the call.

    Parameters
    ----------
    model
        A loaded model.
    micro_batch
        Steps per forward pass; halved, and kept halved, when memory runs out.

    Raises
    ------
    ExtractorError
        If ``micro_batch`` is below 1.
    """

    def __init__(self, model: Model, micro_batch: int) -> None:
        if micro_batch < 1:
            raise ExtractorError(f"micro_batch must be at least 1, got {micro_batch}")
        self._model = model
        self._micro_batch = micro_batch
        self._position_independent: dict[int, bool] = {1: True}
        self.before_forward: Callable[[], None] = lambda: None

    @property
    def micro_batch(self) -> int:
        """Steps per forward pass, as it is now."""
        return self._micro_batch

    def numerics(self) -> dict[str, Json]:
        """Return the numerics under which every row of the last ``run`` was computed, ``micro_batch`` included."""
        return {**self._model.numerics(), "micro_batch": self._micro_batch}

    def run(self, rows: Sequence[Row]) -> list[Features]:
        """Compute the features of some rows.

        All rows of one call share the numerics that ``numerics()`` returns right after it: if memory runs out in the
        middle, the micro-batch is halved and the whole call starts again.

        Parameters
        ----------
        rows
            ``(key, [T_i, *prepared_shape])``; keys are unique within the call, shapes differ in T only. All are arrays,
            or all are tensors on the model's device.

        Returns
        -------
        features
            ``(key, [T_i, *step_shape] float32)`` in the order of ``rows``.

        Raises
        ------
        ModelOutputError
            If the model returns another shape or dtype, or values that are not finite; it holds the rows' keys.
        ExtractorError
            If keys are repeated or prepared shapes differ.
        MemoryError, RuntimeError
            If memory runs out with a micro-batch of one step.
        """
        self._check(rows)
        while True:
            try:
                return self._run(rows)
            except (MemoryError, RuntimeError) as error:
                if self._micro_batch == 1 or not is_out_of_memory(error):
                    raise
                self._micro_batch //= 2

    def reference(self, steps: Steps) -> NDArray[np.float32] | None:
        """Compute ``[N, *prepared_shape]`` steps in float32, whatever the model computes in: ``[N, *step_shape]``.

        Returns None if the model computes in float32 anyway, or if memory runs out.
        """
        try:
            return self._model.reference(steps)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def probe(self, shape: tuple[int, ...], dtype: str) -> None:
        """Compute one micro-batch of noise, to see whether the model computes at all.

        Parameters
        ----------
        shape, dtype
            Of one prepared step.

        Raises
        ------
        Exception
            Whatever the model raises; ``ModelOutputError`` if it returns another shape or dtype, or values that are not
            finite.
        """
        batch = np.empty((self._micro_batch, *shape), dtype)
        batch[:] = noise_steps(shape, batch.dtype)
        if not np.isfinite(self._checked(self._model.forward(batch), [])).all():
            raise ModelOutputError("the model returned values that are not finite for noise")

    def _check(self, rows: Sequence[Row]) -> None:
        counts = Counter(key for key, _ in rows)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise ExtractorError(f"row {twice[0]!r} appears {counts[twice[0]]} times in one batch")
        shapes = {(tuple(steps.shape[1:]), str(steps.dtype)) for _, steps in rows}
        if len(shapes) > 1:
            listed = ", ".join(f"{dtype} {list(shape)}" for shape, dtype in sorted(shapes))
            raise ExtractorError(f"rows of different prepared shapes in one batch: {listed}")

    def _run(self, rows: Sequence[Row]) -> list[Features]:
        step_shape = self._model.output.step_shape
        results = [(key, np.empty((len(steps), *step_shape), np.float32)) for key, steps in rows]
        if not any(len(steps) for _, steps in rows):
            return results
        batch: Any = _batch_like(rows[0][1], self._micro_batch)
        written = [0] * len(rows)
        previous: _Submitted | None = None
        for segments in self._plan(rows, batch):
            used = segments[-1].at + segments[-1].stop - segments[-1].start
            for segment in segments:
                width = segment.stop - segment.start
                batch[segment.at : segment.at + width] = rows[segment.row][1][segment.start : segment.stop]
            batch[used:] = batch[used - 1]
            # The device computes one batch while the one before it is copied out and the next one is put together.
            self.before_forward()
            submitted = (segments, self._model.submit(batch))
            if previous is not None:
                self._collect(previous, results, written)
            previous = submitted
        if previous is not None:
            self._collect(previous, results, written)
        for (key, steps), (result_key, _), count in zip(rows, results, written, strict=True):
            if key != result_key or count != len(steps):
                raise ModelOutputError(f"{key!r}: {count} of {len(steps)} steps were computed", [key])
        for key, values in results:
            if not np.isfinite(values).all():
                raise ModelOutputError(f"{key!r}: the model returned values that are not finite", [key])
        return results

    def _collect(self, submitted: _Submitted, results: list[Features], written: list[int]) -> None:
        """Wait for one batch and copy its steps to where they belong."""
        segments, wait = submitted
        features = self._checked(wait(), [segment.key for segment in segments])
        for segment in segments:
            key, values = results[segment.row]
            if key != segment.key or written[segment.row] != segment.start:
                raise ModelOutputError(f"steps of {segment.key!r} arrived out of place", [segment.key, key])
            values[segment.start : segment.stop] = features[segment.at : segment.at + segment.stop - segment.start]
            written[segment.row] = segment.stop

    def _checked(self, features: NDArray[np.float32], keys: list[str]) -> NDArray[np.float32]:
        expected = (self._micro_batch, *self._model.output.step_shape)
        if features.shape != expected or features.dtype != np.float32:
            returned = f"{features.dtype} {list(features.shape)}"
            raise ModelOutputError(f"the model returned {returned} instead of float32 {list(expected)}", keys)
        return features

    def _plan(self, rows: Sequence[Row], batch: Steps) -> Iterator[list[_Segment]]:
        """Cut rows into micro-batches and yield the segments of each, in order of position."""
        size = self._micro_batch
        packed = any(len(steps) % size for _, steps in rows) and self._is_position_independent(batch)
        pending: list[_Segment] = []
        at = 0
        for index, (key, steps) in enumerate(rows):
            start = 0
            while start < len(steps):
                stop = min(start + size - at, len(steps))
                pending.append(_Segment(key, index, start, stop, at))
                at += stop - start
                start = stop
                if at == size or (start == len(steps) and not packed):
                    yield pending
                    pending, at = [], 0
        if pending:
            yield pending

    def _is_position_independent(self, batch: Steps) -> bool:
        """Tell whether a step's place in the batch never reaches its value; probed once per micro-batch size."""
        if self._micro_batch not in self._position_independent:
            noise = np.empty(tuple(batch.shape), _numpy_dtype(batch))
            noise[:] = noise_steps(noise.shape[1:], noise.dtype)
            values = self._checked(self._model.forward(noise), [])
            equal = (values.view(np.uint32) == values[:1].view(np.uint32)).all()
            self._position_independent[self._micro_batch] = bool(equal)
            if not equal:
                logger.warning(
                    "the place of a step in a micro-batch of %d reaches its last bits on this device: rows that do not "
                    "fill a micro-batch are computed alone, up to %d times slower; another micro_batch may help",
                    self._micro_batch,
                    self._micro_batch,
                )
        return self._position_independent[self._micro_batch]


def _batch_like(steps: Steps, count: int) -> Steps:
    """Return room for ``count`` steps like these, of the same kind and in the same place."""
    shape = (count, *steps.shape[1:])
    return np.empty(shape, steps.dtype) if isinstance(steps, np.ndarray) else steps.new_empty(shape)


def _numpy_dtype(steps: Steps) -> np.dtype[Any]:
    return steps.dtype if isinstance(steps, np.ndarray) else np.dtype(str(steps.dtype).removeprefix("torch."))


def noise_steps(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return noise of a shape in the range of a prepared dtype: pictures of bytes, or a normal distribution."""
    generator = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        return generator.integers(0, 256, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
