"""Reading: what trainers rely on."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stores import Ragged, Store
from stores.commit import Changes, Failure, commit, create_store, write_table
from stores.describe.card import write_card
from stores.describe.inspect import describe_key, describe_store
from stores.errors import InvalidKeyError, MissingKeyError, RaggedRowsError, StoreDamageError
from stores.format import feature_files, layout, segments
from stores.format.inside import StorePath
from stores.upkeep.gc import collect
from tests._helpers.building import NUMERICS, OTHER_SPEC, SPEC, commit_rows, files_under, row, store_with

DEMO = layout.digest(SPEC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return store_with(tmp_path / "store", "b", "a", "🦔", "Z")


def open_files(root: Path) -> set[str]:
    """Return the files below ``root`` that this process has open or mapped."""
    held = {
        str(Path(f"/proc/self/fd/{fd}").readlink())
        for fd in os.listdir("/proc/self/fd")
        if Path(f"/proc/self/fd/{fd}").exists()
    }
    held |= {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return {path for path in held if path.startswith(f"{root}/")}


def kept_open(root: Path) -> set[str]:
    """Return the files below ``root`` that stay open; Arrow's threads close a map milliseconds after they answered."""
    deadline = time.monotonic() + 5
    while (held := open_files(root)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held


def test_features_and_keys(root: Path) -> None:
    with Store.open(root) as store:
        assert list(store.features) == ["demo"]
        info = store.features["demo"]
        assert (info.name, info.spec_digest, info.rows) == ("demo", DEMO, 4)
        assert store.keys("demo") == ["Z", "a", "b", "🦔"]  # as bytes
        assert repr(store) == f"Store({str(root)!r}, version=1)"


def test_a_row_with_its_times_and_mask(root: Path) -> None:
    expected = row("🦔")
    with Store.open(root) as store:
        np.testing.assert_array_equal(store.row("demo", "🦔"), expected.values)
        np.testing.assert_array_equal(store.times("demo", "🦔"), expected.time_s)
        np.testing.assert_array_equal(store.valid("demo", "🦔"), expected.valid)
        assert (store.row("demo", "a").dtype, store.times("demo", "a").dtype) == (np.float16, np.float64)
        assert store.valid("demo", "a").dtype == np.bool_
        assert store.published_times("demo", "a") is None
        assert store.clip("demo", "a") == (expected.clip_start_s, expected.duration_s)
        assert store.media("demo", "a") == {"stream": 0, "codec": "h264"}


def test_published_times(tmp_path: Path) -> None:
    root = create_store(tmp_path / "store")
    commit_rows(root, [row("a", published=True)])
    with Store.open(root) as store:
        np.testing.assert_array_equal(store.published_times("demo", "a"), row("a").time_s + 0.25)


def test_rows_are_views_that_outlive_the_store(root: Path) -> None:
    with Store.open(root) as store:
        view = store.row("demo", "a")
        assert np.shares_memory(view, store.row("demo", "a")) and not view.flags.writeable
        copied = store.read("demo", ["a"])
        assert not np.shares_memory(view, copied) and copied.flags.writeable
    np.testing.assert_array_equal(view, row("a").values)


def test_read_stacks_in_the_order_asked(root: Path) -> None:
    with Store.open(root) as store:
        stacked = store.read("demo", ["b", "a", "b"])
    np.testing.assert_array_equal(stacked, np.stack([row(key).values for key in ("b", "a", "b")]))


def test_ragged_rows(tmp_path: Path) -> None:
    root = create_store(tmp_path / "store")
    lengths = {"a": 2, "b": 0, "c": 5}
    commit_rows(root, [row(key, steps=steps) for key, steps in lengths.items()])
    with Store.open(root) as store:
        with pytest.raises(RaggedRowsError, match=r"key 'c' has T=5, 'a' has T=2; use ragged=True"):
            store.read("demo", ["a", "c"])
        read = store.read("demo", ["c", "b", "a"], ragged=True)
        assert isinstance(read, Ragged) and read.offset.tolist() == [0, 5, 5, 7]
        np.testing.assert_array_equal(read.values[5:7], row("a", steps=2).values)
        assert store.read("demo", ["c", "c"]).shape == (2, 5, 4)


def test_one_step_of_a_row_is_a_view_of_it(tmp_path: Path) -> None:
    root = create_store(tmp_path / "store")
    commit_rows(root, [row(key, steps=steps) for key, steps in {"a": 2, "b": 0, "c": 5}.items()])
    with Store.open(root) as store:
        for step in (0, 4, -1):
            view = store.step("demo", "c", step)
            np.testing.assert_array_equal(view, row("c", steps=5).values[step])
            assert np.shares_memory(view, store.row("demo", "c")) and not view.flags.writeable
        with pytest.raises(MissingKeyError, match="key 'a' has 2 steps, no step 2"):
            store.step("demo", "a", 2)
        with pytest.raises(MissingKeyError, match="key 'b' has 0 steps, no step -1"):
            store.step("demo", "b", -1)


def test_a_first_row_opens_its_own_feature_alone_and_merges_no_index(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a store of a million videos opens at once; reading many rows does not merge segments either."""
    commit_rows(root, [row("b", content=1), row("c")])
    commit_rows(root, [row("b")], feature="other", spec=OTHER_SPEC)
    opened: list[str] = []

    def open_segment(root: StorePath, ref: segments.SegmentRef, schema: pa.Schema) -> pa.Table:
        opened.append(ref.path)
        return read_segment(root, ref, schema)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("all keys were asked for")

    read_segment = segments.open_segment
    monkeypatch.setattr(segments, "open_segment", open_segment)
    monkeypatch.setattr(segments, "merge", refuse)
    with Store.open(root) as store:
        with monkeypatch.context() as stricter:
            stricter.setattr(segments._Keys, "heads", refuse)  # eight bytes of every key
            np.testing.assert_array_equal(store.row("demo", "b"), row("b", content=1).values)
        entry = store.manifest.spec_entry("demo", DEMO)
        assert len(entry.index) > 1
        assert sorted(opened) == sorted(ref.path for ref in (*entry.index, *entry.shards))
        keys = ["c", "🦔", "b", "a", "b"]
        expected = [row(key, content=int(key == "b")).values for key in keys]
        np.testing.assert_array_equal(store.read("demo", keys), expected)
        assert len(opened) == len(set(opened))


@pytest.mark.parametrize("remembered", [2, 1 << 16])
def test_many_rows_are_read_as_each_alone(root: Path, remembered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "_REMEMBERED", remembered)
    commit_rows(root, [row("b", content=1), *(row(f"key {number}") for number in range(20))])
    commit(root, Changes(removed=[("demo", "key 7")]))
    with Store.open(root) as store:
        keys = [*store.keys("demo"), "b", "a"]
        np.testing.assert_array_equal(store.read("demo", keys), [store.row("demo", key) for key in keys])
        with pytest.raises(MissingKeyError, match="no key 'key 7' in version"):
            store.read("demo", ["a", "key 7", "never"])
        with pytest.raises(InvalidKeyError, match="must not be empty"):
            store.places("demo", ["a", ""])
        with pytest.raises(InvalidKeyError, match="NUL"):
            store.places("demo", ["a", "a\0"])
        with pytest.raises(InvalidKeyError, match="not valid Unicode"):
            store.places("demo", ["a", "\ud800"])


def test_a_table_is_read_by_columns_and_by_values(root: Path) -> None:
    for part, values in (("one", {"split": ["x", "y", None]}), ("two", {"split": ["y", "y", "y"], "more": [1, 2, 3]})):
        table = pa.table({"id": [f"{part} {number}" for number in range(3)], **values})
        commit(root, Changes(tables={"made": {part: write_table(root, "made", {}, table, part)}}))
    with Store.open(root) as store:
        assert store.table("made", where={"split": "x"}).to_pylist() == [{"id": "one 0", "split": "x", "more": None}]
        assert store.table("made", columns=["id"], where={"split": "y"})["id"].to_pylist() == [
            "one 1",
            *(f"two {number}" for number in range(3)),
        ]
        assert store.table("made", columns=["more", "id"])["more"].to_pylist() == [None, None, None, 1, 2, 3]
        assert store.table("made", "two", columns=["never", "split"]).column_names == ["split"]
        assert store.table("made", "one", where={"more": "1"}).num_rows == 0


def test_places_of_many_keys_agree_with_each_ones_place(root: Path) -> None:
    commit_rows(root, [row("b", content=1), row("c")])
    with Store.open(root) as store:
        keys = ["c", "never", "🦔", "b", "a", "b"]
        places = store.places("demo", keys)
        assert [shard >= 0 for shard in places.shard] == [True, False, True, True, True, True]
        assert places.shard.dtype == places.row.dtype == np.int32 and places.row[1] == -1
        assert not [path for path in open_files(root) if path.endswith(".h5")]
        for key, shard, number in zip(keys, places.shard, places.row, strict=True):
            if key != "never":
                reader = store.shard("demo", places.shards[shard])
                assert (reader.path.relative, number) == store.place("demo", key)
                assert reader.key(number) == key
        nothing = store.places("demo", [])
        assert (nothing.shards, len(nothing.shard), len(nothing.row)) == ((), 0, 0)


def test_reading_nothing(root: Path) -> None:
    with Store.open(root) as store:
        assert len(store.read("demo", [])) == 0
        assert store.read("demo", [], ragged=True).offset.tolist() == [0]
        with pytest.raises(MissingKeyError):
            store.read("none", [])


def test_errors_say_what_is_missing_and_why(root: Path) -> None:
    record = {"uri": "/v/x.mp4", "content_id": "c", "attempts": 1, "permanent": True, "message": "moov atom not found"}
    commit(root, Changes(failures=[Failure("x", "demo", DEMO, "corrupt", **record)]))
    with Store.open(root) as store:
        with pytest.raises(MissingKeyError, match=r"'demo' has no key 'x' in version 2: failed as corrupt \(moov atom"):
            store.row("demo", "x")
        with pytest.raises(MissingKeyError, match=r"'demo' has no key 'y' in version 2$"):
            store.times("demo", "y")
        with pytest.raises(MissingKeyError, match=r"no feature 'clip' in version 2 \(available: demo\)"):
            store.keys("clip")
        with pytest.raises(MissingKeyError, match=r"no table 'questions' in version 2 \(available: none\)"):
            store.table("questions")
        with pytest.raises(InvalidKeyError, match="600 bytes long"):
            store.row("demo", "x" * 600)
        with pytest.raises(KeyError):  # usable where a KeyError is expected
            store.row("demo", "y")


def test_an_ambiguous_spec_prefix_is_refused(tmp_path: Path) -> None:
    root = create_store(tmp_path / "store")
    by_first: dict[str, dict[str, Any]] = {}
    for number in range(1000):
        spec = {**SPEC, "revision": number}
        other = by_first.setdefault(layout.digest(spec)[0], spec)
        if other is not spec:
            break
    for either in (other, spec):
        commit_rows(root, [row("a")], spec=either)
    prefix = layout.digest(spec)[0]
    with Store.open(root) as store, pytest.raises(MissingKeyError, match=f"spec '{prefix}' is not unique"):
        store.keys(f"demo@{prefix}")


def test_nothing_is_opened_before_first_use(root: Path) -> None:
    store = Store.open(root)
    _ = store.features, store.tables, store.version
    assert kept_open(root) == set()
    store.row("demo", "a")
    assert {Path(path).suffix for path in open_files(root)} >= {".h5"}
    store.close()


def test_a_pinned_version_stays_as_it_is_while_the_store_grows(root: Path) -> None:
    store = Store.open(root)
    for content in range(1, 12):
        commit_rows(root, [row("a", content=content), row(f"new{content}")])
    commit(root, Changes(removed=[("demo", "b")]))
    assert store.keys("demo") == ["Z", "a", "b", "🦔"]
    for key in store.keys("demo"):
        np.testing.assert_array_equal(store.row("demo", key), row(key).values)
    store.close()


def test_a_leased_version_survives_gc_and_a_closed_one_does_not(root: Path) -> None:
    store = Store.open(root)
    commit_rows(root, [row(key, content=1) for key in ("a", "b", "🦔", "Z")])
    assert collect(root, grace_seconds=0).kept_for_leases == [1]
    for key in store.keys("demo"):
        np.testing.assert_array_equal(store.row("demo", key), row(key).values)
    store.close()
    assert 1 in collect(root, grace_seconds=0).versions
    with Store.open(root) as latest:
        np.testing.assert_array_equal(latest.row("demo", "a"), row("a", content=1).values)


def test_leases_end_with_their_reader(root: Path) -> None:
    store = Store.open(root)
    copy = pickle.loads(pickle.dumps(store))
    assert len(os.listdir(root / "leases")) == 1
    del copy
    assert len(os.listdir(root / "leases")) == 1
    del store
    assert os.listdir(root / "leases") == []
    Store.open(root, lease=False).row("demo", "a")
    assert os.listdir(root / "leases") == []


def test_pickling_pins_the_version(root: Path) -> None:
    with Store.open(root) as store:
        store.row("demo", "a")
        data = pickle.dumps(store)
        assert len(data) < 10_000
        commit_rows(root, [row("a", content=1)])
        copy = pickle.loads(data)
        assert copy.version == 1
        np.testing.assert_array_equal(copy.row("demo", "a"), row("a").values)


def read_in_worker(store: Store, keys: list[str], answers: Any) -> None:
    answers.put({key: store.row("demo", key).tobytes() for key in keys})


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("used_before", [False, True])
def test_workers_read_what_their_parent_reads(root: Path, method: str, used_before: bool) -> None:
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    with Store.open(root) as store:
        keys = store.keys("demo")
        if used_before:
            store.read("demo", keys)
        workers = [context.Process(target=read_in_worker, args=(store, keys, answers)) for _ in range(2)]
        for worker in workers:
            worker.start()
        answered = [answers.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert answered == [{key: row(key).values.tobytes() for key in keys}] * 2
        assert len(os.listdir(root / "leases")) == 1  # a worker that ends must not drop its parent's lease


def read_as_nobody(path: str, answers: Any) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    with Store.open(path) as store:
        answers.put((store.keys("demo"), store.row("demo", "a").tobytes(), os.access(f"{path}/leases", os.W_OK)))


def test_a_reader_needs_no_write_right() -> None:
    # Not below tmp_path, since pytest's own folder is closed to other users.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = store_with(Path(name) / "store", "b", "a", "🦔", "Z")
        before = files_under(root)
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        worker = context.Process(target=read_as_nobody, args=(str(root), answers))
        try:
            worker.start()
            keys, values, writable = answers.get(timeout=60)
            worker.join(60)
        finally:
            for folder in folders:
                folder.chmod(0o755)
        assert not writable
        assert (keys, values) == (["Z", "a", "b", "🦔"], row("a").values.tobytes())
        assert files_under(root) == before


def test_random_weights_are_warned_of_once(tmp_path: Path) -> None:
    root = create_store(tmp_path / "store")
    commit_rows(root, [row("a")], spec={**SPEC, "random_weights": True})
    with Store.open(root) as store:
        with pytest.warns(UserWarning, match="feature 'demo' was made with random weights"):
            store.row("demo", "a")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store.row("demo", "a")


def test_mixed_numerics_are_warned_of_while_their_rows_are_there(root: Path) -> None:
    commit_rows(root, [row("c")], numerics={**NUMERICS, "micro_batch": 2})
    with Store.open(root) as store:
        with pytest.warns(UserWarning, match="feature 'demo' mixes 2 numerics"):
            store.row("demo", "a")
        assert store.numerics("demo") == [{**NUMERICS, "micro_batch": 2}, NUMERICS]
    commit_rows(root, [row("c", content=1)])
    with warnings.catch_warnings(), Store.open(root) as store:
        warnings.simplefilter("error")
        store.row("demo", "a")
        assert store.numerics("demo") == [NUMERICS]


def test_damage_is_named_when_it_is_met(root: Path) -> None:
    with Store.open(root) as store:
        shard = root / store.place("demo", "a")[0]
    shard.with_suffix(".json").unlink()
    with Store.open(root) as store, pytest.raises(StoreDamageError, match=shard.stem):
        store.row("demo", "a")
    (root / "specs" / f"{DEMO}.json").unlink()
    with Store.open(root) as store, pytest.raises(StoreDamageError, match=DEMO):
        store.spec("demo")


def test_two_specs_have_two_digests_of_equal_rows(root: Path) -> None:
    commit_rows(root, [row("a")], spec=OTHER_SPEC)
    with Store.open(root) as store:
        assert store.digest("demo", "a") == store.digest(f"demo@{DEMO}", "a")
        assert store.digest("demo", "a") != store.digest(f"demo@{DEMO}", "b")


def test_the_card_and_the_inspection_agree_with_the_store(root: Path) -> None:
    record = {"uri": "/v/x.mp4", "content_id": "c", "attempts": 1, "permanent": True, "message": "moov atom not found"}
    commit(root, Changes(failures=[Failure("x", "demo", DEMO, "corrupt", **record)]))
    text = write_card(root)
    assert (root / "README.md").read_text() == text
    assert f"| demo | 4 | 3×4 | float16 | none | `{DEMO[:8]}` |" in text and "| demo | corrupt | 1 |" in text
    with Store.open(root) as store:
        features = describe_store(store)["features"]
        assert features["demo"]["rows"] == 4 and features["demo"]["shape"] == [3, 4]
        assert features["demo"]["bytes"] == sum(path.stat().st_size for path in root.rglob("*.h5"))
        assert describe_key(store, "a")["rows"]["demo"]["time_s"] == row("a").time_s.tolist()
        assert describe_key(store, "x")["failures"][0]["class"] == "corrupt"
        with pytest.raises(MissingKeyError, match="'never'"):
            describe_key(store, "never")
