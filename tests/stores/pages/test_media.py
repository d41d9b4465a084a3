"""Frames and sound on the pages of videos: those of the row's seconds, of the file that the row was computed from."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stores import Store
from stores.describe import Origin, find_origins, rows_of
from stores.describe.videos import VideoRow
from stores.pages import bitmaps, media
from stores.pages.media import Decoded, Wanted, decode_all
from stores.pages.videos import times_of, wanted_of
from tests._helpers.films import TONE, film, level
from tests._helpers.pages import Page, files_of
from tests._helpers.runs import extract, rgb_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of two whole films, of which ``late.ts`` begins at 1.4 s of its clock, and of a clip."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "videos").mkdir()
    film(folder / "videos" / "plain.mp4", seconds=2.0)
    film(folder / "videos" / "late.ts", seconds=1.6)
    film(folder / "long.mp4", seconds=3.0)
    (folder / "table.csv").write_text("video_id,uri,start_s,end_s\nclip,long.mp4,1.0,2.2\n")
    for source in (folder / "videos", folder / "table.csv"):
        assert extract(source, folder / "store", rgb_config(folder)).exit_code == 0
    return folder


def wanted(root: Path, *keys: str) -> list[tuple[list[VideoRow], Wanted]]:
    with Store.open(root, lease=False) as store:
        origins = find_origins(store, keys)
        rows = [rows_of(store, key) for key in keys]
    found = [(each, wanted_of(each, origins.get(key, []))) for key, each in zip(keys, rows, strict=True)]
    return [(each, one) for each, one in found if one is not None]


def number_of(picture: bytes) -> int:
    """Return the number of the frame that a picture shows: its upper rows are noise that no other frame has."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), np.float64)
    seen = pixels[:16].reshape(8, 2, 64, 2).mean(axis=(1, 3)).ravel()
    noise = [np.random.default_rng(number).integers(0, 256, (8, 64, 1)).ravel() for number in range(600)]
    return int(np.argmax([np.corrcoef(seen, each)[0, 1] for each in noise]))


def test_each_picture_is_the_frame_of_its_step(world: Path) -> None:
    """Of a file whose clock begins later, and of a clip, too; the row itself says how grey its frame is."""
    keys = ("plain", "late", "clip")
    asked = wanted(world / "store", *keys)
    with Store.open(world / "store", lease=False) as store:
        stored = [store.row("rgb", key).reshape(4, 2, 2, 3)[:, 1].mean(axis=(1, 2)) for key in keys]
    for (rows, one), greys, decoded in zip(asked, stored, decode_all([one for _, one in asked]), strict=True):
        assert decoded.problem == "" and len(decoded.pictures) == len(times_of(rows)) == 4
        darker = 0.5  # of a frame's grey, the encoder takes up to one
        numbers = np.rint((255 * greys.astype(np.float64) + darker - level(0)) / 2).astype(int).tolist()
        assert [number_of(picture) for picture in decoded.pictures] == numbers, one.origins
        assert Image.open(io.BytesIO(decoded.pictures[0])).size == (128, 96)
    assert asked[1][1].record["zero_s"] > 0 and asked[2][1].start_s == 1.0


def test_frames_far_apart_are_sought_and_are_the_same(tmp_path: Path) -> None:
    """In a file with an index the decoder skips what is between them; the last second is after the last frame."""
    data = film(tmp_path / "long.mp4", seconds=24.0, audio=None).read_bytes()
    origin = Origin(str(tmp_path / "long.mp4"), len(data), hashlib.sha256(data).hexdigest())
    times = [0.0, 0.039, 0.04, 9.99, 10.0, 10.5, 19.98, 23.96, 30.0]
    (found,) = decode_all([Wanted([origin], {"zero_s": 0.0}, 0.0, 24.0, times)])
    assert [number_of(picture) for picture in found.pictures] == [0, 0, 1, 249, 250, 262, 499, 599, 599]


def test_the_sound_is_a_tone_of_440_hz(world: Path) -> None:
    ((_, one),) = wanted(world / "store", "plain")
    (decoded,) = decode_all([one])
    sound = decoded.sound
    assert sound is not None and len(sound.peaks) == 240
    low, high = np.array(sound.peaks)[20:-20].T
    assert np.median(high) == pytest.approx(TONE, abs=0.02) and np.median(low) == pytest.approx(-TONE, abs=0.02)
    loudest = sound.levels.mean(axis=1).argmax()  # bands go downwards; 440 Hz is in band 12 of 64
    edges = 700 * np.expm1(np.linspace(*(1127 * np.log1p(np.array([125, 7500]) / 700)), 66) / 1127)
    band = len(sound.levels) - 1 - loudest
    assert edges[band] < 440 < edges[band + 2]


def test_pages_hold_the_pictures_with_their_seconds(world: Path) -> None:
    files = files_of(world / "store", decode=True)
    shown = Page(files["video-0001.html"])
    pictures = [link for link in shown.links if link.endswith(".jpg")]
    assert pictures == [f"video-0001-{number:02d}.jpg" for number in range(1, 5)]
    assert "Frame at 0.12 seconds" in shown.values("alt") and "4 of the steps of rgb" in shown.text
    assert "Waveform, loudest sample 0." in " ".join(filter(None, shown.values("aria-label")))
    assert files == files_of(world / "store", decode=True)
    assert str(world / "videos" / "late.ts") in Page(files["video-0002.html"]).text


def test_a_file_that_is_not_what_it_was_is_not_shown(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(world / "videos", tmp_path / "videos")
    film(tmp_path / "videos" / "gone.mp4", seconds=1.0)
    assert extract(tmp_path / "videos", root, rgb_config(tmp_path)).exit_code == 0
    plain = tmp_path / "videos" / "plain.mp4"
    data = bytearray(plain.read_bytes())
    data[len(data) // 2] ^= 1  # of the same size
    plain.write_bytes(data)
    (tmp_path / "videos" / "gone.mp4").unlink()
    files = files_of(root, decode=True)
    told = {name: Page(data).text for name, data in files.items() if name.startswith("video-") and name.endswith("l")}
    assert f"None are shown: {tmp_path / 'videos' / 'gone.mp4'} cannot be read here." in told["video-0001.html"]
    assert f"None are shown: {plain} has changed since its rows were computed." in told["video-0003.html"]
    assert not any(name.startswith(("video-0001-", "video-0003-")) for name in files) and "video-0002-01.jpg" in files


def test_a_list_of_files_shows_none_of_them(world: Path, tmp_path: Path) -> None:
    """A source may be a playlist that names any file or server."""
    listing = tmp_path / "listing.m3u8"
    late = world / "videos" / "late.ts"
    listing.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\nfile://{late}\n#EXT-X-ENDLIST\n")
    data = listing.read_bytes()
    origin = Origin(str(listing), len(data), hashlib.sha256(data).hexdigest())
    (listed,), (itself,) = (
        decode_all([Wanted([one], {}, 0.0, 1.0, [0.5])])
        for one in (origin, Origin(str(late), late.stat().st_size, hashlib.sha256(late.read_bytes()).hexdigest()))
    )
    assert listed.pictures == [] and "cannot be decoded" in listed.problem and len(itself.pictures) == 1


def deadly(folder: Path, body: str) -> Path:
    path = folder / "child.py"
    path.write_text(f"import sys, os, json, time\nfor line in sys.stdin:\n    {body}\n")
    return path


def test_a_file_that_brings_its_decoder_down_takes_no_other_with_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"pictures": [], "sound": None, "problem": "seen"}
    body = f"os.abort() if 'plain' in line else print(json.dumps({answer}), flush=True)"
    monkeypatch.setattr(media, "CHILD", deadly(tmp_path, body))
    found = decode_all([one for _, one in wanted(world / "store", "late", "plain", "clip")])
    assert [one.problem.rpartition(": ")[2] for one in found] == [
        "seen", "it brought its decoder down (exit code -6)", "seen"
    ]  # fmt: skip


def test_a_file_that_takes_for_ever_is_given_up(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "CHILD", deadly(tmp_path, "time.sleep(600)"))
    monkeypatch.setattr(media, "DEADLINE_S", 0.3)
    (found,) = decode_all([one for _, one in wanted(world / "store", "plain")])
    assert found.problem.endswith("plain.mp4: not decoded within 0 s")


def test_without_pyav_the_pages_say_how_to_get_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda name: None)
    (found,) = decode_all([one for _, one in wanted(world / "store", "plain")])
    assert found == Decoded(problem="decoding needs PyAV: pip install 'reelstore[report]'")


def test_the_child_imports_nothing_of_ours() -> None:
    lines = media.CHILD.read_text().splitlines()
    names = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import", "from"))}
    assert names == {
        "__future__", "base64", "json", "math", "os", "resource", "stat", "sys", "collections",
        "contextlib", "fractions", "typing", "av", "numpy",
    }  # fmt: skip


def test_a_png_file_holds_its_levels() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    picture: Any = Image.open(io.BytesIO(bitmaps.png(levels)))
    assert np.array_equal(np.asarray(picture), levels)
    assert np.array_equal(np.asarray(picture.convert("RGB")), bitmaps.palette()[levels])
    assert bitmaps.levels_of(np.array([-2.0, np.nan, 0.0, 1.0, np.inf]), -1, 1).tolist() == [0, 0, 128, 255, 255]
