"""Micro-batches: one shape, rows that do not depend on each other, memory that runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extractors import ExtractorError, MicroBatcher, Model, ModelOutputError, OutputSpec, Steps, build
from extractors.batching import is_out_of_memory

Compute = Callable[[NDArray[Any]], NDArray[Any]]


class Recorder(Model):
    """A model of one Python function that remembers the sizes of its batches."""

    def __init__(self, compute: Compute) -> None:
        self.output = OutputSpec((2,), "test")
        self.compute = compute
        self.sizes: list[int] = []

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        return self.compute(batch)

    def numerics(self) -> dict[str, Any]:
        return {"device_type": "test"}


def double(batch: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack([batch * 2, batch + 1], axis=1).astype(np.float32)


def row(key: str, length: int) -> tuple[str, NDArray[np.uint8]]:
    return key, np.arange(length, dtype=np.uint8) + len(key)


@given(lengths=st.lists(st.integers(0, 9), max_size=6), micro_batch=st.integers(1, 7))
def test_every_row_gets_its_own_steps_whatever_the_cut(lengths: list[int], micro_batch: int) -> None:
    model = Recorder(double)
    rows = [row("k" * (index + 1), length) for index, length in enumerate(lengths)]
    results = MicroBatcher(model, micro_batch).run(rows)
    assert [key for key, _ in results] == [key for key, _ in rows]
    for (_, steps), (_, values) in zip(rows, results, strict=True):
        np.testing.assert_array_equal(values, double(steps).reshape(-1, 2))
    assert set(model.sizes) <= {micro_batch}


def test_batches_are_filled_across_rows_where_position_cannot_be_seen() -> None:
    model = Recorder(double)
    MicroBatcher(model, 4).run([row(key, 3) for key in "abcd"])
    probe = 1
    assert len(model.sizes) == probe + 3


def test_rows_start_their_own_batch_where_position_can_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    """That may be many times slower, so it is said, once."""

    def positional(batch: NDArray[Any]) -> NDArray[np.float32]:
        return double(batch) + np.arange(len(batch), dtype=np.float32)[:, None]

    rows = [row("a", 3), row("bb", 5), row("ccc", 1)]
    batcher = MicroBatcher(Recorder(positional), 4)
    together = batcher.run(rows)
    assert batcher.run(rows)[0][0] == "a"
    assert [record.getMessage().count("up to 4 times slower") for record in caplog.records] == [1]
    alone = [MicroBatcher(Recorder(positional), 4).run([single])[0] for single in rows]
    for (_, values), (_, expected) in zip(together, alone, strict=True):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(("micro_batch", "threads"), [(8, 1), (8, 2), (5, 2), (7, 2)])
def test_a_row_of_a_vit_is_bitwise_the_same_in_any_company(micro_batch: int, threads: int) -> None:
    extractor = build("clip", {"model": "ViT-S-32-alt", "weights": "random:0", "image_size": 96})
    generator = np.random.default_rng(0)
    rows = [
        (f"video{index}", generator.integers(0, 256, (length, *extractor.prepared_shape()), np.uint8))
        for index, length in enumerate((3, 8, 5, 1))
    ]
    model = extractor.load("cpu", threads)
    together = dict(MicroBatcher(model, micro_batch).run(rows))
    backwards = dict(MicroBatcher(model, micro_batch).run(rows[::-1]))
    batcher = MicroBatcher(model, micro_batch)
    alone = dict(batcher.run([single])[0] for single in rows[2:] + rows[:2])
    for key, _ in rows:
        assert together[key].tobytes() == backwards[key].tobytes() == alone[key].tobytes(), key


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_micro_batch_for_good(error: Exception) -> None:
    def limited(batch: NDArray[Any]) -> NDArray[np.float32]:
        if len(batch) > 4:
            raise error
        return double(batch)

    model = Recorder(limited)
    batcher = MicroBatcher(model, 16)
    rows = [row("a", 6), row("bb", 9)]
    for (_, steps), (_, values) in zip(rows, batcher.run(rows), strict=True):
        np.testing.assert_array_equal(values, double(steps))
    assert batcher.numerics() == {"device_type": "test", "micro_batch": 4}
    model.sizes.clear()
    batcher.run(rows)
    assert set(model.sizes) == {4}


def test_all_rows_of_a_call_share_the_numerics_reported_after_it() -> None:
    calls = 0

    def fails_on_the_second(batch: NDArray[Any]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return np.full((len(batch), 2), len(batch), np.float32)

    batcher = MicroBatcher(Recorder(fails_on_the_second), 8)
    results = batcher.run([row("a", 8), row("bb", 8)])
    assert batcher.numerics()["micro_batch"] == 4
    assert {float(value) for _, values in results for value in values.ravel()} == {4.0}


def test_the_next_batch_is_submitted_before_the_last_one_is_awaited() -> None:
    events: list[str] = []

    class Device(Recorder):
        def submit(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
            values, number = self.forward(batch), len(self.sizes)
            events.append(f"submit {number}")

            def wait() -> NDArray[np.float32]:
                events.append(f"wait {number}")
                return values

            return wait

    rows = [row("a", 6), row("bb", 6)]
    for (_, steps), (_, values) in zip(rows, MicroBatcher(Device(double), 2).run(rows), strict=True):
        np.testing.assert_array_equal(values, double(steps))
    waits = [event for event in events if event.startswith("wait")]
    assert waits == [f"wait {number}" for number in range(1, 7)]
    for number in range(1, 6):
        assert events.index(f"submit {number + 1}") < events.index(f"wait {number}")
    for number in range(1, 5):
        assert events.index(f"wait {number}") < events.index(f"submit {number + 2}"), "two in flight at most"


def test_a_single_step_that_does_not_fit_is_an_error() -> None:
    def never(batch: NDArray[Any]) -> NDArray[np.float32]:
        raise MemoryError("no")

    with pytest.raises(MemoryError):
        MicroBatcher(Recorder(never), 8).run([row("a", 2)])


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    def broken(batch: NDArray[Any]) -> NDArray[np.float32]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = Recorder(broken)
    with pytest.raises(RuntimeError, match="mat1"):
        MicroBatcher(model, 8).run([row("a", 8)])
    assert model.sizes == [8]
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda batch: double(batch)[:-1], r"\[3, 2\] instead of float32 \[4, 2\]"),
        (lambda batch: double(batch).astype(np.float64), "float64"),
        (lambda batch: np.where(batch[:, None] == 3, np.nan, double(batch)).astype(np.float32), "'bb'.*not finite"),
    ],
)
def test_output_that_cannot_be_stored_names_its_rows(compute: Compute, message: str) -> None:
    with pytest.raises(ModelOutputError, match=message) as caught:
        MicroBatcher(Recorder(compute), 4).run([("a", np.zeros(4, np.uint8)), ("bb", np.full(4, 3, np.uint8))])
    assert caught.value.keys


def test_duplicate_keys_and_mixed_shapes_are_refused() -> None:
    batcher = MicroBatcher(Recorder(double), 4)
    with pytest.raises(ExtractorError, match="'a' appears 2 times"):
        batcher.run([row("a", 1), row("a", 2)])
    with pytest.raises(ExtractorError, match="different prepared shapes"):
        batcher.run([("a", np.zeros((1, 2), np.uint8)), ("b", np.zeros((1, 3), np.uint8))])
    with pytest.raises(ExtractorError, match="at least 1"):
        MicroBatcher(Recorder(double), 0)


def test_rows_of_tensors_give_what_rows_of_arrays_give() -> None:
    """The batch is a tensor then; only the probe of the model is an array."""
    seen: list[type] = []

    class Kinds(Recorder):
        def submit(self, batch: Steps) -> Callable[[], NDArray[np.float32]]:
            seen.append(type(batch))
            return super().submit(batch)

    arrays = [row(key, length) for key, length in (("a", 5), ("bb", 1), ("ccc", 8), ("dddd", 0))]
    tensors = [(key, torch.from_numpy(steps)) for key, steps in arrays]
    expected = MicroBatcher(Recorder(double), 4).run(arrays)
    for (key, values), (expected_key, expected_values) in zip(
        MicroBatcher(Kinds(double), 4).run(tensors), expected, strict=True
    ):
        assert key == expected_key
        np.testing.assert_array_equal(values, expected_values)
    assert set(seen) == {torch.Tensor}
    with pytest.raises(ExtractorError, match="different prepared shapes"):
        MicroBatcher(Kinds(double), 4).run([arrays[0], tensors[1]])
