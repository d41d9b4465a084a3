"""A store of format 1, kept as it was written: every later Reelstore must read it.

``golden/format1.tar.gz`` was made once, by ``python -m tests.stores.test_golden``, and is never made again; a new
format gets a golden store of its own. Its rows follow from their keys by :func:`tests.stores.building.row`, and
the digests below were taken with numpy and hashlib when it was made.
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

from stores import Store, layout
from stores.commit import Changes, Failure, SourceRecord, commit, place_shard, write_table
from stores.verify import repair, verify
from tests.stores.building import OTHER_SPEC, SPEC, commit_rows, files_under, row, row_digests, store_with, write_shard

ARCHIVE = Path(__file__).parent / "golden" / "format1.tar.gz"
FIXED = ["a", "b", "🦔 ../x"]
RAGGED = {"long": 5, "short": 1}


def make(root: Path) -> None:
    """Two specs, fixed and ragged rows, published times, an alias, a removal, a failure, a source and a table."""
    store_with(root)
    commit_rows(root, [row("a", content=5)], spec=OTHER_SPEC)
    receipt = write_shard(root, [row(key, published=True) for key in FIXED])
    placed = place_shard(root, receipt, {"a": ["alias of a"]})
    commit(root, Changes(placed=placed, shards=[receipt], current={"demo": receipt.spec}))
    commit_rows(root, [row(key, steps=steps, dtype="<f4") for key, steps in RAGGED.items()], feature="ragged")
    commit(
        root,
        Changes(
            removed=[("demo", "b")],
            failures=[Failure("broken", "demo", receipt.spec, "corrupt", True, "no moov", "/v/broken.mp4", "c", 1)],
            sources=[SourceRecord("/v/a.mp4", 10, "1:2", "content-a")],
            tables={
                "questions": {"": write_table(root, "questions", {"kind": "questions"}, pa.table({"q": ["why?"]}))}
            },
        ),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "format1"


def test_it_is_small() -> None:
    assert ARCHIVE.stat().st_size < 100_000


def test_every_row_reads_as_it_was_written(root: Path) -> None:
    with Store.open(root) as store:
        assert store.keys("demo") == ["a", "alias of a", "🦔 ../x"] and store.keys("ragged") == ["long", "short"]
        for key, made in (("a", "a"), ("alias of a", "a"), ("🦔 ../x", "🦔 ../x")):
            expected = row(made, published=True)
            np.testing.assert_array_equal(store.row("demo", key), expected.values)
            np.testing.assert_array_equal(store.times("demo", key), expected.time_s)
            np.testing.assert_array_equal(store.valid("demo", key), expected.valid)
            np.testing.assert_array_equal(store.published_times("demo", key), expected.published_time_s)
        for key, steps in RAGGED.items():
            np.testing.assert_array_equal(store.row("ragged", key), row(key, steps=steps, dtype="<f4").values)
        old = f"demo@{layout.digest(OTHER_SPEC)}"
        np.testing.assert_array_equal(store.row(old, "a"), row("a", content=5).values)
        assert store.spec("demo") == SPEC and store.spec(old) == OTHER_SPEC
        assert store.table("questions").to_pylist() == [{"q": "why?"}]
        assert [(one["video_id"], one["class"]) for one in store.failures().to_pylist()] == [("broken", "corrupt")]


def test_row_digests_have_not_changed_their_meaning(root: Path) -> None:
    assert {key: digest[:16] for (_, key), digest in row_digests(root).items()} == {
        "a": "cb101806f5c07325",
        "alias of a": "cb101806f5c07325",
        "🦔 ../x": "81df3c00be36d852",
        "long": "3ff4b0ea7b0aa37a",
        "short": "689f5ab7522e339b",
    }


def test_h5py_reads_its_shards(root: Path) -> None:
    found = {}
    for path in root.rglob("*.h5"):
        with h5py.File(path) as file:
            found[file["values"].shape] = file["values"].dtype.str
    assert found == {(1, 3, 4): "<f2", (3, 3, 4): "<f2", (6, 4): "<f4"}


def test_it_verifies_and_can_be_added_to(root: Path) -> None:
    assert verify(root, deep=True).problems == []
    before = files_under(root)
    repair(root)
    assert files_under(root) == before
    for version in range(5):
        assert verify(root, deep=True, version=version).ok
    commit_rows(root, [row("new")])
    assert verify(root, deep=True).ok and ("demo", "new") in row_digests(root)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, tarfile.open(ARCHIVE, "x:gz") as archive:
        make(Path(folder) / "format1")
        archive.add(Path(folder) / "format1", "format1")
