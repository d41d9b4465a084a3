"""Exports as the published trainers read them."""

from __future__ import annotations

import csv
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.commit import Changes, Failure, commit
from stores.errors import StoreError
from stores.exchange.exporting import read_keys
from stores.exchange.files import ExchangeError
from stores.exchange.importing import import_files
from stores.exchange.rows import file_names
from stores.format.layout import feature_directory
from stores.format.manifest import load
from stores.format.rows import Row
from tests._helpers.building import files_under, row
from tests._helpers.published_files import (
    SPEC,
    avqa_reader,
    clip_row,
    clip_store,
    compared,
    cra_fetch,
    cra_reader,
    exported,
)

HOSTILE = ["../../x", "..", ".hidden", "a/b", "/etc/x", "CON", "nul.mp4", "A", "a", "🦔", "é", "e\u0301", "x" * 512]
HOSTILE += ["🦔" * 128, "a b", "%41", "-rf", "C:\\x", "line\nbreak", 'quo"te,', "index", "~", "a:b*?"]


def test_cra_reads_each_split_and_its_times(tmp_path: Path) -> None:
    rows = {key: clip_row(key, published=True) for key in ("10", "2", "YSKX3_a", "ü")}
    root = clip_store(tmp_path / "store", list(rows.values()))
    result = exported(root, tmp_path / "out", splits={"train": ["2", "10", "2"], "val": ["ü"]})
    assert result.files == {"train.h5": 2, "val.h5": 1} and result.missing == []
    assert files_under(tmp_path / "out") == {
        *("train.h5", "val.h5", "frame2time_train.json", "frame2time_val.json", "export.json")
    }
    for split, keys in {"train": ["2", "10"], "val": ["ü"]}.items():
        features = cra_reader(tmp_path / "out" / f"{split}.h5")
        assert list(features) == keys
        seconds = json.loads((tmp_path / "out" / f"frame2time_{split}.json").read_text())
        assert list(seconds) == keys
        for key in keys:
            assert features[key].dtype == np.dtype("<f4")
            np.testing.assert_array_equal(cra_fetch(features[key]), rows[key].values.astype(np.float32))
            assert seconds[key] == rows[key].time_s.tolist()
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["reelstore"]["spec"] == SPEC


def test_the_other_layout_and_the_published_times(tmp_path: Path) -> None:
    rows = [clip_row(key, published=True) for key in ("a", "b")]
    root = clip_store(tmp_path / "store", rows)
    exported(root, tmp_path / "out", naming="nextgqa", dataset="SWINL_I", published_times=True)
    assert sorted(cra_reader(tmp_path / "out" / "SWINL_I_all.h5", "SWINL_I")) == ["a", "b"]
    seconds = json.loads((tmp_path / "out" / "frame2time_all.json").read_text())
    assert seconds["b"] == (rows[1].time_s + 0.25).tolist()


def test_times_are_those_of_the_frames_that_the_trainer_fetches(tmp_path: Path) -> None:
    """The trainer always takes 32 of T steps; the times must be theirs, or spans point elsewhere."""
    values = np.repeat(np.arange(50, dtype=np.float32)[:, None], 3, axis=1)
    long = Row("v", bytes(32), values, np.arange(50) * 0.5, np.ones(50, bool), 25.0)
    root = clip_store(tmp_path / "store", [long])
    exported(root, tmp_path / "out")
    fetched = cra_fetch(cra_reader(tmp_path / "out" / "all.h5")["v"])
    seconds = json.loads((tmp_path / "out" / "frame2time_all.json").read_text())["v"]
    assert seconds == (fetched[:, 0] * 0.5).tolist() and len(seconds) == 32


def test_what_cannot_be_written_is_listed_with_its_reason(tmp_path: Path) -> None:
    bad = clip_row("nan")
    bad.values[3, 2] = np.nan
    root = clip_store(tmp_path / "store", [clip_row("good"), bad, clip_row("hurt")])
    spec_digest = load(root).features["clip"].current
    failure = Failure("broken", "clip", spec_digest, "corrupt", True, "no frames", "broken.mp4", "", 1)
    commit(root, Changes(failures=[failure]))
    (shard,) = feature_directory(root, "clip", spec_digest).path.glob("*.h5")
    data = shard.read_bytes()
    at = data.index(clip_row("hurt").values.tobytes())
    shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    wanted = ["good", "nan", "hurt", "broken", "unknown"]
    for target, out in (("nextgqa", tmp_path / "h5"), ("music_avqa", tmp_path / "npy")):
        result = exported(root, out, target, splits={"val": wanted})
        reasons = {missing.key: missing.reason for missing in result.missing}
        assert set(reasons) == {"nan", "hurt", "broken", "unknown"}
        assert "NaN" in reasons["nan"] and "digest" in reasons["hurt"]
        assert reasons["broken"] == "corrupt: no frames" and reasons["unknown"] == "no row"
        assert {missing.split for missing in result.missing} == {"val"}
    assert list(cra_reader(tmp_path / "h5" / "val.h5")) == ["good"]
    assert {path.name for path in (tmp_path / "npy").glob("*.npy")} == {"good.npy"}


def test_a_value_that_float32_cannot_hold_is_not_written_as_infinity(tmp_path: Path) -> None:
    huge = Row("v", bytes(32), np.full((2, 2), 1e300), np.arange(2.0), np.ones(2, bool), 1.0)
    root = clip_store(tmp_path / "store", [huge])
    with pytest.raises(ExchangeError, match=r"no row to export.*float32"):
        exported(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("full", "not an empty folder"),
        ("file", "not an empty folder"),
        ("inside", "inside the store"),
        ("ragged", r"key 'b' is \[5, 6\] beside \[32, 6\]"),
        ("maps", r"key 'a' is \[3, 2, 2\]"),
        ("target", r"unknown \(available: lance, music_avqa, nextgqa, parquet"),
        ("layout", "layout 'x'"),
        ("axes", r"layout 'x': unknown for music_avqa \(available: thwc, tchw\)"),
        ("vectors", r"key 'a' is \[32, 6\]; layout tchw is for maps \[T, H, W, C\]"),
        ("options", "neither --dataset-name"),
        ("split", "name '../x'"),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path: Path, case: str, message: str) -> None:
    rows = [clip_row("a"), clip_row("b", steps=5 if case == "ragged" else 32)]
    root = clip_store(tmp_path / "store", [row("a", step_shape=(2, 2))] if case == "maps" else rows)
    out = root / "out" if case == "inside" else tmp_path / "out"
    if case == "full":
        out.mkdir()
        (out / "mine").touch()
    elif case == "file":
        out.touch()
    before = files_under(tmp_path)
    naming = {"layout": "x", "axes": "x", "vectors": "tchw"}
    options = {"naming": naming[case]} if case in naming else {"dataset": "X"} if case == "options" else {}
    avqa = dict.fromkeys(("options", "axes", "vectors"), "music_avqa")
    target = {"target": "feather", **avqa}.get(case, "nextgqa")
    splits = {"../x": ["a"]} if case == "split" else None
    with pytest.raises(StoreError, match=message):
        exported(root, out, target, splits, **options)
    assert files_under(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_exports_follow_the_umask_and_fill_an_empty_folder(tmp_path: Path, umask: int) -> None:
    root = clip_store(tmp_path / "store", [clip_row("a")])
    (tmp_path / "npy").mkdir()
    before = os.umask(umask)
    try:
        exported(root, tmp_path / "h5")
        exported(root, tmp_path / "npy", "music_avqa")
    finally:
        os.umask(before)
    for folder in (tmp_path / "h5", tmp_path / "npy"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~umask}


def test_music_avqa_loads_one_array_a_video(tmp_path: Path) -> None:
    ids = ["00000028", "sa00001234", "iveNvQ4jCis_flip", "-Q4jCis_#02"]
    rows = {key: row(key, steps=4, step_shape=(2, 2, 3)) for key in ids}
    root = clip_store(tmp_path / "store", list(rows.values()))
    result = exported(root, tmp_path / "out", "music_avqa")
    assert (result.renamed, result.padded, result.files) == (0, 4, {"*.npy": 4})
    for key in ids:
        loaded = avqa_reader(tmp_path / "out", key)
        assert loaded.dtype == np.dtype("<f4") and loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, rows[key].values.astype(np.float32))
    with (tmp_path / "out" / "index.csv").open(newline="") as file:
        index = {record["key"]: record for record in csv.DictReader(file)}
    assert index["00000028"] == {
        "key": "00000028", "file": "00000028.npy", "T": "4", "valid_steps": "3", "mask": "1101"
    }  # fmt: skip


def test_music_avqa_maps_in_the_axes_that_the_published_networks_read(tmp_path: Path) -> None:
    """``docs/facts/coqo.md`` section 9: the published AVST reads [T, C, H, W]."""
    rows = {key: row(key, steps=4, step_shape=(2, 5, 3)) for key in ("a", "b")}
    root = clip_store(tmp_path / "store", list(rows.values()))
    for naming, axes in ((None, "thwc"), ("thwc", "thwc"), ("tchw", "tchw")):
        out = tmp_path / f"out_{naming}"
        assert exported(root, out, "music_avqa", naming=naming).layout == axes
        assert json.loads((out / "export.json").read_text())["export"]["layout"] == axes
        for key, kept in rows.items():
            loaded = avqa_reader(out, key)
            values = kept.values.astype(np.float32)
            if axes == "tchw":
                assert loaded.shape == (4, 3, 2, 5)
                values = np.einsum("thwc->tchw", values)
            assert loaded.flags.c_contiguous
            np.testing.assert_array_equal(loaded, values)


def test_hostile_keys_stay_in_the_folder_and_come_back(tmp_path: Path) -> None:
    root = clip_store(tmp_path / "store", [clip_row(key, steps=2) for key in HOSTILE])
    before = files_under(tmp_path)
    exported(root, tmp_path / "out", "music_avqa")
    made = files_under(tmp_path) - before
    arrays = {name for name in made if name.endswith(".npy")}
    assert len(arrays) == len(HOSTILE) and len({name.lower() for name in arrays}) == len(HOSTILE)
    assert made - arrays == {"out/index.csv", "out/export.json"}
    assert all(name.count("/") == 1 and not name.startswith("out/.") for name in arrays)
    import_files(tmp_path / "back", [tmp_path / "out"], "clip")
    result = compared(root, tmp_path / "back")
    assert (result.identical, result.only_here, result.only_there) == (len(HOSTILE), [], [])


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=400)))
def test_file_names_are_harmless_and_differ_whatever_the_case(keys: set[str]) -> None:
    names = file_names(keys)
    assert set(names) == keys
    assert len({name.lower() for name in names.values()}) == len(keys)
    for name in names.values():
        assert name.isascii() and len(name) <= 200 and not name.startswith(".")
        assert not set(name) & set('/\\:*?"<>|') and name.isprintable()


@given(st.sets(st.text("aAbB%.2E41cConNuUxX~", min_size=1, max_size=5)))
def test_no_encoding_looks_like_another_key(keys: set[str]) -> None:
    assert len({name.lower() for name in file_names(keys).values()}) == len(keys)


def test_device_names_and_twins_are_encoded_and_plain_ids_are_not() -> None:
    assert file_names(["CON"]) == {"CON": "%43ON"}
    assert file_names(["Ab", "ab", "B"]) == {"Ab": "%41b", "ab": "ab", "B": "B"}
    assert file_names(["6H78U", "a.b", "x" * 200]) == {"6H78U": "6H78U", "a.b": "a.b", "x" * 200: "x" * 200}


@pytest.mark.parametrize(
    ("name", "text", "keys"),
    [
        ("a.csv", "\ufeffvideo_id,question\n00000028,x\n7,y\n00000028,z\n", ["00000028", "7"]),
        ("a.csv", "video,answer\n5,0\n", ["5"]),
        ("a.json", '["b", "a", "b"]', ["b", "a"]),
        ("a.json", '[{"video_id": "00000028", "anser": "one"}, {"video_id": "x"}]', ["00000028", "x"]),
        ("a.json", '{"10001787725": {"duration": 34}}', ["10001787725"]),
        ("a.txt", "a\r\n\n b c\n", ["a", " b c"]),
    ],
)
def test_split_files(tmp_path: Path, name: str, text: str, keys: list[str]) -> None:
    (tmp_path / name).write_text(text, newline="")
    assert read_keys(tmp_path / name) == keys


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id\n7\n", "no column 'video_id'"),
        ("a.csv", "video_id,x\n7,1\n,2\n", "entry 2: key '': a video key must not be empty"),
        ("a.json", "[28]", "entry 1: 28 is not a video id"),
        ("a.json", '[{"video": "7"}]', "entry 1: None is not a video id"),
        ("a.json", "[", "cannot be read as JSON"),
        ("a.txt", "", "lists no video"),
    ],
)
def test_split_files_that_are_not(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ExchangeError, match=message):
        read_keys(tmp_path / name)
