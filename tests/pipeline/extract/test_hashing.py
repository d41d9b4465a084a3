"""Files are hashed by the workers that read them; the plan hashes what it must compare, and decides as before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.extract import contents
from stores import Store
from tests._helpers.runs import digests, extract, reasons, rgb_config


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that plans hash."""
    names: list[str] = []
    hash_content = contents.hash_content

    def noted(path: Path, image_rate: float | None = None) -> str:
        names.append(path.name)
        return hash_content(path, image_rate)

    monkeypatch.setattr(contents, "hash_content", noted)
    return names


def test_new_files_of_their_own_size_are_left_to_the_workers(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    assert extract(videos, store, config).exit_code == 0
    assert hashed == []
    assert extract(videos, store, config).summary["computed"] == 0
    assert hashed == [], "the stamps of the sources are known from the run"


def test_copies_are_found_by_their_size_and_decoded_once(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    shutil.copy(videos / "clip0.mp4", videos / "copy.mp4")
    done = extract(videos, tmp_path / "store", rgb_config(tmp_path))
    assert sorted(hashed) == ["clip0.mp4", "copy.mp4"]
    assert (done.summary["stored"], done.summary["videos"]) == (5, 4)
    rows = digests(tmp_path / "store")
    assert rows["clip0"] == rows["copy"]


def test_a_file_under_a_new_name_is_found(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    extract(videos, store, config)
    (videos / "clip2.mp4").rename(videos / "renamed.mp4")
    done = extract(videos, store, config)
    assert hashed == ["renamed.mp4"]
    assert reasons(done) == {"stored": 3, "duplicate": 1, "removed": 1}


def test_equal_sizes_are_not_equal_bytes(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    whole = (videos / "clip0.mp4").read_bytes()
    (videos / "near.mp4").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = extract(videos, tmp_path / "store", rgb_config(tmp_path))
    assert sorted(hashed) == ["clip0.mp4", "near.mp4"]
    assert done.summary["videos"] == 5


def test_a_touched_file_is_compared(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    extract(videos, store, config)
    os.utime(videos / "clip1.mp4", ns=(1, 1))
    done = extract(videos, store, config)
    assert hashed == ["clip1.mp4"]
    assert reasons(done) == {"stored": 4}


def test_a_bad_file_is_remembered_by_its_bytes(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    """The worker hashes it, it fails; touched, it is still the same bad file; other bytes are tried."""
    config, store = rgb_config(tmp_path), tmp_path / "store"
    (videos / "bad.mp4").write_text("not a video")
    extract(videos, store, config)
    with Store.open(store) as opened:
        (failure,) = opened.failures().to_pylist()
    assert len(failure["content_id"]) == 64
    assert reasons(extract(videos, store, config)) == {"stored": 4, "failed_permanent": 1}
    assert hashed == []
    os.utime(videos / "bad.mp4", ns=(1, 1))
    assert reasons(extract(videos, store, config)) == {"stored": 4, "failed_permanent": 1}
    assert hashed == ["bad.mp4"]
    shutil.copy(videos / "clip0.mp4", videos / "bad.mp4")
    (videos / "bad.mp4").write_bytes((videos / "bad.mp4").read_bytes() + b"x")
    assert reasons(extract(videos, store, config)) == {"stored": 4, "new": 1}


def test_clips_of_one_file_are_hashed_once(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    table = tmp_path / "clips.csv"
    rows = [f"c{number},{videos}/clip0.mp4,{number / 10},{number / 10 + 1}" for number in range(4)]
    table.write_text("\n".join(["video_id,uri,start_s,end_s", *rows]) + "\n")
    assert extract(table, tmp_path / "store", rgb_config(tmp_path)).summary["stored"] == 4
    assert hashed == ["clip0.mp4"]


def test_a_forced_run_is_told_as_forced(videos: Path, tmp_path: Path) -> None:
    config = rgb_config(tmp_path)
    assert reasons(extract(videos, tmp_path / "store", config, force=True)) == {"forced": 4}
