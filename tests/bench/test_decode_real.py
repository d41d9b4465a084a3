"""The bench on many clips: its films are what they are called, its comparison of pixels, and one run on a tiny clip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.decode import UNIFORM
from bench.decode_real import TARGET_FEW, TARGET_MANY, describe, difference
from bench.films import FILMS, Film, shoot
from bench.report import Result
from tests.conftest import ROOT

SCRIPT = ROOT / "bench" / "decode_real.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("bframes", "pyramid", "least", "most", "target"),
    [(0, False, 0.0, 0.0, TARGET_FEW), (3, False, 0.6, 0.75, TARGET_MANY), (3, True, 0.4, 0.5, TARGET_MANY)],
)
def test_a_film_has_the_gops_and_b_frames_of_its_name(
    tmp_path: Path, bframes: int, pyramid: bool, least: float, most: float, target: float
) -> None:
    """Of three B-frames in a row, a pyramid refers to the middle one."""
    clip = describe(shoot(Film(128, 72, 3, 50, bframes, pyramid), tmp_path), UNIFORM)
    assert clip.share is not None and least <= clip.share <= most
    assert (clip.width, clip.height, clip.frames, clip.target, clip.way) == (128, 72, 90, target, "skip")
    assert len(clip.wanted) == 32


def test_the_films_are_twelve_and_hold_every_pair_of_gop_and_kind() -> None:
    pairs = {(film.gop, film.bframes > 0, film.pyramid) for film in FILMS}
    assert len({film.name for film in FILMS}) == 12 and len(pairs) == 9


def test_pixels_are_compared_frame_by_frame() -> None:
    own = [np.full((4, 6, 3), level, np.uint8) for level in (0, 100, 255)]
    near = [own[0], own[1] + np.uint8(3), own[2]]
    assert difference(own, own) == "equal"
    assert difference(own, near) == "differs by at most 3"
    assert difference(own, [own[0], own[2], own[1]]) == "other frames (2 of 3)"
    assert difference(own, own[:2]) == "other frames (1 of 3)"
    assert difference(own, [picture[:2] for picture in own]) == "other size (6x2 for 6x4)"


def test_a_folder_is_measured_and_a_broken_clip_is_named(tmp_path: Path) -> None:
    path = shoot(Film(64, 36, 1, 12, 2), tmp_path / "clips")
    path.with_name("broken.mp4").write_bytes(path.read_bytes()[:1000])
    path.with_name("notes.txt").write_text("no video")
    done = run(tmp_path / "clips", "--runs", "1", "--json", tmp_path / "figures.json")
    assert done.returncode == 1 and "broken: not measured: " in done.stdout, done.stderr
    result = Result.read(tmp_path / "figures.json")
    clip, broken = result.report.figures["clips"]
    assert broken["clip"] == "broken.mp4" and "failed" in broken
    assert (clip["clip"], clip["frames"], clip["wanted"]) == (path.name, 30, 30)
    assert clip["contenders"]["ours"]["cpu_s"] > 0 and clip["contenders"]["pyav"]["pixels"] == "equal"
    assert clip["ratio"] == clip["contenders"]["ours"]["cpu_s"] / clip["contenders"][clip["fastest_peer"]]["cpu_s"]
    for peer in ("decord", "torchcodec"):
        assert clip["contenders"][peer].keys() & {"pixels", "skipped"}
    assert [target.value for target in result.targets] == [clip["ratio"]] and result.report.tables[0].rows[0][
        0
    ] == path.stem


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    for arguments, message in (((), "nothing to measure"), ((tmp_path,), "holds no video file")):
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr
