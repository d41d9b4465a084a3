"""Dictionaries have the numbers of scikit-learn itself, in whatever order the members come."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from parsers.confounders import Dictionary, DictionaryError, KMeansParameters, fit_dictionary, record
from tests.conftest import ROOT

SMALL = KMeansParameters(k=8, batch_size=64)


def blobs(count: int = 400, size: int = 6, groups: int = 8) -> tuple[NDArray[np.float32], list[str], NDArray[np.int64]]:
    """Return points around ``groups`` distant corners, their keys, and the corner of each point."""
    generator = np.random.default_rng(5)
    corners = generator.standard_normal((groups, size)) * 50
    group = np.arange(count) % groups
    points = corners[group] + generator.standard_normal((count, size))
    return points.astype(np.float32), [f"v{i:04d}" for i in range(count)], group


def as_bytes(fitted: Dictionary) -> bytes:
    arrays = (fitted.centers, fitted.means, fitted.counts, fitted.empty, fitted.assignment, fitted.distance)
    return b"".join(array.tobytes() for array in arrays)


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


def test_centres_and_assignment_are_those_of_scikit_learn() -> None:
    points, keys, _ = blobs()
    theirs = MiniBatchKMeans(n_clusters=8, random_state=43, n_init=3, batch_size=64).fit(points)
    ours = fit_dictionary(points, keys, SMALL)
    assert ours.centers.tobytes() == theirs.cluster_centers_.astype(np.float32).tobytes()
    assert (ours.assignment == theirs.labels_).all()
    np.testing.assert_allclose(ours.distance, theirs.transform(points).min(axis=1), rtol=1e-4)


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
    shuffled = fit_dictionary(points[order], [keys[i] for i in order], SMALL)
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
    fitted = fit_dictionary(points, list(range(10)), KMeansParameters(k=4, batch_size=10))
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
        fit_dictionary(points, [*keys[:-1], "v0003"], SMALL)
    points[7, 2] = np.nan
    with pytest.raises(DictionaryError, match="member 'v0007' holds NaN"):
        fit_dictionary(points, keys, SMALL)
    with pytest.raises(DictionaryError, match=r"got float64 \[20, 6\] for 20 keys"):
        fit_dictionary(points.astype(np.float64), keys, SMALL)


def test_a_memory_map_gives_the_same_bytes(tmp_path: Path) -> None:
    points, keys, _ = blobs()
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    assert as_bytes(fit_dictionary(mapped, keys, SMALL)) == as_bytes(fit_dictionary(points, keys, SMALL))


def test_members_are_not_copied() -> None:
    """Peak memory grows by less than the size of the members."""
    rows = 24_000
    code = (
        "import numpy as np, resource;"
        "from parsers.confounders import KMeansParameters, fit_dictionary;"
        "small = np.random.default_rng(0).standard_normal((600, 768)).astype(np.float32);"
        "fit_dictionary(small, range(600), KMeansParameters(k=8));"
        f"points = np.random.default_rng(0).standard_normal(({rows}, 768), np.float32);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"fit_dictionary(points, range({rows}), KMeansParameters(k=8, max_iter=1));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, capture_output=True, check=True
    )
    assert int(done.stdout) * 1024 < 0.8 * rows * 768 * 4


def test_the_record_names_libraries_and_instruction_sets() -> None:
    libraries = record()
    assert {"scikit_learn", "numpy", "scipy", "blas", "cpu_features"} <= libraries.keys()
    assert libraries["cpu_features"]
    assert libraries["threads"] == 1
