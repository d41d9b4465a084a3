"""What a commit changes, and what it leaves alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores import Store
from stores.commit import Changes, Failure, SourceRecord, commit, place_shard, write_spec, write_table
from stores.errors import InvalidKeyError, MissingKeyError, StoreError
from stores.format import durable, layout
from stores.format.manifest import Manifest, TablePart, load, newest_version, versions
from stores.format.schemas import SOURCES
from stores.format.segments import SegmentLog
from tests._helpers.building import OTHER_SPEC, SPEC, changes_of, commit_rows, files_under, row, store_with, write_shard


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return store_with(tmp_path / "store", "a", "b")


def failure(video_id: str, spec_digest: str, **more: Any) -> Failure:
    record = {
        "feature": "demo",
        "failure_class": "corrupt",
        "permanent": True,
        "message": "bad moov",
        "uri": f"/v/{video_id}",
    }
    return Failure(
        **{"video_id": video_id, "spec_digest": spec_digest, "content_id": "c", "attempts": 1, **record, **more}
    )


def value(root: Path, key: str, name: str = "demo") -> Any:
    with Store.open(root, lease=False) as store:
        return store.row(name, key).copy()


def test_the_same_rows_twice_make_no_new_version(root: Path) -> None:
    before = load(root)
    listed = files_under(root)
    assert commit_rows(root, [row("a"), row("b")]) == before
    assert versions(root) == [0, 1]
    assert not {path for path in files_under(root) - listed if not path.startswith("features/")}


def test_new_content_moves_the_key(root: Path) -> None:
    manifest = commit_rows(root, [row("a", content=1), row("c")])
    assert manifest.features["demo"].specs[layout.digest(SPEC)].rows == 3
    np.testing.assert_array_equal(value(root, "a"), row("a", content=1).values)
    np.testing.assert_array_equal(value(root, "b"), row("b").values)
    with Store.open(root, version=1) as old:
        np.testing.assert_array_equal(old.row("demo", "a"), row("a").values)


def test_replace_moves_a_key_of_the_same_content(root: Path) -> None:
    receipt = write_shard(root, [row("a")])
    changes = changes_of(root, receipt, replace=True)
    assert commit(root, changes).version == 2
    with Store.open(root) as store:
        assert receipt.id in store.place("demo", "a")[0]
        assert receipt.id not in store.place("demo", "b")[0]
        assert store.features["demo"].rows == 2
    assert commit(root, changes).version == 2  # the second time, there is nothing to move


def test_a_row_whose_shard_is_gone_is_replaced(root: Path) -> None:
    with Store.open(root, lease=False) as store:
        (root / store.place("demo", "a")[0]).unlink()
    assert commit_rows(root, [row("a"), row("b")]).version == 2
    np.testing.assert_array_equal(value(root, "a"), row("a").values)


def test_two_rows_of_one_key_in_one_commit(root: Path) -> None:
    first, second = write_shard(root, [row("k", content=1)]), write_shard(root, [row("k", content=2)])
    placed = place_shard(root, first) + place_shard(root, second)
    manifest = commit(root, Changes(placed=placed, shards=[first, second]))
    assert manifest.features["demo"].specs[first.spec_digest].rows == 3
    np.testing.assert_array_equal(value(root, "k"), row("k", content=2).values)


def test_removal_and_return(root: Path) -> None:
    manifest = commit(root, Changes(removed=[("demo", "a"), ("demo", "a"), ("demo", "none"), ("no feature", "a")]))
    with Store.open(root) as store:
        assert store.keys("demo") == ["b"]
        assert ("demo", "a") not in store
        assert store.features["demo"].rows == 1
    assert commit(root, Changes(removed=[("demo", "a")])) == manifest
    commit_rows(root, [row("a")])
    with Store.open(root) as store:
        assert store.keys("demo") == ["a", "b"] and store.features["demo"].rows == 2


def test_removing_everything_leaves_an_empty_feature(root: Path) -> None:
    commit(root, Changes(removed=[("demo", "a"), ("demo", "b")]))
    with Store.open(root) as store:
        assert store.keys("demo") == [] and store.features["demo"].rows == 0


def test_aliases_share_one_row(root: Path) -> None:
    receipt = write_shard(root, [row("original")])
    placed = place_shard(root, receipt, {"original": ["copy", "../copy"]})
    commit(root, Changes(placed=placed, shards=[receipt]))
    with Store.open(root) as store:
        assert {store.place("demo", key) for key in ("original", "copy", "../copy")} == {
            (f"features/demo-{receipt.spec_digest[:8]}/{receipt.id}.h5", 0)
        }
        assert np.shares_memory(store.row("demo", "copy"), store.row("demo", "original"))
    commit(root, Changes(removed=[("demo", "original")]))
    np.testing.assert_array_equal(value(root, "copy"), row("original").values)


def test_a_new_spec_retires_the_old_one_and_its_rows_fill_no_holes(root: Path) -> None:
    manifest = commit_rows(root, [row("a", content=9)], spec=OTHER_SPEC)
    old, new = layout.digest(SPEC), layout.digest(OTHER_SPEC)
    feature = manifest.features["demo"]
    assert feature.current == new
    assert feature.specs[old].retired_at is not None and feature.specs[new].retired_at is None
    with Store.open(root) as store:
        assert store.keys("demo") == ["a"]
        assert store.keys(f"demo@{old[:10]}") == ["a", "b"]
        assert store.spec("demo") == OTHER_SPEC and store.spec(f"demo@{old}") == SPEC
        np.testing.assert_array_equal(store.row(f"demo@{old}", "a"), row("a").values)
        np.testing.assert_array_equal(store.row("demo", "a"), row("a", content=9).values)
        with pytest.raises(StoreError, match="spec 'nope' is not in version 2"):
            store.keys("demo@nope")


def test_switching_back_revives_a_retired_spec(root: Path) -> None:
    commit_rows(root, [row("a")], spec=OTHER_SPEC)
    manifest = commit(root, Changes(current={"demo": layout.digest(SPEC)}))
    feature = manifest.features["demo"]
    assert feature.specs[layout.digest(SPEC)].retired_at is None
    assert feature.specs[layout.digest(OTHER_SPEC)].retired_at is not None
    with Store.open(root) as store:
        assert store.keys("demo") == ["a", "b"]


def test_every_name_lasts_before_a_version_lists_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power may fail right after the version's own name has become durable."""
    unsynced: dict[str, set[str]] = {}

    def watch(point: str) -> None:
        call, when, path = point.split(":", 2)
        folder, _, name = path.rpartition("/")
        if when != "after":
            return
        if call in ("create", "rename", "link"):
            unsynced.setdefault(folder, set()).add(name)
        elif call == "unlink":
            unsynced.get(folder, set()).discard(name)
        elif call == "fsync":
            if path.endswith("/versions"):
                kept = {
                    each: names for each, names in unsynced.items() if names and each not in (path, f"{root}/staging")
                }
                assert kept == {}
            unsynced.pop(path, None)

    monkeypatch.setattr(durable, "crash_point", watch)
    before = newest_version(root)
    commit_rows(root, [row("c")])
    source = SourceRecord("/x.mp4", 1, "1:1", "00")
    commit(root, Changes(failures=[failure("x", layout.digest(SPEC))], sources=[source]))
    assert newest_version(root) == before + 2


def test_late_rows_of_another_spec_are_retired_from_the_start(root: Path) -> None:
    receipt = write_shard(root, [row("late")], spec=OTHER_SPEC)
    manifest = commit(root, Changes(placed=place_shard(root, receipt), shards=[receipt]))
    assert manifest.features["demo"].current == layout.digest(SPEC)
    assert manifest.features["demo"].specs[receipt.spec_digest].retired_at is not None


def test_rows_without_a_receipt_are_refused(root: Path) -> None:
    receipt = write_shard(root, [row("c")])
    with pytest.raises(StoreError, match=f"rows point at shard {receipt.id}"):
        commit(root, Changes(placed=place_shard(root, receipt)))
    assert versions(root) == [0, 1]


def test_failures_are_kept_counted_and_settled(root: Path) -> None:
    spec_digest = layout.digest(SPEC)
    commit(
        root,
        Changes(
            failures=[failure("x", spec_digest), failure("y", spec_digest, failure_class="crash", permanent=False)]
        ),
    )
    manifest = commit(
        root, Changes(failures=[failure("y", spec_digest, failure_class="crash", permanent=False, attempts=2)])
    )
    with Store.open(root) as store:
        table = store.failures()
        assert table.column("video_id").to_pylist() == ["x", "y"]
        assert table.column("attempts").to_pylist() == [1, 2]
        assert table.column("class").to_pylist() == ["corrupt", "crash"]
    assert commit(root, Changes(failures=[failure("x", spec_digest)])) == manifest  # nothing new
    by_pandas = pa.concat_tables([pq.read_table(root / ref.path) for ref in manifest.failures]).to_pandas()
    assert set(by_pandas["video_id"]) == {"x", "y"}
    commit_rows(root, [row("y")])  # a stored row settles its failure
    commit(root, Changes(settled=[("demo", spec_digest, "x"), ("demo", spec_digest, "never failed")]))
    with Store.open(root) as store:
        assert store.failures().num_rows == 0


def test_failures_of_a_feature_without_rows_and_of_retired_specs(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    spec_digest, other = write_spec(root, SPEC), write_spec(root, OTHER_SPEC)
    commit(root, Changes(failures=[failure("x", spec_digest)]))
    with Store.open(root) as store:
        assert store.failures().column("video_id").to_pylist() == ["x"]
    commit(root, Changes(current={"demo": other}))
    with Store.open(root) as store:
        assert store.failures().num_rows == 0


def test_file_names_that_are_not_utf8_do_not_stop_a_commit(root: Path) -> None:
    spec_digest = layout.digest(SPEC)
    commit(
        root, Changes(failures=[failure("x", spec_digest, uri="/v/\udcff.mp4", message="cannot open /v/\udcff.mp4")])
    )
    with Store.open(root) as store:
        assert store.failures().column("uri").to_pylist() == ["/v/\\udcff.mp4"]
    with pytest.raises(InvalidKeyError):
        commit(root, Changes(failures=[failure("x" * 600, spec_digest)]))


def test_sources_are_remembered_by_their_bytes(root: Path) -> None:
    sources = [SourceRecord("/v/a.mp4", 5, "1:2", "id-a"), SourceRecord("/v/\udcff.mp4", 6, "1:3", "id-b")]
    manifest = commit(root, Changes(sources=sources))
    assert commit(root, Changes(sources=sources)) == manifest
    commit(root, Changes(sources=[SourceRecord("/v/a.mp4", 5, "9:2", "id-a")]))
    log = SegmentLog(root, load(root).sources, SOURCES)
    assert {record["key"]: (record["size"], record["stamp"], record["content_id"]) for record in log} == {
        b"/v/a.mp4": (5, "9:2", "id-a"),
        b"/v/\xff.mp4": (6, "1:3", "id-b"),
    }


def test_tables_are_parquet_that_others_read(root: Path) -> None:
    table = pa.table({"question_id": ["q1", "q2"], "spans": [[[0.5, 1.0]], []]})
    entry = write_table(root, "questions", {"kind": "questions"}, table)
    manifest = commit(root, Changes(tables={"questions": {"": entry}}))
    assert commit(root, Changes(tables={"questions": {"": entry}})) == manifest
    assert pq.read_table(root / entry.files[0].path).equals(table)
    with Store.open(root) as store:
        assert store.tables == ["questions"] and store.table("questions").equals(table)
    later = write_table(root, "questions", {"kind": "questions"}, table.slice(0, 1))
    commit(root, Changes(tables={"questions": {"": later}}))
    with Store.open(root) as store, Store.open(root, version=2) as old:
        assert (store.table("questions").num_rows, old.table("questions").num_rows) == (1, 2)


def test_jobs_that_write_different_parts_of_a_table_keep_each_others_rows(root: Path) -> None:
    parts = {
        name: write_table(root, "questions", {"kind": "questions"}, pa.table({"x": [name]}), name)
        for name in ("val", "train")
    }
    for name, part in parts.items():
        commit(root, Changes(tables={"questions": {name: part}}))
    with Store.open(root) as store:
        assert list(store.parts("questions")) == ["train", "val"]
        assert store.table("questions").column("x").to_pylist() == ["train", "val"]
        assert store.table("questions", "val").column("x").to_pylist() == ["val"]
        with pytest.raises(MissingKeyError, match="has no part 'test'"):
            store.table("questions", "test")
    commit(root, Changes(tables={"questions": {"train": None}}))
    with Store.open(root) as store:
        assert store.table("questions").column("x").to_pylist() == ["val"]
    commit(root, Changes(tables={"questions": {"val": None}}))
    with Store.open(root) as store:
        assert store.tables == []


def test_a_derived_table_is_stale_until_it_is_written_again(root: Path) -> None:
    spec = {"kind": "dictionary"}
    commit(root, Changes(tables={"dictionary": {"": write_table(root, "dictionary", spec, pa.table({"x": [1]}))}}))
    manifest = commit(root, Changes(stale={("dictionary", ""): ("clip: 'v1' changed",), ("dictionary", "b"): ("x",)}))
    assert commit(root, Changes(stale={("dictionary", ""): ("clip: 'v1' changed",)})) == manifest
    with Store.open(root) as store:
        assert store.stale("dictionary") == ("clip: 'v1' changed",)
    commit(root, Changes(tables={"dictionary": {"": write_table(root, "dictionary", spec, pa.table({"x": [2]}))}}))
    with Store.open(root) as store:
        assert store.stale("dictionary") == ()


def test_a_damaged_spec_is_written_again_and_an_old_one_made_young(root: Path) -> None:
    path = root / "specs" / f"{layout.digest(SPEC)}.json"
    text = path.read_bytes()
    path.write_bytes(text[:-9])
    write_spec(root, SPEC)
    assert path.read_bytes() == text
    os.utime(path, (0, 0))
    write_spec(root, SPEC)
    assert path.stat().st_mtime > 1e9
    same = path.stat().st_ino
    write_spec(root, SPEC)
    assert path.stat().st_ino == same


def test_a_spec_digest_is_sha256_of_sorted_compact_json() -> None:
    assert layout.digest({"b": "é", "a": 1}) == hashlib.sha256('{"a":1,"b":"é"}'.encode()).hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        layout.digest({"x": float("nan")})


def test_two_writers_of_one_part_both_keep_their_rows(root: Path) -> None:
    """The second writer commits between the first one's reading and publishing, so the first reads again."""

    def adding(word: str, meanwhile: list[str]) -> Changes:
        own = write_table(root, "words", {"kind": "words"}, pa.table({"x": [word]}))

        def update(latest: Manifest) -> TablePart:
            while meanwhile:
                commit(root, adding(meanwhile.pop(), []))
            before = latest.tables["words"].parts[""].files if "words" in latest.tables else ()
            return TablePart(spec_digest=own.spec_digest, files=(*before, *own.files))

        return Changes(updates={"words": {"": update}})

    commit(root, adding("first", ["second"]))
    with Store.open(root) as store:
        assert store.table("words")["x"].to_pylist() == ["second", "first"]


def test_an_update_may_leave_a_part_out(root: Path) -> None:
    before = load(root)
    assert commit(root, Changes(updates={"words": {"": lambda latest: None}})) == before
