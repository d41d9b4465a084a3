"""Sources become keyed videos, in order of key bytes; every mistake is one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.extract.sources import Rules, read_source
from pipeline.shared.errors import SourceError
from tests._helpers.runs import digests, extract, rgb_config
from tests.conftest import ROOT


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def keys(source: object, key: str = "stem") -> list[str]:
    return [item.key for item in read_source(str(source), key).items]  # type: ignore[arg-type]  # a parametrized text


def test_a_directory_is_walked_and_sorted_by_bytes(tmp_path: Path) -> None:
    touch(tmp_path / "b.mp4", tmp_path / "sub/a.MKV", tmp_path / "é.webm", tmp_path / "Z.avi")
    touch(tmp_path / "notes.txt", tmp_path / ".hidden.mp4", tmp_path / ".git/c.mp4")
    assert keys(tmp_path) == sorted(["b", "a", "é", "Z"], key=str.encode)
    assert keys(tmp_path, "relpath") == ["Z.avi", "b.mp4", "sub/a.MKV", "é.webm"]


def test_a_collision_names_both_files(tmp_path: Path) -> None:
    touch(tmp_path / "x/a.mp4", tmp_path / "y/a.mp4")
    with pytest.raises(SourceError) as caught:
        read_source(str(tmp_path))
    assert all(part in str(caught.value) for part in ("x/a.mp4", "y/a.mp4", "--key relpath"))
    assert keys(tmp_path, "relpath") == ["x/a.mp4", "y/a.mp4"]


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path / "in/a1.mp4", tmp_path / "in/a2.mp4", tmp_path / "in/b.mp4", tmp_path / "in/a.txt")
    assert keys(f"{tmp_path}/in/a*") == ["a1", "a2"]
    assert keys(f"{tmp_path}/**/*.mp4", "relpath") == ["in/a1.mp4", "in/a2.mp4", "in/b.mp4"]
    odd = tmp_path / "odd[1]"
    touch(odd / "v.mp4")
    assert keys(odd) == ["v"]  # an existing directory is not a glob


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_tables_of_each_kind_say_the_same(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame(
        {"video_id": ["v1", "../../etc/x", "🎬"], "uri": ["a.mp4", "/abs/b.mp4", "c.mp4"], "start_s": [0.5, 1, 2]}
    )
    frame["end_s"] = [2.5, 3, 4]
    path = tmp_path / name
    if name == "t.csv":
        frame.to_csv(path, index=False)
    elif name == "t.jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    items = read_source(str(path)).items
    assert [(i.key, i.uri, i.start_s, i.end_s) for i in items] == [
        ("../../etc/x", "/abs/b.mp4", 1.0, 3.0),
        ("v1", str(tmp_path / "a.mp4"), 0.5, 2.5),
        ("🎬", str(tmp_path / "c.mp4"), 2.0, 4.0),
    ]


BAD_TABLES = {
    "missing column": ("t.csv", b"video_id,path\na,b.mp4\n", ["column 'uri' is missing", "video_id, path"]),
    "twice": ("t.csv", b"video_id,uri\na,1.mp4\nb,2.mp4\na,3.mp4\n", ["line 4", "'a' is given twice", "line 2"]),
    "empty key": ("t.csv", b"video_id,uri\n,1.mp4\n", ["line 2", "'video_id'"]),
    "empty uri": ("t.csv", b"video_id,uri\na,\n", ["line 2", "'uri'"]),
    "long key": ("t.csv", b"video_id,uri\n" + b"k" * 600 + b",1.mp4\n", ["line 2", "600 bytes", "512"]),
    "bad start": ("t.csv", b"video_id,uri,start_s\na,1.mp4,soon\n", ["line 2", "'start_s'", "soon"]),
    "negative": ("t.csv", b"video_id,uri,start_s\na,1.mp4,-1\n", ["line 2", "'start_s'"]),
    "nan": ("t.csv", b"video_id,uri,end_s\na,1.mp4,nan\n", ["line 2", "'end_s'"]),
    "reversed": ("t.csv", b"video_id,uri,start_s,end_s\na,1.mp4,5,4\n", ["line 2", "'end_s'"]),
    "ragged": ("t.csv", b"video_id,uri\na,1.mp4,x\n", ["line 2", "number of fields"]),
    "not utf-8": ("t.csv", b"video_id,uri\na,1.mp4\nb,\xff.mp4\n", ["line 3", "not UTF-8"]),
    "bad json": ("t.jsonl", b'{"video_id": "a", "uri": "b"}\n{"video_id": \n', ["line 2", "not valid JSON"]),
    "no object": ("t.jsonl", b"[1]\n", ["line 1", "must be an object"]),
    "no field": ("t.jsonl", b'{"video_id": "a"}\n', ["line 1", "'uri' is missing"]),
    "no parquet": ("t.parquet", b"PAR1 nonsense", ["not a readable Parquet"]),
    "no rows": ("t.csv", b"video_id,uri\n", ["holds no videos"]),
    "nul": ("t.jsonl", json.dumps({"video_id": "a", "uri": "x\0y"}).encode(), ["line 1", "NUL"]),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_one_line_with_file_line_and_field(tmp_path: Path, case: str) -> None:
    name, data, parts = BAD_TABLES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError) as caught:
        read_source(str(tmp_path / name))
    text = str(caught.value)
    assert str(tmp_path / name) in text
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_things_that_are_no_source(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt")
    for source in (tmp_path / "nowhere", tmp_path / "*.mp4"):
        with pytest.raises(SourceError) as caught:
            read_source(str(source))
        assert str(source) in str(caught.value)


def test_remote_files_are_read_through_fsspec() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/b/two.mp4", b"2")
    memory.pipe("/bucket/one.mp4", b"1")
    rules = Rules(protocols=("memory",))
    items = read_source("memory://bucket", rules=rules).items
    assert [(item.key, item.is_remote) for item in items] == [("one", True), ("two", True)]
    assert [item.key for item in read_source("memory://bucket/*.mp4", rules=rules).items] == ["one"]


def test_a_folder_has_one_name_however_it_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the second run of the same folder would hash every file again."""
    touch(tmp_path / "data/videos/a.mp4", tmp_path / "data/t.csv")
    (tmp_path / "data/t.csv").write_text("video_id,uri\na,../data/videos/a.mp4\n")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    here = str((tmp_path / "data/videos/a.mp4").resolve())
    for source in (tmp_path / "data/videos", "../data/videos", "../link/videos", "../data/*/*.mp4", "../link/t.csv"):
        assert [item.uri for item in read_source(str(source)).items] == [here], source


def test_what_a_listing_leaves_out_is_counted(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.GIF", "c.h264", "notes.txt", "more.txt", "cover.jpg", "LICENSE", ".hidden.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.3g2").touch()
    for listing in (read_source(str(tmp_path)), read_source(f"{tmp_path}/**/*")):
        assert [item.key for item in listing.items] == ["a", "b", "c", "d"]
        assert {name: count for name, count in listing.ignored.items() if name != ".*"} == {".txt": 2, ".jpg": 1, "": 1}
    assert read_source(str(tmp_path)).describe_ignored() == ("ignored: 5 files (.txt 2, no suffix 1, .* 1, .jpg 1)")
    with pytest.raises(SourceError, match=r"holds no videos; ignored: 1 file \(\.txt 1\)"):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "x.txt").touch()
        read_source(str(tmp_path / "empty"))


def test_a_file_that_a_person_names_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    for name in ("a.dat", "b.dat", "c.mp4"):
        (tmp_path / name).touch()
    assert keys(tmp_path / "a.dat") == ["a"]
    assert keys(f"{tmp_path}/*.dat") == ["a", "b"]
    assert keys(f"{tmp_path}/*") == ["c"]


def test_linked_folders_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    """The real folder counts by its own name, whichever of the two is listed first."""
    (tmp_path / "videos" / "real").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "videos" / "real" / "a.mp4").touch()
    (tmp_path / "elsewhere" / "b.mp4").touch()
    (tmp_path / "videos" / "again").symlink_to(tmp_path / "videos" / "real")
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "real" / "up").symlink_to(tmp_path / "videos")
    (tmp_path / "elsewhere" / "other").symlink_to(tmp_path / "elsewhere")
    assert keys(tmp_path / "videos", "relpath") == ["link/b.mp4", "real/a.mp4"]
    assert keys(tmp_path / "videos") == ["a", "b"]
    assert keys(f"{tmp_path}/videos/**/*.mp4") == ["a", "b"]


def test_what_is_no_file_is_one_failure_row_each(videos: Path, tmp_path: Path) -> None:
    """A FIFO, a socket, a circle of links, a dangling link: the other videos are stored, and nothing waits for ever."""
    os.mkfifo(videos / "fifo.mp4")
    (videos / "circle.mp4").symlink_to(videos / "circle.mp4")
    (videos / "dangling.mp4").symlink_to(videos / "nowhere.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(videos / "socket.mp4"))
        done = extract(videos, tmp_path / "store", rgb_config(tmp_path))
    assert {failure["video_id"]: failure["class"] for failure in done.summary["failures"]} == {
        "fifo": "unreadable",
        "socket": "unreadable",
        "circle": "unreadable",
        "dangling": "missing",
    }
    messages = {failure["video_id"]: failure["message"] for failure in done.summary["failures"]}
    assert messages["fifo"] == "not a regular file but a FIFO"
    assert set(digests(tmp_path / "store")) == {"clip0", "clip1", "clip2", "clip3"}


def test_a_stop_ends_a_plan_whose_file_never_answers(videos: Path, tmp_path: Path) -> None:
    """SIGTERM arrives while a file is hashed whose reading hangs: exit code 143 within seconds."""
    shutil.copy(videos / "clip0.mp4", videos / "copy.mp4")  # only what may be a copy is hashed by the plan
    code = """
import sys, threading
sys.path.insert(0, ".")
from pipeline.extract import contents
def hang(path, image_rate):
    print("hashing", flush=True)
    threading.Event().wait()
contents.hash_content = hang
sys.argv = ["extract.py", *sys.argv[1:]]
from jobs.extract import app
app()
"""
    arguments = [str(videos), "--store", str(tmp_path / "store"), "--preset", "demo", "--plan"]
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == "hashing\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == 143


def test_stats_in_threads_are_those_of_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system, where a stat takes long."""
    for number in range(150):
        (tmp_path / f"{number}.mp4").write_bytes(b"x" * number)
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    one = read_source(str(tmp_path)).items
    monkeypatch.setattr("pipeline.extract.sources.folders._SLOW_S", -1.0)
    many = read_source(str(tmp_path)).items
    assert many.table.equals(one.table) and one.column("size").null_count == 1
    assert [item.status and item.status[0] for item in many if item.key == "149"] == [149]
