"""Imports of feature files of another tool: exact, repeatable, and one line for what cannot be used."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stores import Store
from stores.describe.card import render_card
from stores.exchange import importing
from stores.exchange.exporting import export
from stores.exchange.files import ExchangeError, Hdf5Rows, NpyRows, open_files
from stores.exchange.importing import Import, import_files
from stores.format.manifest import load
from stores.upkeep.compaction import compact
from stores.upkeep.verification import verify
from tests._helpers.building import commit_rows, files_under, row, store_with
from tests._helpers.published_files import (
    SPEC,
    clip_row,
    clip_store,
    compared,
    exported,
    numbers,
    values_of,
    write_h5,
    write_npy,
)


def test_hdf5_round_trip_is_exact_with_times(tmp_path: Path) -> None:
    root = clip_store(tmp_path / "store", [clip_row(key, dtype=np.float32) for key in ("a", "ü", "c")])
    exported(root, tmp_path / "out", splits={"train": ["c"], "val": ["ü", "a"]})
    files = [tmp_path / "out" / f"frame2time_{split}.json" for split in ("train", "val")]
    result = import_files(tmp_path / "back", [tmp_path / "out"], "clip", times=files)
    assert (result.rows, result.added, result.times_unknown, result.failed) == (3, 3, 0, {})
    for other in (tmp_path / "back", tmp_path / "out"):
        comparison = compared(root, other)
        assert comparison.ok and comparison.identical == comparison.common == 3 and comparison.worst == []
    with Store.open(root, lease=False) as old, Store.open(tmp_path / "back", lease=False) as new:
        for key in old.keys("clip"):
            np.testing.assert_array_equal(old.times("clip", key), new.times("clip", key))
    assert verify(tmp_path / "back", deep=True).ok


def test_npy_round_trip_keeps_ragged_rows_and_masks(tmp_path: Path) -> None:
    rows = [row(key, steps=steps, step_shape=(2, 3)) for key, steps in (("A", 3), ("a", 7), ("p", 1))]
    root = clip_store(tmp_path / "store", rows, SPEC | {"steps": None})
    exported(root, tmp_path / "out", "music_avqa")
    import_files(tmp_path / "back", [tmp_path / "out"], "clip")
    assert compared(root, tmp_path / "back").identical == 3
    with Store.open(tmp_path / "back", lease=False) as store:
        assert store.spec("clip")["steps"] is None
        for expected in rows:
            np.testing.assert_array_equal(store.valid("clip", expected.key), expected.valid)


def test_the_spec_names_the_files_and_says_what_is_unknown(tmp_path: Path) -> None:
    source = write_h5(tmp_path / "x.h5", ["b", "a"], numbers(2, 4, 3, dtype=np.float16))
    result = import_files(tmp_path / "store", [source], "clip")
    with Store.open(tmp_path / "store", lease=False) as store:
        spec = store.spec("clip")
        assert spec["extractor"] == "external" and spec["external"]["sha256"] == result.external
        assert (spec["times"], spec["dtype"], spec["steps"], spec["step_shape"]) == ("unknown", "float16", 4, [3])
        assert store.row("clip", "a").dtype == np.float16
        assert np.isnan(store.times("clip", "a")).tolist() == [True] * 4 and store.valid("clip", "a").all()
        assert np.isnan(store.clip("clip", "a")[1])
        assert f"external:{result.external}" in render_card(store)
        out = export(store, "clip", "nextgqa", tmp_path / "out")
    assert out.times_unknown == ["a", "b"]
    assert not (tmp_path / "out" / "frame2time_all.json").exists()


def test_rows_without_times_say_so_beside_rows_with_times(tmp_path: Path) -> None:
    source = write_h5(tmp_path / "x.h5", ["a", "b"], numbers(2, 2, 3))
    times = tmp_path / "frame2time.json"
    times.write_text(json.dumps({"b": [0.2, 1.2], "other": [1]}))
    assert import_files(tmp_path / "store", [source], "clip", times=[times]).times_unknown == 1
    with Store.open(tmp_path / "store", lease=False) as store:
        assert store.times("clip", "b").tolist() == [0.2, 1.2]
        assert [store.media("clip", key)["times"] for key in "ab"] == ["unknown", "given"]
        assert export(store, "clip", "nextgqa", tmp_path / "out").times_unknown == ["a"]
    assert json.loads((tmp_path / "out" / "frame2time_all.json").read_text()) == {"b": [0.2] * 31 + [1.2]}


@pytest.mark.parametrize("ids", [np.array([b"7", b"8"], "S3"), np.array([7, 8])])
def test_files_with_ids_of_bytes_and_numbers(tmp_path: Path, ids: np.ndarray) -> None:
    values = numbers(2, 4, 3).astype(">f4")
    source = write_h5(tmp_path / "x.h5", ids, values, ids="ids", name="res")
    import_files(tmp_path / "store", [source], "clip")
    stored = values_of(tmp_path / "store")
    assert stored["8"].dtype == np.dtype("<f4")
    np.testing.assert_array_equal(stored["8"], values[1])


def test_npy_files_of_any_order_keep_their_dtype(tmp_path: Path) -> None:
    arrays = {"f": np.asfortranarray(numbers(3, 4, dtype=np.float64)), "b": numbers(3, 4).astype(">f8")}
    import_files(tmp_path / "store", [write_npy(tmp_path / "npy", **arrays)], "clip")
    stored = values_of(tmp_path / "store")
    for key, array in arrays.items():
        assert stored[key].dtype == np.float64
        np.testing.assert_array_equal(stored[key], array)


def test_the_same_files_again_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write_h5(tmp_path / "a.h5", ["a"], numbers(1, 4, 3))
    b = write_h5(tmp_path / "b.h5", ["b"], numbers(1, 4, 3))
    first = import_files(tmp_path / "store", [a, b], "clip")
    before = files_under(tmp_path / "store")
    monkeypatch.setattr(Hdf5Rows, "row", None)  # no row may be read again
    b.rename(tmp_path / "renamed.h5")
    again = import_files(tmp_path / "store", [tmp_path / "renamed.h5", a], "clip")
    assert (again.version, again.spec, again.added, again.rows) == (first.version, first.spec, 0, 2)
    assert files_under(tmp_path / "store") == before


def test_files_of_other_keys_are_added_in_any_order(tmp_path: Path) -> None:
    """The published files come one per split: each import adds, and all orders end with the same spec and rows."""
    values = {split: numbers(2, 4, 3) + at for at, split in enumerate(("train", "val", "test"))}
    files = {
        split: write_h5(tmp_path / f"{split}.h5", [f"{split}{n}" for n in "01"], values[split]) for split in values
    }
    specs, keys = set(), [f"{split}{n}" for split in ("test", "train", "val") for n in "01"]
    for order in (("train", "val", "test"), ("test", "val", "train")):
        root = tmp_path / order[0]
        runs = [import_files(root, [files[split]], "clip") for split in order]
        assert [(run.rows, run.added, run.kept, run.retired) for run in runs] == [
            (2, 2, 0, 0),
            (2, 2, 2, 0),
            (2, 2, 4, 0),
        ]
        again = import_files(root, [files["val"]], "clip")
        assert (again.rows, again.added, again.kept, again.version) == (2, 0, 4, runs[-1].version)
        stored = values_of(root)
        assert sorted(stored) == keys
        for split, expected in values.items():
            np.testing.assert_array_equal(np.stack([stored[f"{split}{n}"] for n in "01"]), expected)
        assert verify(root, deep=True).ok
        specs.add(runs[-1].spec)
    assert specs == {import_files(tmp_path / "at once", list(files.values()), "clip").spec}


def test_a_folder_with_one_file_more_adds_that_row(tmp_path: Path) -> None:
    source = write_npy(tmp_path / "npy", a=numbers(4, 3), b=numbers(4, 3))
    first = import_files(tmp_path / "store", [source], "clip")
    np.save(source / "c.npy", numbers(5, 3))
    second = import_files(tmp_path / "store", [source], "clip")
    assert second.spec != first.spec and (second.added, second.kept, second.retired) == (1, 0, 0)
    assert sorted(values_of(tmp_path / "store")) == ["a", "b", "c"]
    with Store.open(tmp_path / "store", lease=False) as store:
        assert store.spec("clip")["steps"] is None


def test_rows_that_would_go_are_counted_and_need_to_be_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "store"
    a = write_h5(tmp_path / "a.h5", ["a", "b", "c"], numbers(3, 4, 3))
    import_files(root, [a], "clip")
    other = write_h5(tmp_path / "other.h5", ["c", "d"], numbers(2, 4, 3) + 1)
    wide = write_h5(tmp_path / "wide.h5", ["e"], numbers(1, 4, 5))
    for file, says in (
        (other, r"its 3 rows were imported, and 1 of them differ \('c'\); .* --replace, which retires 3 rows"),
        (wide, r"its 3 rows were imported, and have steps of float32\[3\], not float32\[5\]; .* retires 3 rows"),
    ):
        with pytest.raises(ExchangeError, match=says):
            import_files(root, [file], "clip")
    assert load(root).version == 1 and sorted(values_of(root)) == ["a", "b", "c"]
    result = import_files(root, [other], "clip", replace=True)
    assert (result.rows, result.added, result.kept, result.retired) == (2, 2, 0, 3)
    assert sorted(values_of(root)) == ["c", "d"]


def test_failures_of_earlier_files_stay_on_record(tmp_path: Path) -> None:
    values = numbers(2, 4, 3)
    values[1, 0, 0] = np.nan
    import_files(tmp_path / "store", [write_h5(tmp_path / "a.h5", ["a", "bad"], values)], "clip")
    import_files(tmp_path / "store", [write_h5(tmp_path / "b.h5", ["b"], numbers(1, 4, 3))], "clip")
    with Store.open(tmp_path / "store", lease=False) as store:
        assert store.keys("clip") == ["a", "b"]
        assert store.failures().column("video_id").to_pylist() == ["bad"]


def test_other_times_and_masks_need_to_be_asked_for(tmp_path: Path) -> None:
    source = write_npy(tmp_path / "npy", a=numbers(2, 3))
    times = tmp_path / "times.json"
    for seconds, mask in (([1.0, 2.0], "11"), ([1.5, 2.5], "11"), ([1.5, 2.5], "10")):
        times.write_text(json.dumps({"a": seconds}))
        (source / "index.csv").write_text(f"key,file,T,valid_steps,mask\na,a.npy,2,,{mask}\n")
        if (tmp_path / "store").exists():
            with pytest.raises(ExchangeError, match="1 of them differ"):
                import_files(tmp_path / "store", [source], "clip", times=[times])
        assert import_files(tmp_path / "store", [source], "clip", times=[times], replace=True).added == 1
        with Store.open(tmp_path / "store", lease=False) as store:
            assert store.times("clip", "a").tolist() == seconds
            assert store.valid("clip", "a").tolist() == [step == "1" for step in mask]


def test_times_beside_the_files_are_found_by_the_split(tmp_path: Path) -> None:
    for split, keys in (("train", ["a", "b"]), ("val", ["c"])):
        write_h5(tmp_path / f"CLIPL_I_{split}.h5", keys, numbers(len(keys), 2, 3))
    (tmp_path / "frame2time_train.json").write_text(json.dumps({"a": [0.5, 1.5], "b": [1, 2, 3]}))
    (tmp_path / "frame2time_other.json").write_text(json.dumps({"c": [7.0, 8.0]}))
    result = import_files(tmp_path / "store", [tmp_path / "CLIPL_I_train.h5", tmp_path / "CLIPL_I_val.h5"], "clip")
    assert [Path(path).name for path in result.times] == ["frame2time_train.json"]
    assert (result.times_unknown, result.times_unfit) == (2, 1)
    with Store.open(tmp_path / "store", lease=False) as store:
        assert store.times("clip", "a").tolist() == [0.5, 1.5]
        assert np.isnan(store.times("clip", "b")).all() and np.isnan(store.times("clip", "c")).all()
    none = import_files(tmp_path / "none", [tmp_path / "CLIPL_I_train.h5"], "clip", times=[])
    assert (none.times, none.times_unknown) == ([], 2)


def test_our_own_export_comes_back_with_its_times(tmp_path: Path) -> None:
    root = clip_store(tmp_path / "store", [clip_row(key, dtype=np.float32) for key in ("a", "b")])
    exported(root, tmp_path / "out", splits={"train": ["a"], "val": ["b"]})
    assert import_files(tmp_path / "back", [tmp_path / "out"], "clip").times_unknown == 0
    with Store.open(root, lease=False) as old, Store.open(tmp_path / "back", lease=False) as new:
        for key in "ab":
            np.testing.assert_array_equal(old.times("clip", key), new.times("clip", key))


def test_times_that_descend_are_refused(tmp_path: Path) -> None:
    source = write_h5(tmp_path / "x.h5", ["a"], numbers(1, 3, 3))
    times = tmp_path / "t.json"
    times.write_text('{"a": [1, 3, 2]}')
    with pytest.raises(ExchangeError, match=r"t\.json: key 'a': its seconds descend"):
        import_files(tmp_path / "store", [source], "clip", times=[times])


def test_step_numbers_that_older_imports_stored_as_times_are_unknown_too(tmp_path: Path) -> None:
    """Before format 3 an import stored 0, 1, 2 … and a duration of 0; the media record alone said what they are."""
    spec = {"extractor": "external", "steps": 3, "step_shape": [4], "dtype": "float16"}
    root = tmp_path / "store"
    numbered = replace(
        row("a"), time_s=np.arange(3.0), duration_s=0.0, media={"times": "unknown", "duration": "unknown"}
    )
    given = replace(row("b"), media={"times": "given", "duration": "unknown"})
    commit_rows(store_with(root), [numbered, given], feature="clip", spec=spec)
    for _ in range(2):
        with Store.open(root, lease=False) as store:
            assert np.isnan(store.times("clip", "a")).all() and np.isnan(store.clip("clip", "a")[1])
            np.testing.assert_array_equal(store.times("clip", "b"), given.time_s)
            digests = [store.digest("clip", key) for key in "ab"]
        assert verify(root, deep=True).ok
        commit_rows(root, [row("c")], feature="clip", spec=spec)
        compact(root)  # its copies keep the digests
        with Store.open(root, lease=False) as store:
            assert [store.digest("clip", key) for key in "ab"] == digests


def test_an_import_that_was_killed_before_its_commit_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_npy(tmp_path / "npy", a=numbers(4, 3), b=numbers(4, 3), c=numbers(4, 3))

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importing, "SHARD_MB", 90e-6)  # two rows per shard
        patch.setattr(importing, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            import_files(tmp_path / "store", [source], "clip")
    assert load(tmp_path / "store").version == 0
    monkeypatch.setattr(NpyRows, "row", None)
    result = import_files(tmp_path / "store", [source], "clip")
    assert (result.rows, result.added) == (3, 0)
    assert sorted(values_of(tmp_path / "store")) == ["a", "b", "c"]


def test_a_file_that_changes_while_it_is_read_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_npy(tmp_path / "npy", a=numbers(4, 3))
    read = NpyRows.row

    def swapped(self: NpyRows, key: str) -> np.ndarray:
        np.save(source / "a.npy", np.zeros((4, 3), np.float32))
        os.utime(source / "a.npy", ns=(1, 1))
        return read(self, key)

    monkeypatch.setattr(NpyRows, "row", swapped)
    with pytest.raises(ExchangeError, match=r"a\.npy: changed while it was read"):
        import_files(tmp_path / "store", [source], "clip")
    assert not list((tmp_path / "store").rglob("*.h5")) and load(tmp_path / "store").version == 0


def test_nan_rows_are_failures_not_rows(tmp_path: Path) -> None:
    values = numbers(2, 4, 3)
    values[1, 2, 0] = np.inf
    source = write_h5(tmp_path / "x.h5", ["good", "bad"], values)
    runs: list[Import] = [import_files(tmp_path / "store", [source], "clip") for _ in range(2)]
    assert [(run.rows, run.added, list(run.failed)) for run in runs] == [(1, 1, ["bad"]), (1, 0, ["bad"])]
    assert runs[0].version == runs[1].version
    with Store.open(tmp_path / "store", lease=False) as store:
        assert store.keys("clip") == ["good"]
        assert store.failures().column("video_id").to_pylist() == ["bad"]


def test_extracted_rows_are_not_retired_unasked(tmp_path: Path) -> None:
    root = clip_store(tmp_path / "store", [clip_row("a")])
    source = write_h5(tmp_path / "x.h5", ["a"], numbers(1, 4, 3))
    with pytest.raises(ExchangeError, match="computed by 'clip'"):
        import_files(root, [source], "clip")
    assert load(root).version == 1
    assert import_files(root, [source], "legacy").added == 1
    assert import_files(root, [source], "clip", replace=True).added == 1


def _bad_source(folder: Path, case: str) -> tuple[list[Path], dict[str, Any]]:
    """Return the sources and options of one kind of bad input."""
    good = numbers(2, 4, 3)
    h5, npy = folder / "x.h5", folder / "npy"
    if case in ("pickle", "zip", "truncated", "empty", "scalar", "vector", "no steps", "shapes", "dtypes", "text"):
        arrays = {"vector": numbers(4), "scalar": np.float32(1), "no steps": numbers(0, 3)}
        write_npy(npy, good=good[0], v=np.asarray(arrays.get(case, good[0])))
        file = npy / "v.npy"
        if case == "pickle":
            np.save(file, np.array([{}], object), allow_pickle=True)
        elif case == "zip":
            with file.open("wb") as target:
                np.savez(target, a=good)
        elif case in ("shapes", "dtypes", "text"):
            np.save(file, {"shapes": numbers(4, 2), "dtypes": good[0].astype("f8"), "text": np.array(["x"])}[case])
        elif case in ("truncated", "empty"):
            file.write_bytes(file.read_bytes()[: 140 if case == "truncated" else 0])
        return [npy], {}
    if case == "twice in two":
        return [write_h5(h5, ["a", "v"], good), write_h5(folder / "y.h5", ["v", "w"], good)], {}
    if case == "times":
        (folder / "t.json").write_text('{"v": [1, NaN]}')
        return [write_h5(h5, ["a", "v"], good)], {"times": [folder / "t.json"]}
    if case == "few times":
        (folder / "t.json").write_text('{"v": [1, 2]}')
        return [write_h5(h5, ["a", "v"], good)], {"times": [folder / "t.json"]}
    if case == "no times":
        (folder / "t.json").write_text('{"z": [1, 2]}')
        return [write_h5(h5, ["a", "v"], good)], {"times": [folder / "t.json"]}
    write_h5(h5, ["v", "v"] if case == "twice" else ["a", "v"], good if case != "lengths" else numbers(3, 4, 3))
    with h5py.File(h5, "a") as file:
        if case == "no ids":
            del file["vid"]
        elif case == "no features":
            del file["CLIPL_I"]
        elif case == "two features":
            file["other"] = good
        elif case == "pooled":
            del file["CLIPL_I"]
            file["CLIPL_I"] = numbers(2, 3)
    if case == "not hdf5":
        h5.write_bytes(b"no" * 100)
    return [h5], {"dataset": "RES_I"} if case == "dataset" else {}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("pickle", r"v\.npy: key 'v': .*[Oo]bject"),
        ("zip", r"v\.npy: key 'v': cannot be read as a .npy array"),
        ("truncated", r"v\.npy: key 'v': cannot be read as a .npy array"),
        ("empty", r"v\.npy: key 'v': cannot be read as a .npy array"),
        ("scalar", r"v\.npy: key 'v': is \[\]"),
        ("vector", r"v\.npy: key 'v': is \[4\]"),
        ("no steps", r"v\.npy: key 'v': "),
        ("shapes", r"v\.npy: key 'v': steps of float32\[2\], 'good' has float32\[3\]"),
        ("dtypes", r"v\.npy: key 'v': steps of float64"),
        ("text", r"v\.npy: key 'v': "),
        ("twice", r"x\.h5: key 'v': appears twice"),
        ("twice in two", r"y\.h5: key 'v': appears twice \(also in .*x\.h5"),
        ("lengths", r"x\.h5: dataset 'CLIPL_I' is \[3, 4, 3\] beside \[2\] ids"),
        ("pooled", r"x\.h5: dataset 'CLIPL_I' is \[2, 3\]"),
        ("no ids", r"x\.h5: no dataset 'vid' or 'ids' \(available: CLIPL_I\)"),
        ("no features", r"x\.h5: no dataset beside the ids"),
        ("two features", r"x\.h5: several datasets beside the ids; .*\(available: CLIPL_I, other\)"),
        ("dataset", r"x\.h5: no dataset 'RES_I' \(available: CLIPL_I\)"),
        ("not hdf5", r"x\.h5: cannot be read as HDF5"),
        ("times", r"t\.json: key 'v': must be a list of finite seconds"),
        ("few times", r"x\.h5: key 'v': 4 steps, but 2 times"),
        ("no times", r"t\.json: has times of other videos only"),
    ],
)
def test_bad_input_is_one_line_that_names_file_and_key(tmp_path: Path, case: str, message: str) -> None:
    sources, options = _bad_source(tmp_path, case)
    with pytest.raises(ExchangeError, match=message) as caught:
        import_files(tmp_path / "store", sources, "clip", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("key,file\na,a.npy\na,b.npy\n", "key 'a': appears twice"),
        ("key,file\na,../a.npy\n", r"no file '\.\./a\.npy' in this folder"),
        ("key,file\na,a.npy\n", "does not list 'b.npy'"),
        ("key,file\na,a.npy\nc,a.npy\nb,b.npy\n", "no file 'a.npy'"),
        ("name,file\na,a.npy\n", "no column 'key'"),
        ("key,file,T,valid_steps,mask\na,a.npy,3,3,\nb,b.npy,4,4,\n", "4 steps, index.csv says 3"),
        ("key,file,T,valid_steps,mask\na,a.npy,4,2,011\nb,b.npy,4,4,\n", "4 steps, index.csv says 3"),
        ("key,file,T,valid_steps,mask\na,a.npy,4,2,01x1\nb,b.npy,4,4,\n", "not made of 0 and 1"),
        ("key,file\n,a.npy\nb,b.npy\n", "must not be empty"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    folder = write_npy(tmp_path / "npy", a=numbers(4, 3), b=numbers(4, 3))
    (folder / "index.csv").write_text(lines)
    with pytest.raises(ExchangeError, match=message):
        import_files(tmp_path / "store", [folder], "clip")


def test_what_to_open_is_seen_by_the_files(tmp_path: Path) -> None:
    folder = write_npy(tmp_path / "both", a=numbers(4, 3))
    write_h5(folder / "x.h5", ["b"], numbers(1, 4, 3))
    (tmp_path / "none").mkdir()
    assert open_files([folder], "npy").keys() == ["a"]
    assert open_files([folder], "nextgqa").keys() == ["b"]
    for paths, message in (
        ([folder], "choose with --format"),
        ([tmp_path / "none"], "neither .h5 nor .npy"),
        ([tmp_path / "gone"], "no such file or folder"),
        ([folder / "a.npy"], "name its folder"),
    ):
        with pytest.raises(ExchangeError, match=message):
            open_files(paths)
