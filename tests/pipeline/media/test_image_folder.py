"""Folders of images as videos: their order, their times, what is missing in them, and how a source lists them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.extract.sources import read_source
from pipeline.media import MediaError, list_images
from pipeline.media.sampling import sample_clips
from pipeline.shared.errors import SourceError
from stores import Store
from tests._helpers.films import see
from tests._helpers.runs import extract, reasons, rgb_config

TEXT = """
features:
  rgb: {extractor: rgb_grid, grid: 2, dtype: float32, sampling: {policy: uniform, n: 4}}
  sound: {extractor: logmel_bands, dtype: float32, sampling: {policy: segments, t: 2}}
source: {image_rate: 6}
media: {deadline_s: 20}
"""


def grey(number: int) -> int:
    return 16 + 2 * number


def write_images(folder: Path, numbers: range | list[int], suffix: str = "png", digits: int = 6) -> Path:
    """Write one image per number, as grey as its number says."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey(number), np.uint8), format="rgb24")
        if suffix == "jpg":
            picture = picture.reformat(format="yuvj420p", dst_color_range="JPEG")
        codec = "mjpeg" if suffix == "jpg" else suffix
        context = av.CodecContext.create(codec, "w")
        context.width, context.height = 64, 48
        context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        context.time_base = Fraction(1, 25)
        data = b"".join(map(bytes, [*context.encode(picture), *context.encode(None)]))
        (folder / f"{number:0{digits}d}.{suffix}").write_bytes(data)
    return folder


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_are_shown_one_after_the_other_at_their_rate(suffix: str, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v", range(1, 13), suffix)
    seen = see(folder, n=4, image_rate=6.0)
    assert seen.header.duration_s == 2.0
    np.testing.assert_allclose(seen.times, np.array([1, 4, 7, 10]) / 6)
    assert np.abs(np.array(seen.numbers) - [2, 5, 8, 11]).max() <= (1 if suffix == "jpg" else 0)
    assert seen.findings is None and seen.audio is not None and seen.audio.state == "absent"


def test_numbers_order_the_images_not_letters(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v", range(8, 12), digits=1)
    (folder / "7.png").mkdir()
    assert [name for _, name in list_images(str(folder))] == ["8.png", "9.png", "10.png", "11.png"]


def test_every_third_file_of_a_dump_is_a_dump_at_a_third_of_the_rate(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v", [1, 4, 7, 10])
    assert [place for place, _ in list_images(str(folder))] == [0, 1, 2, 3]
    assert see(folder, n=4, image_rate=2.0).header.duration_s == 2.0


def test_a_missing_number_is_a_missing_frame(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v", [1, 2, 3, 4, 5, 7, 8])
    (folder / "000003.png").write_bytes(b"\x89PNG not one")
    seen = see(folder, n=8, image_rate=8.0)
    assert seen.header.duration_s == 1.0
    assert seen.numbers == [1, 2, 2, 4, 5, 5, 7, 8]
    assert seen.times.tolist() == [0, 1 / 8, 1 / 8, 3 / 8, 4 / 8, 4 / 8, 6 / 8, 7 / 8]
    assert seen.findings is not None and {2, 5} <= set(seen.findings.damaged[0])
    assert seen.findings.media == {"undecodable_images": 1, "missing_images": 1}


def test_a_dump_at_six_images_a_second_is_the_published_dump(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "v", range(1, 101))
    seen = see(folder, image_rate=6.0, policies=({"policy": "nextgqa32"},))
    files = list(range(1, 101))[::3]
    assert seen.numbers == [files[chosen] for chosen in sample_clips(len(files), 32, 4)]


def test_a_folder_without_a_readable_image_is_a_typed_failure(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    with pytest.raises(MediaError, match="too_short: the folder holds no images"):
        see(folder, image_rate=6.0)
    (folder / "1.jpg").write_bytes(b"<html>")
    with pytest.raises(MediaError, match="corrupt: none of the images decodes"):
        see(folder, image_rate=6.0)


def test_a_source_lists_folders_of_images_where_a_rate_is_set(tmp_path: Path) -> None:
    root = tmp_path / "dumps"
    for name in ("b", "a", "deep/c"):
        write_images(root / name, range(1, 4))
    (root / "a" / "notes.txt").write_text("")
    listing = read_source(str(root), image_rate=6.0)
    assert [(item.key, item.image_rate) for item in listing.items] == [("a", 6.0), ("b", 6.0), ("c", 6.0)]
    assert listing.ignored == {}
    assert [item.key for item in read_source(str(root), "relpath", 6.0).items] == ["a", "b", "deep/c"]
    assert [item.key for item in read_source(f"{root}/*", image_rate=6.0).items] == ["a", "b"]
    assert [item.key for item in read_source(f"{root}/**", image_rate=6.0).items] == ["a", "b", "c"]
    assert [item.key for item in read_source(str(root / "a"), image_rate=6.0).items] == ["a"]
    with pytest.raises(SourceError, match=r"holds no videos; ignored: 10 files .*--set source\.image_rate=FPS"):
        read_source(str(root))


def test_a_folder_with_a_video_in_it_is_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "v", range(1, 4))
    (tmp_path / "v" / "film.mp4").write_bytes(b"")
    listing = read_source(str(tmp_path), image_rate=6.0)
    assert [item.key for item in listing.items] == ["film"] and listing.ignored == {".png": 3}


def test_a_table_states_the_rate_of_each_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "a", range(1, 4))
    (tmp_path / "list.csv").write_text("video_id,uri,image_rate\nv,a,3\n")
    (item,) = read_source(str(tmp_path / "list.csv")).items
    assert item.image_rate == 3
    (tmp_path / "bad.csv").write_text("video_id,uri,image_rate\nv,a,0\n")
    with pytest.raises(SourceError, match="line 2: field 'image_rate' must be images per second, more than 0"):
        read_source(str(tmp_path / "bad.csv"))


def test_folders_become_rows_and_a_changed_image_or_rate_computes_anew(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / "dumps" / name, range(1, 13) if name == "a" else range(3, 15))
    config = rgb_config(tmp_path, text=TEXT)
    done = extract(tmp_path / "dumps", tmp_path / "store", config)
    assert done.exit_code == 0 and done.summary["computed"] == 4
    with Store.open(tmp_path / "store") as store:
        expected = np.repeat(np.array([grey(n) for n in (2, 5, 8, 11)]) / 255, 12).reshape(4, -1)
        np.testing.assert_allclose(store.row("rgb", "a"), expected, atol=1e-6)
        assert not store.valid("sound", "a").any() and store.media("rgb", "a")["format"] == "images"
    assert extract(tmp_path / "dumps", tmp_path / "store", config).summary["to_compute"] == 0
    write_images(tmp_path / "dumps" / "a", [5])
    (tmp_path / "dumps" / "a" / "000006.png").write_bytes((tmp_path / "dumps" / "b" / "000012.png").read_bytes())
    assert reasons(extract(tmp_path / "dumps", tmp_path / "store", config)) == {"content_changed": 1, "stored": 1}
    faster = rgb_config(tmp_path, "source.image_rate=12", text=TEXT)
    assert reasons(extract(tmp_path / "dumps", tmp_path / "store", faster)) == {"content_changed": 2}
    with Store.open(tmp_path / "store") as store:
        assert store.clip("rgb", "b")[1] == 1.0
