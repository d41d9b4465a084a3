"""Comparisons: every difference is found, measured and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stores.exchange import comparing as compare_module
from stores.exchange.comparing import Comparison, ShapeMismatch
from stores.exchange.files import ExchangeError
from stores.format.rows import Row
from tests._helpers.published_files import clip_row, clip_store, compared, exported, numbers, write_h5, write_npy


def _mutated(tmp_path: Path, change: Any) -> Comparison:
    """Export two rows, change the array of ``b``, and compare."""
    root = clip_store(tmp_path / "store", [clip_row(key, dtype=np.float32) for key in ("a", "b")])
    exported(root, tmp_path / "out", "music_avqa")
    array = np.load(tmp_path / "out" / "b.npy")
    np.save(tmp_path / "out" / "b.npy", change(array))
    (tmp_path / "out" / "index.csv").unlink()
    return compared(root, tmp_path / "out")


@pytest.mark.parametrize("block", [1, 13, 1 << 20])
def test_one_changed_value_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(compare_module, "_BLOCK", block)  # values compared at a time

    def change(array: np.ndarray) -> np.ndarray:
        array[31, 5] += 0.5
        return array

    comparison = _mutated(tmp_path, change)
    assert not comparison.ok and (comparison.identical, comparison.differing) == (1, 1)
    assert [worst.key for worst in comparison.worst] == ["b"]
    assert comparison.max_abs == pytest.approx(0.5, rel=1e-6)
    assert comparison.mean_abs == pytest.approx(0.5 / (2 * 32 * 6), rel=1e-6)
    step = clip_row("b", dtype=np.float32).values[31].astype(np.float64)
    moved = step + np.array([0, 0, 0, 0, 0, 0.5])
    cosine = step @ moved / np.linalg.norm(step) / np.linalg.norm(moved)
    assert comparison.min_cosine == pytest.approx(cosine, abs=1e-6)
    assert comparison.mean_cosine == pytest.approx(1 - (1 - cosine) / 64, abs=1e-6)
    assert compared(tmp_path / "store", tmp_path / "out", atol=0.4999).differing == 1
    assert compared(tmp_path / "store", tmp_path / "out", atol=0.5001).ok


def test_the_last_bit_and_a_lost_sign_of_zero_are_found(tmp_path: Path) -> None:
    assert _mutated(tmp_path, lambda array: np.nextafter(array, np.float32(9))).differing == 1
    zeros = Row("v", bytes(32), np.zeros((2, 3), np.float32), np.arange(2.0), np.ones(2, bool), 1.0)
    root = clip_store(tmp_path / "zeros", [zeros])
    other = write_npy(tmp_path / "npy", v=-np.zeros((2, 3), np.float32))
    comparison = compared(root, other)
    assert (comparison.differing, comparison.max_abs, comparison.min_cosine) == (1, 0.0, 1.0)
    assert compared(root, other, atol=1e-9).ok


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_on_one_side_is_named_and_spoils_no_number(tmp_path: Path, value: float) -> None:
    def change(array: np.ndarray) -> np.ndarray:
        array[0, 0] = value
        return array

    comparison = _mutated(tmp_path, change)
    assert (comparison.not_finite, comparison.differing, comparison.max_abs, comparison.min_cosine) == (
        ["b"],
        1,
        0.0,
        1.0,
    )


def test_steps_in_another_order_and_other_shapes_are_found(tmp_path: Path) -> None:
    assert _mutated(tmp_path, lambda array: array[::-1]).min_cosine < 0.9
    shorter = write_npy(tmp_path / "short", a=clip_row("a", dtype="f4").values, b=numbers(31, 6), z=numbers(2, 2))
    comparison = compared(tmp_path / "store", shorter)
    assert comparison.other_shape == [ShapeMismatch("b", [32, 6], [31, 6])]
    assert (comparison.only_there, comparison.identical, comparison.differing, comparison.ok) == (["z"], 1, 1, False)


def test_the_worst_rows_are_named_first(tmp_path: Path) -> None:
    rows = [clip_row(key, dtype=np.float32) for key in "abcdefg"]
    root = clip_store(tmp_path / "store", rows)
    errors = dict(zip("abcdefg", [3, 0, 7, 1, 5, 2, 4], strict=True))
    comparison = compared(
        root, write_npy(tmp_path / "npy", **{r.key: r.values + np.float32(errors[r.key]) for r in rows})
    )
    assert [worst.key for worst in comparison.worst] == ["c", "e", "g", "a", "f"]
    assert (comparison.differing, comparison.identical) == (6, 1)


def test_nothing_in_common_is_no_match(tmp_path: Path) -> None:
    root = clip_store(tmp_path / "store", [clip_row("a")])
    comparison = compared(root, write_npy(tmp_path / "npy", b=numbers(32, 6)))
    assert (comparison.ok, comparison.only_here, comparison.only_there, comparison.common) == (False, ["a"], ["b"], 0)


def test_narrower_rows_match_after_the_cast(tmp_path: Path) -> None:
    rows = [clip_row("a"), clip_row("b")]
    root = clip_store(tmp_path / "store", rows)
    source = write_h5(tmp_path / "x.h5", ["a", "b"], np.stack([r.values.astype(np.float64) for r in rows]))
    assert compared(root, source, dataset="CLIPL_I").identical == 2
    with pytest.raises(ExchangeError, match="no dataset 'nope'"):
        compared(root, source, dataset="nope")


def test_a_silent_step_counts_as_equal_to_silence_only(tmp_path: Path) -> None:
    values = np.array([[0, 0], [0, 0], [3, 4]], np.float32)
    quiet = Row("v", bytes(32), values, np.arange(3.0), np.ones(3, bool), 1.0)
    root = clip_store(tmp_path / "store", [quiet])
    other = np.array([[0, 0], [1, 0], [300, 400]], np.float32)
    comparison = compared(root, write_npy(tmp_path / "npy", v=other))
    assert (comparison.min_cosine, comparison.max_abs) == (0.0, 396.0)
    assert comparison.mean_cosine == pytest.approx(2 / 3)
