"""The error of half precision: measured on known numbers, carried to the receipt, shown by card and inspect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.extract.precision import MEASURED_STEPS, measured_steps, rounding_error
from stores import Store
from stores.describe.card import render_card
from stores.describe.inspect import describe_store, rounding_errors
from stores.format.rounding import pooled
from tests._helpers.runs import extract, rgb_config

CONFIG = """
features:
  grid: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}, micro_batch: 4}
  whole: {extractor: rgb_grid, grid: 2, dtype: float32, sampling: {policy: uniform, n: 4}, micro_batch: 4}
  linear: {extractor: "tests._helpers.halves:Linear", dtype: float32, sampling: {policy: uniform, n: 4}}
media: {deadline_s: 20}
run: {decode_workers: 1, model_threads: 1}
"""


def test_known_numbers_have_their_known_rounding() -> None:
    """float16 keeps 10 bits: 1 + 2**-12 becomes 1, 2048 + 1 becomes 2048, 2048 stays."""
    exact = np.array([[1 + 2**-12, 0], [0, 2049], [2048, 0]], np.float32)
    error = rounding_error(exact.astype(np.float16), exact)
    assert (error.steps, error.max_abs) == (3, 1.0)
    assert error.mean_abs == pytest.approx((1 + 2**-12) / 6, rel=1e-15)
    assert error.min_cosine == error.mean_cosine == 1.0


def test_cosines_are_those_of_whole_steps() -> None:
    values = np.array([[[3, 4]], [[0, 0]], [[1, 0]], [[0, 0]]], np.float16)
    reference = np.array([[[4, 3]], [[0, 0]], [[2, 0]], [[0, 1]]], np.float32)
    error = rounding_error(values, reference)
    assert error.min_cosine == 0.0
    assert error.mean_cosine == pytest.approx((24 / 25 + 1 + 1 + 0) / 4, rel=1e-15)


def test_pooling_does_not_depend_on_order() -> None:
    generator = np.random.default_rng(0)
    rows = [generator.normal(size=(steps, 7)).astype(np.float32) for steps in (1, 5, 2, 8, 3)]
    parts = [rounding_error(row.astype(np.float16), row) for row in rows]
    whole = np.concatenate(rows)
    at_once = rounding_error(whole.astype(np.float16), whole)
    assert pooled(parts) == pooled(parts[::-1]) == pooled([parts[3], *parts[:3], parts[4]])
    assert pooled(parts).max_abs == at_once.max_abs and pooled(parts).min_cosine == at_once.min_cosine
    assert pooled(parts).mean_abs == pytest.approx(at_once.mean_abs, rel=1e-12)


def test_measured_steps_are_spread_over_the_real_ones() -> None:
    assert measured_steps(np.array([False, False, True])).tolist() == [0, 1]
    assert measured_steps(np.array([True, True])).tolist() == []
    spread = measured_steps(np.zeros(60, np.bool_))
    assert len(spread) == MEASURED_STEPS and (spread[0], spread[-1]) == (0, 59)


def test_a_run_measures_its_own_rows(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    assert extract(videos, root, rgb_config(tmp_path, text=CONFIG)).exit_code == 0
    with Store.open(root) as store:
        storage = rounding_errors(store, "grid")["storage"]
        keys = store.keys("grid")
        exact = store.read("whole", keys).reshape(-1, 12)
        stored = store.read("grid", keys).reshape(-1, 12)
        assert storage.steps == 16
        assert storage.max_abs == np.abs(stored.astype(np.float64) - exact).max() > 0
        assert storage.mean_abs == pytest.approx(np.abs(stored.astype(np.float64) - exact).mean(), rel=1e-12)
        assert rounding_errors(store, "whole") == {}

        compute = rounding_errors(store, "linear")["compute"]
        assert compute.steps == 4  # one row per loaded model is compared
        weight = torch.linspace(-1, 1, 60).view(5, 12)
        references = {key: torch.from_numpy(store.row("whole", key).copy()) @ weight.T for key in keys}
        errors = [np.abs(store.row("linear", key) - references[key].numpy()).max() for key in keys]
        assert any(compute.max_abs == pytest.approx(error, rel=1e-3) for error in errors)
        assert 2**-12 < compute.max_abs < 2**-5 and 0.999 < compute.min_cosine < 1

        description = describe_store(store)["features"]
        assert description["grid"]["rounding"] == {"storage": storage.model_dump()}
        assert description["whole"]["rounding"] == {}
        card = render_card(store)
        assert f"- storage: {storage}" in card and f"- compute: {compute}" in card
        assert all(len(store.numerics(name)) == 1 for name in store.features)


def test_the_measure_is_no_part_of_what_is_stored(videos: Path, tmp_path: Path) -> None:
    """Another run, one video at a time, compares other rows: same row digests, same shard bytes."""
    config = rgb_config(tmp_path, "run.shard_rows=1", text=CONFIG)
    for name, keys in (("forth", ("clip0", "clip1")), ("back", ("clip1", "clip0"))):
        for key in keys:
            assert extract(videos, tmp_path / name, config, only=frozenset({key})).exit_code == 0
    files = {}
    for name in ("forth", "back"):
        with Store.open(tmp_path / name) as store:
            assert rounding_errors(store, "linear")["compute"].steps == 8
        shards = sorted((tmp_path / name / "features").glob("linear-*/*.h5"))
        files[name] = sorted(path.read_bytes() for path in shards)
    assert files["forth"] == files["back"] and len(files["forth"]) == 2
