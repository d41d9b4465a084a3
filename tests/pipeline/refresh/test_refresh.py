"""Refresh: every problem is named first, nothing writes one place twice, and what is unchanged is left alone."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extractors.text import TextModel
from extractors.text.hashed import HashedText
from pipeline.cluster import embedding
from pipeline.extract import PlanOptions
from pipeline.parse import run as parsing
from pipeline.parse.local import parse_in_processes
from pipeline.refresh import RefreshResult, load_dataset, refresh
from pipeline.shared import PreflightError, Terminal
from settings import SettingsError
from stores import Store
from stores.format.manifest import load, versions
from tests._helpers.building import row_digests
from tests._helpers.films import film
from tests._helpers.word_parser import WordParser, parse_here

CLUSTER = {"encoder": {"name": "hashed", "size": 16}, "kmeans": {"k": 2}}
RGB = {
    "features": {"rgb": {"extractor": "rgb_grid", "grid": 1, "sampling": {"policy": "uniform", "n": 4}}},
    "media": {"deadline_s": 20},
}


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(WordParser, "parsed", [])
    monkeypatch.setattr(parsing, "StanzaParser", WordParser)
    monkeypatch.setattr(parsing, "parse_in_processes", parse_here)
    yield


def write(folder: Path, name: str, keys: list[str], videos: list[str]) -> str:
    rows = [
        {"question_id": key, "video_id": videos[n % len(videos)], "question": f"{key} chases {name}", "answer": "red"}
        for n, key in enumerate(keys)
    ]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def dataset_file(folder: Path, **sections: Any) -> Path:
    (folder / "rgb.yaml").write_text(json.dumps(RGB))
    path = folder / "dataset.yaml"
    path.write_text(json.dumps({"store": "store", **sections}))
    return path


def run(path: Path, **options: Any) -> RefreshResult:
    return refresh(load_dataset(path), "local", terminal=Terminal(quiet=True), **options)


def annotation(path: str | list[str], split: str, dataset: str = "a") -> dict[str, Any]:
    return {"path": path, "format": "table", "split": split, "dataset": dataset}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for number, name in enumerate(("v1", "v2")):
        film(tmp_path / "videos" / f"{name}.mp4", seconds=1 + number)
    return tmp_path


def whole(folder: Path) -> dict[str, Any]:
    """A dataset with videos, two splits, embeddings and both dictionaries."""
    train, val = (
        write(folder, "train.jsonl", ["q0", "q1", "q2"], ["v1", "v2"]),
        write(folder, "val.jsonl", ["q0"], ["v1"]),
    )
    return {
        "videos": {"source": "videos", "config": "rgb.yaml"},
        "annotations": [annotation(train, "train"), annotation(val, "val")],
        "option_embeddings": [{"name": "hashed", "size": 8}],
        "dictionaries": [{"kind": "linguistic", "settings": CLUSTER}, {"kind": "visual", "settings": CLUSTER}],
    }


def test_unchanged_data_is_nothing_to_do(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "parse_in_processes", parse_in_processes)  # the real ones
    path = dataset_file(videos, **whole(videos))
    first = run(path)
    assert not first.incomplete and not first.failed
    assert list(first.stages) == [
        "videos",
        "questions a/train",
        "questions a/val",
        "left",
        "option embeddings hashed",
        "dictionary linguistic",
        "dictionary visual",
        "shards",
    ]
    before = versions(videos / "store")
    again = run(path)
    assert versions(videos / "store") == before
    assert again.summary()["dictionary visual"]["computed"] is False


def test_small_shards_are_merged_above_the_threshold(videos: Path) -> None:
    sections = {"videos": {"source": "videos", "config": "rgb.yaml"}, "compact": {"above": 1}}
    path = dataset_file(videos, **sections)
    for name in ("v2", "v1"):
        (videos / "videos" / f"{name}.mp4").rename(videos / f"{name}.mp4")
    (videos / "v1.mp4").rename(videos / "videos" / "v1.mp4")
    assert run(path).summary()["shards"] == {"shards_before": 0, "shards_after": 0, "rows": 0}
    pinned = Store.open(videos / "store")
    old = pinned.place("rgb", "v1")
    (videos / "v2.mp4").rename(videos / "videos" / "v2.mp4")
    assert run(path, compact=False).stages.keys() == {"videos"}  # and leaves two shards of one row
    before = row_digests(videos / "store")
    planned = run(path, plan_only=True)
    assert planned.summary()["shards"] == {"shards_before": 2, "shards_after": 1, "rows": 2} and planned.has_work
    assert run(path).summary()["shards"] == {"shards_before": 2, "shards_after": 1, "rows": 2}
    assert row_digests(videos / "store") == before
    with Store.open(videos / "store") as store:
        assert store.place("rgb", "v1")[0] == store.place("rgb", "v2")[0] != old[0]
        assert pinned.row("rgb", "v1").tobytes() == store.row("rgb", "v1").tobytes()
    assert not run(path).has_work
    never = dataset_file(videos, **{**sections, "compact": {"above": None}})
    assert "shards" not in run(never).stages
    with pytest.raises(SettingsError, match=r"compact\.above"):
        load_dataset(dataset_file(videos, **{**sections, "compact": {"above": 0}}))


KEYS = st.lists(st.sampled_from(["q0", "q1", "q2", "q3", "q4"]), min_size=2, max_size=5, unique=True)
PARTS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["train", "val", "test"])),
    st.lists(KEYS, min_size=1, max_size=2),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=PARTS, shared=st.booleans())
def test_any_dataset_file_converges_at_once(parts: dict[tuple[str, str], list[list[str]]], shared: bool) -> None:
    """Whatever datasets, splits and files there are, also with ids that they share: the second run does nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations, dictionaries = [], []
        for (dataset, split), files in parts.items():
            names = []
            for number, keys in enumerate(files):
                label = "" if shared and number == 0 else f"{number}"
                names.append(write(folder, f"{dataset}_{split}_{number}.jsonl", [key + label for key in keys], ["v"]))
            annotations.append(annotation(names if len(names) > 1 else names[0], split, dataset))
            dictionaries.append({"kind": "linguistic", "dataset": dataset, "split": split, "settings": CLUSTER})
        path = dataset_file(folder, annotations=annotations, dictionaries=dictionaries)
        first = run(path)
        assert not first.failed and not first.incomplete
        with Store.open(folder / "store", lease=False) as store:
            names = sorted("/".join(key) for key in parts)
            assert list(store.parts("questions")) == list(store.parts("linguistic_dictionary")) == names
            for (dataset, split), files in parts.items():
                rows = store.table("questions", f"{dataset}/{split}").num_rows
                assert rows == sum(map(len, files)) and not store.stale("linguistic_dictionary")
        before = load(folder / "store")
        again = run(path)
        assert load(folder / "store") == before and not again.failed


def test_stages_that_write_one_place_are_refused_by_name(tmp_path: Path) -> None:
    for sections, says in (
        (
            {"annotations": [annotation("a.csv", "train"), annotation("v.csv", "val"), annotation("b.csv", "train")]},
            r"annotations\.0 and annotations\.2 both fill a/train; .* path: \[a\.csv, b\.csv\]",
        ),
        (
            {"dictionaries": [{"kind": "linguistic", "dataset": "a"}, {"kind": "visual"}, {"kind": "linguistic"}]},
            r"dictionaries\.0 and dictionaries\.2 may both make one linguistic dictionary",
        ),
        (
            {"dictionaries": [{"kind": "visual", "feature": "clip"}, {"kind": "visual", "dataset": "a"}]},
            r"dictionaries\.0 and dictionaries\.1 may both make one visual dictionary",
        ),
        (
            {"dictionaries": [{"kind": "linguistic", "feature": "a"}, {"kind": "linguistic", "feature": "b"}]},
            r"feature 'a': only a visual dictionary has one; .*feature 'b'",
        ),
        (
            {"option_embeddings": [{"name": "hashed"}] * 2},
            r"option_embeddings\.0 and .*\.1 are the same",
        ),
    ):
        with pytest.raises(SettingsError, match=says) as error:
            load_dataset(dataset_file(tmp_path, **sections))
        assert "\n" not in str(error.value)


def test_dictionaries_of_two_features_live_side_by_side(videos: Path) -> None:
    two = {"rgb": RGB["features"]["rgb"], "fine": {**RGB["features"]["rgb"], "grid": 2}}
    sections = whole(videos)
    kinds = [{"kind": "visual", "feature": name, "settings": CLUSTER} for name in two]
    path = dataset_file(videos, **{**sections, "dictionaries": kinds})
    (videos / "rgb.yaml").write_text(json.dumps({**RGB, "features": two}))
    result = run(path)
    assert [name for name in result.stages if name.startswith("dict")] == [
        "dictionary visual train/rgb",
        "dictionary visual train/fine",
    ]
    with Store.open(videos / "store", lease=False) as store:
        assert list(store.parts("visual_dictionary")) == ["a/train/fine", "a/train/rgb"]
        widths = [len(store.table("visual_dictionary", part)["center"][0]) for part in store.parts("visual_dictionary")]
        assert widths == [12, 3]
    before = load(videos / "store").version
    run(path)
    assert load(videos / "store").version == before


def test_a_stop_while_options_are_embedded_keeps_what_is_finished(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dataset_file(videos, **{**whole(videos), "dictionaries": []})
    options = {"question": "what is it", "options": ["red", "blue", "green"], "answer": "red"}
    rows = [{"question_id": f"q{number}", "video_id": f"v{number}", **options} for number in (0, 1)]
    (videos / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = type(HashedText(size=8).load())
    encode, calls = model.encode, count(1)

    def stop_at_the_third(self: TextModel, texts: Sequence[str]) -> NDArray[np.float32]:
        if next(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return encode(self, texts)

    with monkeypatch.context() as patched:
        patched.setattr(embedding, "TEXTS_AT_ONCE", 1)
        patched.setattr(model, "encode", stop_at_the_third)
        stopped = run(path)
    assert stopped.stopped_by == "SIGTERM"
    summary = stopped.summary()["option embeddings hashed"]
    assert (summary["computed"], summary["stopped_by"]) == (2, "SIGTERM")
    with Store.open(videos / "store", lease=False) as store:
        assert store.table("embeddings").num_rows == 2
    done = run(path).summary()["option embeddings hashed"]
    assert done["computed"] == done["texts"] - 2


def test_all_that_is_missing_is_listed_before_anything_starts(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = whole(videos)
    sections["annotations"][0]["path"] = "nowhere.jsonl"
    (videos / "val.jsonl").write_text("{")
    sections["option_embeddings"] = [
        {"name": "clip", "weights": "nothing.safetensors"},
        {"name": "sentence", "model": "/nowhere/sentences"},
    ]
    sections["dictionaries"][1]["feature"] = "clip"
    sections["videos"]["source"] = "films"
    for plan_only in (True, False):
        with pytest.raises(PreflightError, match="6 things are missing or wrong, see above; nothing was started"):
            refresh(load_dataset(dataset_file(videos, **sections)), "local", plan_only=plan_only)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("missing: ")]
        for line, (stage, what) in zip(
            lines,
            (
                ("videos", "films: no such file or folder"),
                ("questions a/train", "nowhere.jsonl: no such file or folder"),
                ("questions a/val", "val.jsonl"),
                ("option embeddings clip", "nothing.safetensors"),
                ("option embeddings sentence", "/nowhere/sentences: no such folder"),
                ("dictionary visual", "no feature 'clip' (available: rgb)"),
            ),
            strict=True,
        ):
            assert line.startswith(f"missing: {stage}: ") and what in line
        assert not (videos / "store").exists() and WordParser.parsed == []


def test_a_split_that_shrinks_or_is_another_one_is_asked_about(videos: Path) -> None:
    sections = whole(videos)
    path = dataset_file(videos, **sections)
    run(path)
    write(videos, "train.jsonl", ["q8", "q9"], ["v1"])
    with pytest.raises(PreflightError, match=r"questions a/train: .* remove 3 of the 3 stored questions .* --replace"):
        run(path)
    assert not run(path, replace=True).failed
    write(videos, "val.jsonl", ["q9"], ["v1"])
    sections["annotations"][1]["path"] = ["train.jsonl"]
    with pytest.raises(PreflightError, match=r"questions a/val: --split val: train\.jsonl is named after train"):
        run(dataset_file(videos, **sections), replace=True, strict=True)


def test_a_store_that_cannot_be_written_is_among_what_is_missing(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = whole(videos)
    sections["annotations"][0]["path"] = "nowhere.jsonl"
    (videos / "store").write_text("a file")
    with pytest.raises(PreflightError, match="things are missing or wrong"):
        refresh(load_dataset(dataset_file(videos, **sections)), "local")
    assert "missing: store: " in capsys.readouterr().err


def test_a_wrong_configuration_of_the_videos_is_said_once(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = whole(videos)
    sections["videos"]["config"] = "nogrid.yaml"
    sections["dictionaries"][0]["dataset"] = "zz"
    with pytest.raises(PreflightError, match="2 things are missing"):
        refresh(load_dataset(dataset_file(videos, **sections)), "local")
    err = capsys.readouterr().err
    assert err.count("nogrid.yaml") == 1 and "dictionary linguistic: no questions of zz/train" in err


def test_one_missing_thing_is_the_error_itself(videos: Path) -> None:
    sections = whole(videos)
    sections["annotations"][1]["path"] = "nowhere.jsonl"
    with pytest.raises(PreflightError, match=r"questions a/val: .*nowhere\.jsonl: no such file.*; nothing was started"):
        run(dataset_file(videos, **sections))


def test_a_stage_that_fails_stops_only_those_that_need_it(videos: Path) -> None:
    sections = whole(videos)
    sections["dictionaries"][0]["settings"] = {**CLUSTER, "kmeans": {"k": 99}}
    sections["dictionaries"].append({"kind": "visual", "split": "val", "settings": CLUSTER})
    result = run(dataset_file(videos, **sections))
    assert result.failed
    assert result.summary()["dictionary linguistic"]["failed"].startswith("linguistic dictionary: 99 clusters need")
    assert (
        result.summary()["dictionary visual train"]["computed"]
        and result.summary()["dictionary visual val"]["computed"]
    )


def test_what_needs_a_failed_stage_does_not_run(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.refresh import stages

    def broken(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stages, "extract", broken)
    result = run(dataset_file(videos, **whole(videos)))
    assert result.summary()["videos"] == {"failed": "[Errno 28] No space left on device"}
    assert result.summary()["dictionary visual"] == {"failed": "not run, because it needs videos"}
    assert result.summary()["dictionary linguistic"]["computed"]


def test_a_plan_is_whole_and_says_what_waits_for_what(videos: Path) -> None:
    path = dataset_file(videos, **whole(videos))
    planned = run(path, plan_only=True)
    assert not (videos / "store").exists()
    summary = planned.summary()
    assert list(summary) == list(run(path).stages)
    assert summary["videos"]["to_compute"] == 2 and summary["questions a/train"]["to_parse"] == 4
    assert summary["dictionary visual"] == {"waits": "waits for videos and questions a/train"}
    assert summary["dictionary linguistic"] == {"waits": "waits for questions a/train"}
    assert not run(path, plan_only=True).has_work


def test_what_left_the_dataset_file_is_named_and_pruned_if_asked(videos: Path) -> None:
    sections = whole(videos)
    run(dataset_file(videos, **sections))
    (videos / "videos" / "v2.mp4").unlink()
    write(videos, "val.jsonl", ["q0", "q1"], ["v1"])
    path = dataset_file(
        videos,
        videos=sections["videos"],
        annotations=sections["annotations"][1:],
        dictionaries=[],
    )
    kept = run(path).summary()
    left = {
        "questions a/train": 3,
        "graphs a/train": 3,
        "annotation_report a/train": 0,
        "linguistic_dictionary a/train": 2,
        "linguistic_dictionary_members a/train": 3,
        "visual_dictionary a/train/rgb": 2,
        "visual_dictionary_members a/train/rgb": 8,
    }
    assert kept["left"] == {"left": left, "pruned": False}
    planned = run(path, prune=True, plan_only=True).summary()
    assert planned["left"] == {"left": left, "pruned": True} and planned["videos"]["reasons"]["rgb"]["removed"] == 1
    assert run(path, prune=True).summary()["left"]["left"] == left
    with Store.open(videos / "store", lease=False) as store:
        assert list(store.parts("questions")) == list(store.parts("graphs")) == ["a/val"]
        assert "visual_dictionary" not in store.tables and store.keys("rgb") == ["v1"]
    before = load(videos / "store").version
    assert run(path, prune=True).summary()["left"]["left"] == {} and load(videos / "store").version == before


def test_only_some_videos_are_computed_when_asked(videos: Path) -> None:
    path = dataset_file(videos, videos={"source": "videos", "config": "rgb.yaml"})
    run(path, options=PlanOptions(only=frozenset({"v2"})))
    with Store.open(videos / "store") as store:
        assert store.keys("rgb") == ["v2"]
    run(path, options=PlanOptions(limit=1))
    with Store.open(videos / "store") as store:
        assert len(store.keys("rgb")) == 2


def test_overrides_are_those_of_the_videos(videos: Path) -> None:
    dataset = load_dataset(dataset_file(videos, videos={"source": "videos", "config": "rgb.yaml", "set": ["a.b=1"]}))
    more = dataset.with_overrides(["run.gpus=0"]).videos
    assert more is not None and more.set == ("a.b=1", "run.gpus=0")
    assert dataset.with_overrides([]) is dataset
