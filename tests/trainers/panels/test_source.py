"""A panel shows the file that the rows were computed from, and no other."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from examples.clips import write_clip
from stores import Store
from tests._helpers.building import commit_rows
from tests._helpers.cra_worlds import SPEC, video
from tests._helpers.runs import extract, rgb_config
from trainers.errors import TrainingError
from trainers.panels.figure import Clip, page
from trainers.panels.source import source_of


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, two videos, a third of which the store has a clip of 0.3 to 0.9 s, and rows of no file."""
    folder = tmp_path_factory.mktemp("panels")
    (folder / "videos").mkdir()
    for number, name in enumerate(("one", "two")):
        write_clip(folder / "videos" / f"{name}.mp4", seed=number, seconds=1.0, width=64, height=48, gop=5)
    write_clip(folder / "long.mp4", seed=7, seconds=2.0, width=64, height=48, gop=5)
    (folder / "table.csv").write_text("video_id,uri,start_s,end_s\nclip,long.mp4,0.3,0.9\nrest,long.mp4,0.7,\n")
    for source in (folder / "videos", folder / "table.csv"):
        assert extract(source, folder / "store", rgb_config(folder)).exit_code == 0
    commit_rows(folder / "store", [video(0)], feature="clip", spec=SPEC)
    return folder


def found(folder: Path, key: str, given: Path | None = None, features: tuple[str, ...] = ("rgb",)) -> Path | None:
    with Store.open(folder / "store", lease=False) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        return source_of(store, features, key, given)


def test_the_source_is_found_without_being_named(extracted: Path) -> None:
    """Of whole files and of clips, and by a run that reads no feature."""
    assert found(extracted, "one") == extracted / "videos" / "one.mp4"
    assert found(extracted, "two", features=()) == extracted / "videos" / "two.mp4"
    assert found(extracted, "clip") == found(extracted, "rest") == extracted / "long.mp4"


def test_other_bytes_are_refused_and_the_same_bytes_elsewhere_are_taken(extracted: Path, tmp_path: Path) -> None:
    moved = tmp_path / "renamed.mkv"
    moved.write_bytes((extracted / "videos" / "one.mp4").read_bytes())
    assert found(extracted, "one", moved) == moved
    for key, wrong in (("one", extracted / "videos" / "two.mp4"), ("clip", moved), ("two", extracted / "long.mp4")):
        with pytest.raises(TrainingError) as refused:
            found(extracted, key, wrong)
        line = str(refused.value)
        assert line.startswith(f"{wrong}: is not the file of video {key!r}") and "\n" not in line
    with pytest.raises(TrainingError, match=r"absent\.mp4: not readable \(No such file or directory\)"):
        found(extracted, "one", tmp_path / "absent.mp4")


def test_what_cannot_be_shown_or_checked_is_said(extracted: Path, tmp_path: Path) -> None:
    given = extracted / "long.mp4"
    with Store.open(extracted / "store", lease=False) as store:
        with pytest.warns(UserWarning, match=r"long\.mp4: taken as video 'v0' unchecked; the store does not know"):
            assert source_of(store, ("clip",), "v0", given) == given
        with pytest.warns(UserWarning, match="'v0': the store does not know its source, so no frames are shown"):
            assert source_of(store, ("clip",), "v0", None) is None
        file = extracted / "videos" / "two.mp4"
        bytes_before = file.read_bytes()
        try:
            file.write_bytes(bytes_before + b"\0")
            with pytest.warns(UserWarning, match=r"two\.mp4 has changed since its rows were computed, so no frames"):
                assert source_of(store, ("rgb",), "two", None) is None
            with pytest.raises(TrainingError, match="is not the file of video 'two'"):
                source_of(store, ("rgb",), "two", file)
            file.unlink()
            with pytest.warns(UserWarning, match=r"its source \S+two\.mp4 cannot be read here, so no frames"):
                assert source_of(store, ("rgb",), "two", None) is None
        finally:
            file.write_bytes(bytes_before)


def test_a_page_plays_a_file_at_its_seconds_whatever_its_name(tmp_path: Path) -> None:
    file = tmp_path / 'a "b" #1.mp4'
    shown = [Clip.of("true span 1.0–2.5 s", file, 3.0, 4.5), Clip.of("<reversed>", file, 2.0, 1.0)]
    assert shown[0].uri == f"file://{tmp_path}/a%20%22b%22%20%231.mp4#t=3.000,4.500"
    assert shown[1].uri.endswith("#t=2.000")  # no player can play it backwards
    text = page("t", "n", "s", b"", "i", clips=shown)
    assert f'<video controls preload="metadata" src="{shown[0].uri}">' in text
    assert "<figcaption>&lt;reversed&gt;</figcaption>" in text
