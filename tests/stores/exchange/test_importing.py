"""Imports of feature files of another tool: exact, repeatable, and one line for what cannot be used."""

from __future__ import annotations

import json
import os
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
from stores.upkeep.verification import verify
from tests._helpers.building import files_under, row
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
        assert store.times("clip", "a").tolist() == [0.0, 1.0, 2.0, 3.0] and store.valid("clip", "a").all()
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


def test_other_files_are_another_spec(tmp_path: Path) -> None:
    source = write_npy(tmp_path / "npy", a=numbers(4, 3), b=numbers(4, 3))
    first = import_files(tmp_path / "store", [source], "clip")
    (source / "b.npy").rename(source / "c.npy")
    second = import_files(tmp_path / "store", [source], "clip")
    assert second.spec != first.spec and second.added == 2
    assert sorted(values_of(tmp_path / "store")) == ["a", "c"]


def test_other_times_and_masks_reach_the_store(tmp_path: Path) -> None:
    source = write_npy(tmp_path / "npy", a=numbers(2, 3))
    times = tmp_path / "times.json"
    for seconds, mask in (([1.0, 2.0], "11"), ([1.5, 2.5], "11"), ([1.5, 2.5], "10")):
        times.write_text(json.dumps({"a": seconds}))
        (source / "index.csv").write_text(f"key,file,T,valid_steps,mask\na,a.npy,2,,{mask}\n")
        assert import_files(tmp_path / "store", [source], "clip", times=[times]).added == 1
        with Store.open(tmp_path / "store", lease=False) as store:
            assert store.times("clip", "a").tolist() == seconds
            assert store.valid("clip", "a").tolist() == [step == "1" for step in mask]


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
