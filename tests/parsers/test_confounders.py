"""Dictionaries have the numbers of scikit-learn itself, in whatever order the members come."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from parsers import Vectors, kmeans
from parsers.confounders import Dictionary, DictionaryError, fit_dictionary, record
from parsers.kmeans import KMeansParameters
from tests.conftest import ROOT

SMALL = KMeansParameters(k=8, batch_size=64)


def blobs(count: int = 400, size: int = 6, groups: int = 8) -> tuple[NDArray[np.float32], pa.Table, NDArray[np.int64]]:
    """Return points around ``groups`` distant corners, their keys, and the corner of each point."""
    generator = np.random.default_rng(5)
    corners = generator.standard_normal((groups, size)) * 50
    group = np.arange(count) % groups
    points = corners[group] + generator.standard_normal((count, size))
    return points.astype(np.float32), pa.table({"key": [f"v{i:04d}" for i in range(count)]}), group


def as_bytes(fitted: Dictionary) -> bytes:
    arrays = (fitted.centers, fitted.means, fitted.counts, fitted.empty, fitted.assignment, fitted.distance)
    return b"".join(array.tobytes() for array in arrays)


def numbers(count: int) -> pa.Table:
    return pa.table({"key": np.arange(count)})


def test_the_defaults_are_the_published_parameters() -> None:
    """The notebooks of CRA-GQA: n_clusters 512, random_state 43, and scikit-learn's defaults of early 2025."""
    assert KMeansParameters().model_dump() == {
        "k": 512,
        "seed": 43,
        "init": "k-means++",
        "n_init": 3,
        "batch_size": 1024,
        "max_iter": 100,
        "tol": 0.0,
        "max_no_improvement": 10,
        "init_size": None,
        "reassignment_ratio": 0.01,
    }


@pytest.mark.parametrize(
    ("count", "size", "options"),
    [
        (400, 6, {"k": 8, "batch_size": 64}),
        (5000, 33, {"k": 70, "batch_size": 64}),  # many steps, and the initial centres come from a sample
        (5000, 33, {"k": 70, "batch_size": 64, "tol": 1e-3, "max_no_improvement": None}),
        (5000, 33, {"k": 70, "batch_size": 64, "max_no_improvement": None, "max_iter": 2}),
        (3000, 5, {"k": 30, "init": "random", "init_size": 100, "n_init": 2}),
        (3000, 5, {"k": 90, "init_size": 20, "reassignment_ratio": 0.3}),  # an init_size below k, many reassignments
        (1200, 9, {"k": 600, "seed": 7}),  # a mini-batch is no more than the members, which are the sample, too
        (90, 3, {"k": 1, "batch_size": 10_000}),
    ],
)
@pytest.mark.filterwarnings("ignore:init_size=20 should be larger")
def test_centres_and_assignment_are_those_of_scikit_learn(count: int, size: int, options: dict[str, Any]) -> None:
    """Bit by bit, although members are read a few at a time."""
    points, keys, _ = blobs(count, size, groups=40)
    parameters = KMeansParameters(**options)
    named = parameters.model_dump(exclude={"k", "seed"})
    with threadpool_limits(1):
        theirs = MiniBatchKMeans(parameters.k, random_state=parameters.seed, **named).fit(points)
    ours = fit_dictionary(points, keys, parameters)
    assert ours.centers.tobytes() == theirs.cluster_centers_.astype(np.float32).tobytes()
    assert (ours.assignment == theirs.labels_).all()
    nearest = theirs.transform(points)[np.arange(count), theirs.labels_]
    np.testing.assert_allclose(ours.distance, nearest, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("values", [1 << 12, 1 << 15, 1 << 24])
def test_the_size_of_blocks_does_not_matter(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points, keys, _ = blobs(4000, 33)
    expected = as_bytes(fit_dictionary(points, keys, SMALL))
    monkeypatch.setattr(kmeans, "BLOCK_VALUES", values)
    assert as_bytes(fit_dictionary(points, keys, SMALL)) == expected


class Watched:
    """Vectors that count how many numbers were asked for at once."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values, self.shape, self.dtype, self.most, self.read = values, values.shape, values.dtype, 0, 0

    def __getitem__(self, rows: Any, /) -> Any:
        found = self.values[rows].copy()
        self.most, self.read = max(self.most, found.size), self.read + len(found)
        return found


def test_only_blocks_and_mini_batches_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    points, keys, _ = blobs(30_000, 16)
    watched = Watched(points)
    vectors: Vectors = watched
    monkeypatch.setattr(kmeans, "BLOCK_VALUES", 1 << 12)
    expected = as_bytes(fit_dictionary(points, keys, SMALL))
    assert as_bytes(fit_dictionary(vectors, keys, SMALL)) == expected
    assert watched.most == 1 << 12  # a block; the sample for the initial centres is 3 mini-batches of 64 × 16
    assert watched.read > 3 * 30_000  # checked, assigned, described


def test_progress_is_shown_and_can_end_a_fit() -> None:
    points, keys, _ = blobs(3000, 700)
    seen: list[tuple[str, int, int]] = []
    fit_dictionary(points, keys, SMALL, lambda stage, done, total, note: seen.append((stage, done, total)))
    assert [stage for stage, _, _ in dict.fromkeys((stage, 0, 0) for stage, _, _ in seen)] == [
        "check",
        "initial",
        "fit",
        "assign",
        "describe",
    ]
    for stage in ("check", "assign", "describe"):
        done = [entry[1] for entry in seen if entry[0] == stage]
        assert len(done) > 1 and done == sorted(set(done)) and done[-1] == 3000
    assert [entry[1:] for entry in seen if entry[0] == "initial"] == [(number, 3) for number in range(4)]
    steps = [entry[1:] for entry in seen if entry[0] == "fit"]
    assert steps[0] == (0, 100 * 3000 // 64) and steps[-1][0] == steps[-1][1]

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if (stage, done) == ("fit", 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_dictionary(points, keys, SMALL, stop)


def test_far_groups_become_one_cluster_each_and_means_are_their_means() -> None:
    points, keys, group = blobs()
    fitted = fit_dictionary(points, keys, SMALL)
    for corner in range(8):
        (cluster,) = set(fitted.assignment[group == corner].tolist())
        np.testing.assert_allclose(fitted.means[cluster], points[group == corner].mean(axis=0), rtol=1e-4, atol=1e-4)
    assert fitted.counts.tolist() == [50] * 8
    assert not fitted.empty.any()


@settings(max_examples=10)
@given(st.permutations(range(60)))
def test_the_order_of_members_does_not_matter(order: list[int]) -> None:
    points, keys, _ = blobs(60)
    expected = fit_dictionary(points, keys, SMALL)
    shuffled = fit_dictionary(points[order], keys.take(order), SMALL)
    assert shuffled.centers.tobytes() == expected.centers.tobytes()
    assert shuffled.means.tobytes() == expected.means.tobytes()
    assert (shuffled.assignment == expected.assignment[order]).all()
    assert (shuffled.distance == expected.distance[order]).all()


def test_threads_and_hash_seed_do_not_matter() -> None:
    code = (
        "import hashlib; from tests.parsers.test_confounders import *;"
        "points, keys, _ = blobs(600, 32);"
        "print(hashlib.sha256(as_bytes(fit_dictionary(points, keys, SMALL))).hexdigest())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, capture_output=True, check=True
    )
    points, keys, _ = blobs(600, 32)
    assert done.stdout.strip() == hashlib.sha256(as_bytes(fit_dictionary(points, keys, SMALL))).hexdigest()


def test_an_empty_cluster_keeps_its_centre_and_is_flagged() -> None:
    """Ten members at two points cannot fill four clusters; the published code gives NaN as the other means."""
    points = np.repeat(np.array([[0, 0], [9, 9]], np.float32), 5, axis=0)
    fitted = fit_dictionary(points, numbers(10), KMeansParameters(k=4, batch_size=10))
    assert fitted.empty.sum() == 2
    assert (fitted.counts[fitted.empty] == 0).all()
    assert (fitted.means[fitted.empty] == fitted.centers[fitted.empty]).all()
    assert np.isfinite(fitted.means).all()
    assert fitted.counts.sum() == 10


def test_an_error_says_what_to_do() -> None:
    points, keys, _ = blobs(20)
    with pytest.raises(
        DictionaryError, match="512 clusters need at least as many members, but there are 20; set k to 20 or less"
    ):
        fit_dictionary(points, keys)
    with pytest.raises(DictionaryError, match="member 'v0003' is given twice"):
        fit_dictionary(points, pa.concat_tables([keys.slice(0, 19), keys.slice(3, 1)]), SMALL)
    points[7, 2] = np.nan
    with pytest.raises(DictionaryError, match="member 'v0007' holds NaN"):
        fit_dictionary(points, keys, SMALL)
    with pytest.raises(DictionaryError, match="member 'v0007' holds NaN"):
        fit_dictionary(points[::-1].copy(), keys.take(list(range(20))[::-1]), SMALL)
    steps = pa.table({"key": ["v"] * 20, "step": range(20)})
    with pytest.raises(DictionaryError, match=r"member \('v', 7\) holds NaN"):
        fit_dictionary(points, steps, SMALL)
    with pytest.raises(DictionaryError, match=r"got float64 \[20, 6\] for 20 keys"):
        fit_dictionary(points.astype(np.float64), keys, SMALL)


def test_a_memory_map_gives_the_same_bytes(tmp_path: Path) -> None:
    points, keys, _ = blobs()
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    assert as_bytes(fit_dictionary(mapped, keys, SMALL)) == as_bytes(fit_dictionary(points, keys, SMALL))


def test_members_are_not_copied() -> None:
    """Peak memory grows by a small part of the size of the members, even where they must be sorted."""
    rows = 24_000
    code = (
        "import numpy as np, resource; import pyarrow as pa;"
        "from parsers import KMeansParameters, fit_dictionary;"
        "small = np.random.default_rng(0).standard_normal((600, 768)).astype(np.float32);"
        "fit_dictionary(small, pa.table({'key': np.arange(600)[::-1]}), KMeansParameters(k=8));"
        f"points = np.random.default_rng(0).standard_normal(({rows}, 768), np.float32);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"keys = pa.table({{'key': np.arange({rows})[::-1]}});"
        "fit_dictionary(points, keys, KMeansParameters(k=8, max_iter=1));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, capture_output=True, check=True
    )
    assert int(done.stdout) * 1024 < 0.6 * rows * 768 * 4


def test_the_record_names_libraries_and_instruction_sets() -> None:
    libraries = record()
    assert {"scikit_learn", "numpy", "scipy", "blas", "cpu_features"} <= libraries.keys()
    assert libraries["cpu_features"]
    assert libraries["threads"] == 1
