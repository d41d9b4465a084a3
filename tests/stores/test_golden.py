"""A store of every format, kept as it was written; every later Reelstore must read them.

``golden/format<N>.tar.gz`` was made once, by ``python -m tests.stores.test_golden`` when that format was new, and is
never made again; a new format gets its own golden store. Rows are made from their keys by
``tests._helpers.building.row``, and the digests below were computed with numpy and hashlib when format 1 was made.
"""

from __future__ import annotations

import math
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

from stores import Store
from stores.commit import Changes, Failure, SourceRecord, commit, place_shard, write_spec, write_table
from stores.format import layout
from stores.format.manifest import signed, versions
from stores.format.receipts import read_receipt
from stores.format.rounding import COMPUTE, STORAGE, RoundingError
from stores.format.shard import ShardWriter
from stores.upkeep.repairing import repair
from stores.upkeep.verification import verify
from tests._helpers.building import (
    NUMERICS,
    OTHER_SPEC,
    SPEC,
    commit_rows,
    files_under,
    inside,
    row,
    row_digests,
    store_with,
    write_shard,
)

GOLDEN = Path(__file__).parent / "golden"
FORMATS = [1, 2, 3]
FIXED = ["a", "b", "🦔 ../x"]
RAGGED = {"long": 5, "short": 1}
ROUNDING = {
    COMPUTE: RoundingError(steps=6, max_abs=0.25, mean_abs=1e-3, min_cosine=0.9375, mean_cosine=0.999),
    STORAGE: RoundingError(steps=6, max_abs=2**-11, mean_abs=1e-5, min_cosine=0.99999, mean_cosine=1.0),
}


def make(root: Path) -> None:
    """Write two specs, fixed and ragged rows, published times, an alias, a removal, a failure, a source and a table."""
    store_with(root)
    commit_rows(root, [row("a", content=5)], spec=OTHER_SPEC)
    receipt = write_shard(root, [row(key, published=True) for key in FIXED])
    placed = place_shard(root, receipt, {"a": ["alias of a"]})
    commit(root, Changes(placed=placed, shards=[receipt], current={"demo": receipt.spec_digest}))
    commit_rows(root, [row(key, steps=steps, dtype="<f4") for key, steps in RAGGED.items()], feature="ragged")
    commit(
        root,
        Changes(
            removed=[("demo", "b")],
            failures=[
                Failure("broken", "demo", receipt.spec_digest, "corrupt", True, "no moov", "/v/broken.mp4", "c", 1)
            ],
            sources=[SourceRecord("/v/a.mp4", 10, "1:2", "content-a")],
            tables={
                "questions": {"": write_table(root, "questions", {"kind": "questions"}, pa.table({"q": ["why?"]}))}
            },
        ),
    )
    make_what_format_2_added(root)
    make_what_format_3_added(root)


def make_what_format_2_added(root: Path) -> None:
    """Add a table of several parts, a stale dictionary, and a shard with measured rounding errors."""
    parts = {
        part: write_table(root, "questions", {"kind": "questions"}, pa.table({"q": texts}), part=part)
        for part, texts in (("star/train", ["what?", "who?"]), ("star/val", ["when?"]))
    }
    centers = write_table(root, "visual_dictionary", {"kind": "dictionary", "k": 2}, pa.table({"cluster": [0, 1]}))
    commit(root, Changes(tables={"questions": dict(parts), "visual_dictionary": {"": centers}}))
    commit(root, Changes(stale={("visual_dictionary", ""): ("video a", "🦔 ../x")}))
    writer = ShardWriter(root, "half", write_spec(root, SPEC), NUMERICS)
    for key in ("c", "d"):
        writer.add(row(key))
    receipt = writer.finish(ROUNDING)
    commit(root, Changes(placed=place_shard(root, receipt), shards=[receipt], current={"half": receipt.spec_digest}))


def make_what_format_3_added(root: Path) -> None:
    """Add a dictionary with a name of its own, stale alone, a row of unknown times, and a version with a command."""
    spec = {"kind": "dictionary", "k": 1}
    centers = write_table(root, "visual_dictionary", spec, pa.table({"cluster": [2]}), "s/t/c")
    commit(root, Changes(tables={"visual_dictionary": {"s/t/c": centers}}))
    unknown = {"times": "unknown", "duration": "unknown"}
    imported = replace(row("a"), time_s=np.full(3, np.nan), duration_s=math.nan, media=unknown)
    with signed("extract.py s3://name:secret@host/videos --store s"):
        commit(root, Changes(stale={("visual_dictionary", "s/t/c"): ("video b",)}))
        commit_rows(root, [imported], feature="external", spec={**SPEC, "extractor": "external"})


def unpacked(folder: Path, number: int) -> Path:
    with tarfile.open(GOLDEN / f"format{number}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"format{number}"


@pytest.fixture(params=FORMATS)
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return unpacked(tmp_path, request.param)


def test_every_format_has_a_small_golden_store() -> None:
    assert list(range(1, layout.FORMAT_VERSION + 1)) == FORMATS
    assert all((GOLDEN / f"format{number}.tar.gz").stat().st_size < 100_000 for number in FORMATS)


def test_what_format_2_added_reads_as_it_was_written(tmp_path: Path) -> None:
    root = unpacked(tmp_path, 2)
    with Store.open(root) as store:
        assert list(store.parts("questions")) == ["", "star/train", "star/val"]
        assert store.table("questions").column("q").to_pylist() == ["why?", "what?", "who?", "when?"]
        assert store.table("questions", "star/val").to_pylist() == [{"q": "when?"}]
        assert store.stale("visual_dictionary") == ("video a", "🦔 ../x") and store.stale("questions") == ()
        shard, _ = store.place("half", "d")
    assert read_receipt(inside(root / shard).with_suffix(".json")).rounding == ROUNDING
    with Store.open(unpacked(tmp_path, 1)) as store:
        assert list(store.parts("questions")) == [""] and store.stale("questions") == ()


def test_what_format_3_added_reads_as_it_was_written(tmp_path: Path) -> None:
    with Store.open(unpacked(tmp_path, 3)) as store:
        assert store.stale("visual_dictionary", "") == ("video a", "🦔 ../x")
        assert store.stale("visual_dictionary", "s/t/c") == ("video b",)
        assert store.stale("visual_dictionary") == ("video a", "🦔 ../x", "video b")
        assert store.manifest.command == "extract.py s3://host/videos --store s"
        assert np.isnan(store.times("external", "a")).all() and np.isnan(store.clip("external", "a")[1])
        np.testing.assert_array_equal(store.row("external", "a"), row("a").values)
    for number in (1, 2):
        with Store.open(unpacked(tmp_path, number)) as store:
            assert store.manifest.command is None


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
        assert store.table("questions", "").to_pylist() == [{"q": "why?"}]
        assert [(one["video_id"], one["class"]) for one in store.failures().to_pylist()] == [("broken", "corrupt")]


def test_row_digests_have_not_changed_their_meaning(root: Path) -> None:
    assert {
        key: digest[:16] for (name, key), digest in row_digests(root).items() if name not in ("half", "external")
    } == {
        "a": "cb101806f5c07325",
        "alias of a": "cb101806f5c07325",
        "🦔 ../x": "81df3c00be36d852",
        "long": "3ff4b0ea7b0aa37a",
        "short": "689f5ab7522e339b",
    }


def test_h5py_reads_its_shards(root: Path) -> None:
    dtypes = {}
    for path in root.glob("features/[!he]*/*.h5"):  # neither "half" nor "external"
        with h5py.File(path) as file:
            dtypes[file["values"].shape] = file["values"].dtype.str
    assert dtypes == {(1, 3, 4): "<f2", (3, 3, 4): "<f2", (6, 4): "<f4"}


def test_it_verifies_and_can_be_added_to(root: Path) -> None:
    assert verify(root, deep=True).problems == []
    before = files_under(root)
    repair(root)
    assert files_under(root) == before
    for version in versions(root):
        assert verify(root, deep=True, version=version).ok
    commit_rows(root, [row("new")])
    assert verify(root, deep=True).ok and ("demo", "new") in row_digests(root)


if __name__ == "__main__":
    name = f"format{layout.FORMAT_VERSION}"
    with tempfile.TemporaryDirectory() as folder, tarfile.open(GOLDEN / f"{name}.tar.gz", "x:gz") as archive:
        make(Path(folder) / name)
        archive.add(Path(folder) / name, name)
