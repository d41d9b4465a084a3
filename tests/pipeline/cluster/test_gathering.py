"""Vectors of members are read in place: the same numbers as rows read one by one, and never all of them at once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from parsers import KMeansParameters, fit_dictionary, kmeans
from pipeline.cluster.gathering import NodeVectors, StepVectors
from pipeline.shared import visual_members
from stores import Store
from stores.commit import create_store
from stores.format.rows import EXTERNAL, UNKNOWN, Row
from tests._helpers.building import commit_rows, row
from tests._helpers.dictionaries import question, write_questions

SPEC = {"name": "wide", "step_shape": [5], "dtype": "float16", "extractor": EXTERNAL}


def a_row(number: int, steps: int, valid: Sequence[int], width: int = 5, times_known: bool = True) -> Row:
    generator = np.random.default_rng(number)
    return Row(
        key=f"train{number:02d}",
        cache_key=row("x", number).cache_key,
        values=generator.standard_normal((steps, width)).astype(np.float16),
        time_s=np.arange(steps) + number / 100,
        valid=np.isin(np.arange(steps), valid),
        duration_s=float(steps),
        media={} if times_known else {"times": UNKNOWN},
    )


def ask(root: Path, videos: int) -> Path:
    write_questions(create_store(root), [question("train", 2 * number) for number in range(videos)])
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three shards with rows of equal and of unequal length, in no order, all of an importer that knew
    not every time."""
    root = ask(tmp_path / "store", 9)
    unknown = [a_row(number, 3, [0, 2], times_known=False) for number in (0, 6)]
    shards = (
        [a_row(7, 4, [0, 3]), a_row(2, 4, [1])],
        [a_row(8, 1, [0]), a_row(1, 6, range(6)), a_row(3, 2, [])],
        [*unknown, a_row(5, 2, [1])],
    )
    for rows in shards:
        commit_rows(root, rows, feature="wide", spec=SPEC)
    return root


def test_steps_are_those_of_rows_read_one_by_one(store: Path) -> None:
    with Store.open(store, lease=False) as opened:
        members = visual_members(opened, "wide", "nextgqa", "train")
        keys = members.table.column("key").to_pylist()
        assert keys == [f"train{number:02d}" for number in (0, 1, 2, 5, 6, 7, 8)]
        gathered = StepVectors(opened, "wide", members.table)
        valid = {key: np.flatnonzero(opened.valid("wide", key)) for key in keys}
        values = np.concatenate([opened.row("wide", key)[valid[key]] for key in keys]).astype(np.float32)
        times = np.concatenate([opened.times("wide", key)[valid[key]] for key in keys])
    assert gathered.shape == values.shape == (15, 5) and members.vectors == 15
    assert [keys[owner] for owner in gathered.owner] == [key for key in keys for _ in valid[key]]
    assert gathered.step.tolist() == [step for key in keys for step in valid[key]]
    np.testing.assert_array_equal(gathered.time_s, times)
    assert np.isnan(times).sum() == 4
    for rows in (slice(None), slice(3, 9), slice(4, 4), np.array([14, 0, 7, 7, 3]), np.array([], np.int64)):
        assert gathered[rows].dtype == np.float32
        assert gathered[rows].tobytes() == values[rows].tobytes()


def test_a_feature_without_rows_has_no_vectors(store: Path) -> None:
    with Store.open(store, lease=False) as opened:
        nothing = visual_members(opened, "swin", "nextgqa", "train")
        assert StepVectors(opened, "swin", nothing.table).shape == (0, 0)


def test_nodes_are_flattened_in_their_order() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    gathered = NodeVectors(values, np.array([[0, 3], [2, 2], [1, 0]]))
    assert gathered.shape == (3, 6)
    assert gathered[np.array([2, 0])].tolist() == [[3, 4, 5, 0, 1, 2], [0, 1, 2, 9, 10, 11]]
    assert gathered[slice(1, 2)].tolist() == [[6, 7, 8, 6, 7, 8]]


def test_a_fit_holds_a_small_part_of_its_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bytes to a fit over one array, and a tenth of its memory."""
    root = ask(tmp_path / "store", 100)
    spec = {**SPEC, "step_shape": [128]}
    rows = [a_row(number, 256, range(256), width=128) for number in range(100)]
    commit_rows(root, rows, feature="wide", spec=spec)
    monkeypatch.setattr(kmeans, "BLOCK_VALUES", 1 << 15)
    parameters = KMeansParameters(k=4, batch_size=128, max_iter=1)
    with Store.open(root, lease=False) as opened:
        members = visual_members(opened, "wide", "nextgqa", "train")
        vectors = StepVectors(opened, "wide", members.table)
        keys = members.table.select(["key"]).take(vectors.owner).append_column("step", [vectors.step])
        array = vectors[slice(None)]
        expected = fit_dictionary(array, keys, parameters)
        tracemalloc.start()
        fitted = fit_dictionary(vectors, keys, parameters)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert fitted.centers.tobytes() == expected.centers.tobytes()
    assert fitted.means.tobytes() == expected.means.tobytes()
    assert fitted.distance.tobytes() == expected.distance.tobytes()
    assert array.nbytes == 25_600 * 128 * 4
    assert peak < array.nbytes / 5
