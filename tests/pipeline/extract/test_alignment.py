"""Row i of every feature is the same second: real clips against ffmpeg and ffprobe, generated ones as they were made.

Cheap extractors stand in for the towers, on the sampling that the presets give Swin, CLIP-T and VGGish.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.rgb_grid import RgbGrid
from pipeline.extract.config import load_config
from stores import Store
from tests._helpers.media import MEDIA_NAMES, ffmpeg, packet_times, plain_frames
from tests._helpers.runs import extract, rgb_config

CONFIG = """
features:
  swin: {extractor: rgb_grid, grid: 8, dtype: float32, sampling: {policy: segments, t: 15}}
  clip_t: {extractor: rgb_grid, grid: 1, sampling: {policy: segments, t: 15}}
  vggish: {extractor: "tests._helpers.loudness:Windows", dtype: float32, sampling: {policy: segments, t: 15}}
media: {deadline_s: 60}
run: {decode_workers: 1}
"""
VISUAL = ("clip_t", "swin")
RATE = 16_000


@pytest.mark.parametrize(
    ("preset", "named"),
    [
        ("all", {"swin_b", "swin_l", "vggish"}),
        ("coqo-music-avqa", {"swin_b", "swin_l", "vggish"}),
        ("coqo-clip", {"clip_map", "vggish"}),
        ("coqo-clip-336", {"clip_map", "vggish"}),
    ],
)
def test_the_presets_sample_their_segments_alike(preset: str, named: set[str]) -> None:
    features = load_config(preset).features
    segments = {
        name: feature.policy for name, feature in features.items() if feature.policy.spec()["policy"] != "uniform"
    }
    assert named <= set(segments)
    assert len({json.dumps(policy.spec(), sort_keys=True) for policy in segments.values()}) == 1


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Iterator[Store]:
    """Every real clip, extracted by one run."""
    folder = tmp_path_factory.mktemp("real")
    result = extract(media, folder / "store", rgb_config(folder, text=CONFIG))
    assert result.exit_code == 0, result.summary["failures"]
    with Store.open(folder / "store") as store:
        yield store


@pytest.mark.parametrize("name", MEDIA_NAMES)
def test_the_frame_of_each_row_is_the_one_shown_in_the_middle_of_its_second(
    real: Store, media: Path, name: str
) -> None:
    """Times are ffprobe's, pixels PyAV's plain sequential decode."""
    key = Path(name).stem
    shown = packet_times(media / name, real.media("swin", key)["video_stream"])
    _, duration = real.clip("swin", key)
    middles = np.arange(15) + 0.5
    seconds = int((middles < duration).sum())
    chosen = shown[np.searchsorted(shown, middles[:seconds], side="right") - 1]
    assert 1 <= seconds == real.valid("swin", key).sum()
    np.testing.assert_allclose(real.times("swin", key)[:seconds], chosen, atol=1e-6)
    plain = plain_frames(media / name)
    width, height = (real.media("swin", key)[side] for side in ("display_width", "display_height"))
    grid = RgbGrid(grid=8)
    for row, time in zip(real.row("swin", key), chosen, strict=False):
        frame = next(frame for stamp, frame in plain if abs(stamp - time) < 1e-6)
        picture = frame.to_ndarray(format="rgb24", width=width, height=height)
        np.testing.assert_array_equal(row, grid.prepare(picture[None]).ravel() / np.float32(255))


@pytest.mark.parametrize("name", MEDIA_NAMES)
def test_the_sound_of_each_row_is_that_of_its_second(real: Store, media: Path, name: str) -> None:
    """Window i is [i, i + 1) of what the ffmpeg command decodes, mixes and resamples on the same axis."""
    key = Path(name).stem
    stream = real.media("vggish", key)["audio_stream"]
    windows = real.row("vggish", key)
    if stream is None:
        assert not windows.any() and not real.valid("vggish", key).any()
        return
    heard = sound_by_ffmpeg(media / name, stream)
    real_rows = np.flatnonzero(real.valid("vggish", key))
    assert real_rows.tolist() == list(range(len(real_rows))) and len(real_rows) >= 1
    for second in real_rows:
        reference = heard[second * RATE : (second + 1) * RATE]
        # Where the picture ends, sound that goes on is nobody's: compare what both have.
        end = min(len(reference), round((real.clip("vggish", key)[1] - second) * RATE), RATE)
        np.testing.assert_allclose(windows[second, :end], reference[:end], atol=2e-3)
        if np.ptp(reference):
            assert best_shift(windows[second, :end], heard, int(second) * RATE) == 0


def test_the_features_of_a_clip_agree_on_what_is_padding(real: Store) -> None:
    for key in real.keys("swin"):
        np.testing.assert_array_equal(real.valid("swin", key), real.valid("clip_t", key))
        np.testing.assert_array_equal(real.times("swin", key), real.times("clip_t", key))
        np.testing.assert_array_equal(real.times("vggish", key), np.arange(15))
        if real.media("vggish", key)["audio_state"] != "absent":
            differ = np.flatnonzero(real.valid("vggish", key) != real.valid("swin", key))
            # A last second may be half seen and less than half heard, or the other way round.
            assert set(differ) <= {int(real.valid("swin", key).sum()) - 1}
        # the frame of step i lies in second i, or is the last one shown before its middle
        valid = real.valid("swin", key)
        assert (real.times("swin", key)[valid] <= np.arange(15)[valid] + 0.5).all()


def sound_by_ffmpeg(path: Path, stream: int) -> NDArray[np.float32]:
    """float32 [S] at 16 kHz from time 0 on: mean of the channels, gaps and a late start filled with silence."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    with av.open(str(path)) as container:
        channels = container.streams[stream].codec_context.layout.nb_channels
    mean = "+".join(f"{1 / channels}*c{channel}" for channel in range(channels))
    filters = f"pan=mono|c0={mean},aresample={RATE}:async=1:first_pts=0"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-copyts",
        "-i",
        str(path),
        "-map",
        f"0:{stream}",
        "-af",
        filters,
        "-f",
        "f32le",
    ]
    raw = subprocess.run([*command, "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, "<f4").clip(-1, 1)


def best_shift(window: NDArray[np.float32], heard: NDArray[np.float32], first: int) -> int:
    """The shift in samples, within a tenth of a second, at which the window fits the waveform best."""
    padded = np.pad(heard, RATE)
    shifts = np.array([-1600, -1024, -160, -16, -1, 0, 1, 16, 160, 1024, 1600])
    starts = RATE + first + shifts
    errors = [np.abs(padded[start : start + len(window)] - window).mean() for start in starts]
    return int(shifts[int(np.argmin(errors))])


@dataclass(frozen=True)
class Film:
    """White picture and a tone during one second, black and silence else, written in one particular way."""

    second: int
    suffix: str = "mp4"
    fps: int = 25
    rate: int = 44_100
    bframes: int = 2
    gop: int = 50
    options: dict[str, str] = field(default_factory=dict)
    # Inputs of a copy by the ffmpeg command, {} for the film as encoded; what the copy takes away at the beginning, and
    # by how much it delays the sound, in seconds.
    remux: str = ""
    cut: int = 0
    delay: int = 0
    # How much later than the picture's change the container lets the sound come, in seconds.
    late_s: float = 0.0


AAC_FRAME = 1024
FILMS = {
    "first-second": Film(0),
    "fourth-second": Film(3),
    "mkv": Film(3, "mkv"),
    # Without an edit list a container cannot take back the 1,024 samples of AAC priming that come first. In fragments
    # the first sound packet also claims to last as long as the B-frame delay, 57 ms more than it holds: no gap yet.
    "ts": Film(0, "ts", late_s=AAC_FRAME / 44_100),
    "fragmented": Film(3, options={"movflags": "frag_keyframe+empty_moov"}, late_s=AAC_FRAME / 44_100),
    "late-mkv": Film(3, "mkv", options={"output_ts_offset": "5"}),
    "late-ts": Film(3, "ts", options={"output_ts_offset": "30"}, late_s=AAC_FRAME / 44_100),
    "slow-sound": Film(2, rate=8_000),
    "48-kHz": Film(2, rate=48_000, bframes=0),
    "many-b-frames": Film(4, bframes=5, fps=30),
    "few-frames": Film(1, fps=10, gop=5),
    # Copied from a second that is no key frame: edit lists hide what the copy had to take along.
    "edit-list": Film(3, remux="-ss 1 -i {}", cut=1),
    "edit-list-mov": Film(4, "mov", remux="-ss 1 -i {}", cut=1),
    "edit-list-inside-gop": Film(5, gop=250, remux="-ss 3 -i {}", cut=3),
    # Streams that begin at different times: an empty edit in MP4, plain offsets elsewhere.
    "late-sound": Film(1, remux="-i {} -itsoffset 1 -i {} -map 0:v -map 1:a", delay=1),
    "late-sound-mkv": Film(1, "mkv", remux="-i {} -itsoffset 1 -i {} -map 0:v -map 1:a", delay=1),
    "early-sound": Film(3, remux="-itsoffset 1 -i {} -i {} -map 0:v -map 1:a", cut=-1, delay=-1),
}


def write(film: Film, path: Path) -> None:
    """Encode a film of six seconds."""
    first = path if not film.remux else path.with_name(f"{path.stem}-whole{path.suffix}")
    with av.open(str(first), "w", options=film.options) as output:
        settings = {"g": str(film.gop), "bf": str(film.bframes), "crf": "20", "threads": "1", "sc_threshold": "0"}
        video = output.add_stream("libx264", rate=film.fps, options=settings)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream("aac", rate=film.rate, layout="mono")
        for index in range(6 * film.fps):
            level = 255 if film.second <= index / film.fps < film.second + 1 else 0
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, film.fps)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        times = np.arange(6 * film.rate) / film.rate
        during = (times >= film.second) & (times < film.second + 1)
        wave = np.where(during, 0.5 * np.sin(2 * np.pi * 440 * times), 0)
        for start in range(0, len(wave), AAC_FRAME):
            block = np.ascontiguousarray(wave[None, start : start + AAC_FRAME], np.float32)
            chunk = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = film.rate, start, Fraction(1, film.rate)
            output.mux(sound.encode(chunk))
        output.mux(sound.encode(None))
    if film.remux:
        ffmpeg(*film.remux.format(first, first).split(), "-c", "copy", str(path))
        first.unlink()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
    """Every film that this machine can write, extracted by one run."""
    folder = tmp_path_factory.mktemp("films")
    videos = folder / "videos"
    videos.mkdir()
    for name, film in FILMS.items():
        if not film.remux or shutil.which("ffmpeg"):
            write(film, videos / f"{name}.{film.suffix}")
    result = extract(videos, folder / "store", rgb_config(folder, text=CONFIG))
    assert result.exit_code == 0, result.summary["failures"]
    store = Store.open(folder / "store")

    def holding(name: str) -> Store:
        if name not in store.keys("swin"):
            pytest.skip("ffmpeg is not installed")
        return store

    return holding


@pytest.mark.parametrize("name", FILMS)
def test_a_flash_and_a_beep_fall_into_the_same_step(films: Callable[[str], Store], name: str) -> None:
    """Containers, edit lists, start offsets, encoder priming and B-frame delay included."""
    film, store = FILMS[name], films(name)
    second, seconds = film.second - film.cut, 6 - film.cut
    steps = np.arange(15)
    for feature in VISUAL:
        light = store.row(feature, name)[:seconds].mean(1)
        np.testing.assert_array_equal(store.valid(feature, name), steps < seconds)
        np.testing.assert_array_equal(light > 0.5, steps[:seconds] == second)
        assert np.abs(light - (steps[:seconds] == second)).max() < 0.05
    np.testing.assert_array_equal(store.times("clip_t", name), store.times("swin", name))
    sounding = (steps >= film.delay) & (steps < min(seconds, seconds + film.delay))
    np.testing.assert_array_equal(store.valid("vggish", name), sounding)
    loud = np.sqrt((store.row("vggish", name)[:seconds].astype(np.float64) ** 2).mean(1))[sounding[:seconds]]
    # The root mean square of a sine of amplitude 1/2, of which the last part falls into the next step.
    share = {second + film.delay: 1 - film.late_s, second + film.delay + 1: film.late_s}
    expected = np.sqrt([share.get(step, 0) / 8 for step in np.flatnonzero(sounding)])
    np.testing.assert_allclose(loud, expected, atol=0.04)  # AAC smears the edges of the beep
