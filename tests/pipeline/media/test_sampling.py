"""Sampling policies against worked examples, the published tables and a real 6-fps dump."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.damage import DamageLog
from pipeline.media.decoding import decode
from pipeline.media.frame_plan import timeline_of
from pipeline.media.packets import read_index
from pipeline.media.passes import list_displayed, retime
from pipeline.media.sampling import (
    Fps,
    Keyframes,
    MusicAvqa60,
    NextGqa32,
    Policy,
    SamplingError,
    Segments,
    Star32,
    TooShort,
    Uniform,
    dump_frames,
    policy_from_spec,
    sample_clips,
)
from pipeline.media.source import open_source
from pipeline.media.timeline import Timeline
from pipeline.media.types import DecodeRequest, Frame, Header, Limits
from tests._helpers.films import film
from tests._helpers.media import MEDIA_NAMES, SHARED, ffmpeg, generate, media, plain_frames


def even(frames: int, rate: float = 25.0) -> Timeline:
    return Timeline(np.arange(frames) / rate, frames / rate, rate, rate)


@pytest.mark.parametrize(
    ("policy", "timeline", "frame", "valid"),
    [
        # Slots of 0.4 s, centres 0.2 0.6 1.0 1.4 1.8 s: each exactly on a frame.
        (Uniform(5), even(50), [5, 15, 25, 35, 45], [True] * 5),
        # Three frames for six slots: each is shown twice, the second time as padding.
        (Uniform(6), even(3), [0, 0, 1, 1, 2, 2], [True, False] * 3),
        (Uniform(6, pad="zero"), even(3), [0, -1, 1, -1, 2, -1], [True, False] * 3),
        (Segments(t=4), even(60), [12, 37, 37, 37], [True, True, False, False]),
        (Segments(t=4, pad="zero"), even(60), [12, 37, -1, -1], [True, True, False, False]),
        # A video shorter than half a segment still fills the first.
        (Segments(t=2), even(5), [4, 4], [True, False]),
        (Fps(2), even(50), [0, 12, 25, 37], [True] * 4),
        (Fps(1), even(1), [0], [True]),
        # One frame held for a second: variable rate repeats it, and that is no padding in a long video.
        (Uniform(3), Timeline(np.array([0.0, 0.1, 1.1, 1.2]), 1.2, None), [1, 1, 1], [True] * 3),
        # Nothing is on screen before the first frame: it is shown.
        (Uniform(2), Timeline(np.array([0.5, 0.9]), 1.0, None), [0, 0], [True, True]),
    ],
)
def test_policies_by_table(policy: Policy, timeline: Timeline, frame: list[int], valid: list[bool]) -> None:
    samples = policy.sample(timeline)
    assert samples.frame.tolist() == frame
    assert samples.valid.tolist() == valid
    shown = samples.frame >= 0
    assert np.array_equal(samples.time_s[shown], timeline.pts_s[samples.frame[shown]])
    assert samples.frame.dtype == np.int64 and samples.time_s.dtype == np.float64


def test_zero_padding_keeps_the_time_asked_for() -> None:
    assert Segments(t=4, pad="zero").sample(even(60)).time_s.tolist()[2:] == [2.5, 3.5]


@pytest.mark.parametrize("policy", [Uniform(6, pad="error"), Segments(t=4, pad="error")])
def test_error_padding_refuses_short_videos(policy: Policy) -> None:
    with pytest.raises(TooShort, match="do not fill"):
        policy.sample(even(5))


@pytest.mark.parametrize("policy", [Uniform(), Segments(), Fps(1), NextGqa32(), Star32(), MusicAvqa60()])
def test_a_video_without_frames_is_too_short(policy: Policy) -> None:
    with pytest.raises(TooShort):
        policy.sample(Timeline(np.empty(0), 0.0, None))


def test_music_avqa_rule_and_wrap() -> None:
    # 30 fps for 58.5 s: 1755 frames; second 58 asks for number 1755 = F and reads the last frame, second 59 asks for
    # 1785 and wraps inside the last 15 frames: 1740 + 1 + (1785 - 1741) mod 15 = 1755, again the last.
    samples = MusicAvqa60().sample(even(1755, 30.0))
    assert samples.frame[:3].tolist() == [15, 45, 75]
    assert samples.frame[-2:].tolist() == [1754, 1754]
    assert samples.valid.tolist() == [True] * 59 + [False]
    # Python rounds halves to even, and so did the published script: (0.5 + 0) * 25 = 12.5 -> 12, 37.5 -> 38.
    assert MusicAvqa60().sample(even(1500)).frame[:3].tolist() == [12, 38, 62]


@pytest.mark.parametrize("total", [1, 5, 45, 900, 913])
def test_star32_takes_raw_frames_by_number(total: int) -> None:
    """``docs/facts/cra.md`` section 1.6: linspace over the raw frames, times rounded to 0.01 s beside the true ones."""
    samples = Star32().sample(even(total, 29.97))
    number = np.linspace(0, total, 34).astype(int)[1:33]
    assert samples.frame.tolist() == number.tolist()
    assert samples.time_s.tolist() == (number / 29.97).tolist()
    assert samples.published_time_s is not None
    assert samples.published_time_s.tolist() == [round(index / 29.97, 2) for index in number.tolist()]
    assert samples.valid.all()


def test_star32_can_take_the_frames_that_the_notebook_reads_again() -> None:
    # 30 fps, 34 frames: number 1 is at 0.03 s, and int(0.03 * 30) = 0; number 2 at 0.07 s, and int(2.1) = 2.
    asked, read = Star32().sample(even(34, 30.0)), Star32(reread=True).sample(even(34, 30.0))
    assert asked.frame[:4].tolist() == [1, 2, 3, 4]
    assert read.frame[:4].tolist() == [0, 2, 3, 3]
    assert read.published_time_s is not None and asked.published_time_s is not None
    assert read.published_time_s.tolist() == asked.published_time_s.tolist()
    assert read.time_s.tolist() == (read.frame / 30.0).tolist()


def test_star32_shows_the_frames_of_those_numbers(clip_bytes: tuple[bytes, ...], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_bytes[3])
    events = list(decode(DecodeRequest(str(path), ({"policy": "star32"},))))
    frames = [frame.to_ndarray(format="rgb24") for _, frame in plain_frames(path)]
    got = {slot: event.rgb for event in events if isinstance(event, Frame) for _, slots in event.uses for slot in slots}
    for slot, number in enumerate(np.linspace(0, len(frames), 34).astype(int)[1:33]):
        assert np.array_equal(got[slot], frames[number])


def test_sample_clips_published_examples() -> None:
    assert sample_clips(32, 32, 4) == list(range(32))
    assert sample_clips(33, 32, 4) == list(range(1, 33))
    assert sample_clips(2, 32, 4) == [0] * 32
    assert sample_clips(3, 32, 4) == [0] * 10 + [1] * 22
    # Floating error of np.linspace: one less than integer division would give.
    assert sample_clips(45, 32, 4)[10] == 14
    with pytest.raises(TooShort):
        sample_clips(0, 32, 4)


def test_sample_clips_gives_the_published_times() -> None:
    path = SHARED / "data" / "annotations" / "nextgqa" / "frame2time_val.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {path.parent}")
    tables = {tuple(row) for row in json.loads(path.read_text()).values()}
    made = {tuple(round((1 + 3 * index) / 6, 1) for index in sample_clips(total, 32, 4)) for total in range(1, 1200)}
    assert len(tables) > 100
    assert tables <= made


def assert_dump_is_emulated(path: Path, folder: Path) -> None:
    """Compare with ``ffmpeg -r 6`` file by file: which of the frames, and its pixels."""
    request = DecodeRequest(str(path), ({"policy": "nextgqa32"},))
    events = list(decode(request))
    header = events[0]
    assert isinstance(header, Header)
    stream = header.media["video_stream"]
    # The decoder's own samples are dumped: two FFmpeg releases convert to RGB with different rounding.
    ffmpeg("-noautorotate", "-i", str(path), "-map", f"0:{stream}", "-r", "6", "-f", "image2", "-c:v", "rawvideo",
           str(folder / "%06d.yuv"))  # fmt: skip
    files = sorted(folder.glob("*.yuv"))[::3]
    chosen = sample_clips(len(files), 32, 4)
    frames = dict(plain_frames(path))
    got = {slot: event for event in events if isinstance(event, Frame) for _, slots in event.uses for slot in slots}
    assert sorted(got) == list(range(32))
    samples = header.samples[0]
    for slot, index in enumerate(chosen):
        raw = np.frombuffer(files[index].read_bytes(), np.uint8)
        reference = frames[min(frames, key=lambda time: abs(time - header.media["zero_s"] - samples.time_s[slot]))]
        assert np.array_equal(raw, reference.to_ndarray().reshape(-1)), f"file {index} of {path.name}"
        height, width = got[slot].rgb.shape[:2]
        assert np.array_equal(got[slot].rgb, reference.to_ndarray(format="rgb24", width=width, height=height))
    assert samples.published_time_s is not None
    assert samples.published_time_s.tolist() == [round((1 + 3 * index) / 6, 1) for index in chosen]


@pytest.mark.parametrize("name", MEDIA_NAMES)
def test_nextgqa32_is_a_real_dump_of_real_clips(name: str, tmp_path: Path) -> None:
    assert_dump_is_emulated(media(name), tmp_path)


@pytest.mark.parametrize("kind", ["h264", "slow", "fragmented", "mkv-offset"])
def test_nextgqa32_is_a_real_dump_of_generated_clips(kind: str, tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    assert_dump_is_emulated(generate(kind, tmp_path), tmp_path / "dump")


CONTAINERS: dict[str, dict[str, Any]] = {
    "film.mp4": {},
    "silent.mp4": {"audio": None, "options": {"use_editlist": "0"}},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "film.mov": {},
    "film.3gp": {},
    "film.mkv": {},
    "film.webm": {"video": "libvpx", "audio": "libopus"},
    "film.ts": {},
    "late.ts": {"options": {"output_ts_offset": "5000"}},
    "film.m2ts": {},
    "film.vob": {"video": "mpeg2video", "audio": "mp2"},
    "film.mpg": {"video": "mpeg1video", "audio": "mp2"},
    "film.flv": {},
    "film.nut": {},
    "film.avi": {"video": "mpeg4", "audio": "pcm_s16le"},
    "film.ogv": {"video": "libvpx", "audio": "libopus", "format": "ogg"},
    "film.gif": {"video": "gif", "audio": None},
    "raw.h264": {"audio": None, "format": "h264"},
}


@pytest.mark.parametrize("joined", [False, True], ids=["once", "joined with itself"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_image_of_a_dump_of_every_container(name: str, joined: bool, tmp_path: Path) -> None:
    """Number and pixels of all images that ``ffmpeg -r 6`` writes; the clock of two files joined with ``cat`` leaps."""
    path = film(tmp_path / name, 3.0, **CONTAINERS[name])
    if joined:
        if path.suffix not in (".ts", ".m2ts", ".vob", ".mpg"):
            pytest.skip("formats without a header alone can be joined like that")
        path.write_bytes(path.read_bytes() * 2)
    with open_source(str(path), Limits()) as source:
        index = read_index(source)
        stream = source.video.index
    with open_source(str(path), Limits(), index.clock) as source:
        displayed = list_displayed(source, DamageLog())
        timeline = timeline_of(source, displayed, index, whole=True)
    with open_source(str(path), Limits(), index.clock) as source:
        frames = [frame.to_ndarray().tobytes() for _, frame in retime(source, displayed[0][0])]
    ffmpeg("-i", str(path), "-map", f"0:{stream}", "-r", "6", "-f", "rawvideo", str(tmp_path / "dump"))
    dump = (tmp_path / "dump").read_bytes()
    size = len(frames[0])
    images = [dump[start : start + size] for start in range(0, len(dump), size)]
    chosen = dump_frames(timeline, 6).tolist()
    assert len(images) == len(chosen) > 17
    wrong = [number for number, place in enumerate(chosen) if frames[place] != images[number]]
    # In this MPEG-PS some packets have no stamp, and two releases of libavformat guess one of them differently.
    assert len(wrong) <= (2 if path.suffix in (".vob", ".mpg") else 0), wrong


def test_dump_emulation_needs_frames_that_libav_counts() -> None:
    # 80 files for the 13.013 s of the NASA clip: floor(6 T) + 2, as the published tables suggest.
    with av.open(str(media("nasa_13013.mp4"))) as container:
        rate = float(container.streams.best("video").guessed_rate)
    timeline = Timeline(np.arange(390) * 1.001 / 30, 13.013, rate, rate)
    assert len(dump_frames(timeline, 6)) == int(6 * 13.013) + 2 == 80


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "sampling.policy"),
        ({"policy": "unifrom"}, "sampling.policy: 'unifrom' is not one of"),
        ({"policy": "uniform", "m": 3}, "sampling.m: not a field of 'uniform'"),
        ({"policy": "uniform", "n": 0}, "sampling.n: 0 is not"),
        ({"policy": "uniform", "n": True}, "sampling.n"),
        ({"policy": "segments", "seconds": -1}, "sampling.seconds: -1 is not a positive number"),
        ({"policy": "segments", "pad": "loop"}, "sampling.pad: 'loop' is not one of repeat, zero, error"),
        ({"policy": "fps"}, "sampling.rate"),
        ({"policy": "fps", "rate": float("nan")}, "sampling.rate"),
        ({"policy": "nextgqa32", "n": 3}, "its fields: none"),
        ({"policy": "music_avqa60", "rate": "guessed"}, "rate: 'guessed' is neither 'stated' nor 'counted'"),
        ({"policy": "star32", "reread": 1}, "sampling.reread: 1 is neither true nor false"),
        ({"policy": "keyframes", "n": 0}, "sampling.n: 0 is not"),
    ],
)
def test_bad_specs_name_the_field(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingError) as caught:
        policy_from_spec(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "policy", [Uniform(8, "zero"), Keyframes(4), Segments(10, 0.5), Fps(2.5), NextGqa32(), Star32(True), MusicAvqa60()]
)
def test_specs_round_trip(policy: Policy) -> None:
    assert policy_from_spec(json.loads(json.dumps(policy.spec()))) == policy


def test_a_wrong_rate_is_believed_or_not_as_asked() -> None:
    """A Matroska of 11.7 frames per second that states 25, and DV that states 60,000."""
    timeline = Timeline(np.arange(702) / 11.7, 60.0, 25.0)
    assert MusicAvqa60("stated").sample(timeline).valid.sum() < 30
    counted = MusicAvqa60("counted").sample(timeline)
    assert counted.valid.all()
    np.testing.assert_allclose(counted.time_s, np.arange(60) + 0.5, atol=1 / 11.7)
    dv = Timeline(np.arange(1500) / 25, 60.0, 60_000.0)
    assert MusicAvqa60("stated").sample(dv).valid.sum() == 0 and MusicAvqa60("counted").sample(dv).valid.all()
    near = Timeline(np.arange(1500) / 25, 60.0, 29.97)
    assert MusicAvqa60("counted").sample(near).frame.tolist() == MusicAvqa60().sample(near).frame.tolist()
    assert MusicAvqa60().spec() == {"policy": "music_avqa60"}


def test_key_frames_are_the_nearest_and_keep_their_time() -> None:
    key = np.zeros(100, np.bool_)
    key[[0, 30, 60]] = True
    timeline = Timeline(np.arange(100) / 25, 4.0, 25.0, keyframe=key)
    samples = Keyframes(8).sample(timeline)  # centres 0.25, 0.75 … 3.75; key frames at 0, 1.2 and 2.4 s
    assert samples.frame.tolist() == [0, 30, 30, 30, 60, 60, 60, 60]
    assert samples.time_s.tolist() == [0, 1.2, 1.2, 1.2, 2.4, 2.4, 2.4, 2.4]
    assert samples.valid.tolist() == [True, True, False, False, True, False, False, False]
    with pytest.raises(TooShort):
        Keyframes(8, "error").sample(timeline)


@pytest.mark.parametrize("kind", ["h264", "vp9", "mpeg4-asp-avi"])
def test_key_frames_of_a_file_are_decoded_alone(kind: str, tmp_path: Path) -> None:
    path = generate(kind, tmp_path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        keys = sorted(p.pts * stream.time_base for p in container.demux(stream) if p.size and p.is_keyframe)
    header, *frames = decode(DecodeRequest(str(path), ({"policy": "keyframes", "n": 8},)))
    assert isinstance(header, Header)
    shown = [event.time_s for event in frames if isinstance(event, Frame)]
    zero = header.media["zero_s"]
    assert 1 <= len(shown) <= len(keys)
    assert all(min(abs(time + zero - float(key)) for key in keys) < 0.1 for time in shown)


gaps = st.lists(st.floats(1e-3, 2.0), min_size=1, max_size=60)
policies = st.one_of(
    st.builds(Uniform, st.integers(1, 70), st.sampled_from(["repeat", "zero"])),
    st.builds(Segments, st.integers(1, 70), st.floats(0.05, 3), st.sampled_from(["repeat", "zero"])),
    st.builds(Fps, st.floats(0.1, 60)),
    st.just(NextGqa32()),
    st.builds(MusicAvqa60, st.sampled_from(["stated", "counted"])),
)


@settings(max_examples=150)
@given(gaps, st.floats(-0.5, 0.5), policies)
def test_every_policy_keeps_its_promises(gaps: list[float], first: float, policy: Policy) -> None:
    pts = first + np.concatenate([[0.0], np.cumsum(gaps[:-1])])
    timeline = Timeline(pts, float(pts[-1] + gaps[-1]) if pts[-1] + gaps[-1] > 0 else 1.0, 25.0, 25.0)
    samples = policy.sample(timeline)
    steps = len(samples.frame)
    assert policy.steps in (None, steps) and steps >= 1
    assert len(samples.time_s) == len(samples.valid) == steps
    shown = samples.frame >= 0
    assert samples.frame.max() < len(pts) and shown[samples.valid].all()
    assert np.array_equal(samples.time_s[shown], pts[samples.frame[shown]])
    # The published index rule wraps at the end, and finds no frame of its own in half a second.
    if not isinstance(policy, MusicAvqa60):
        assert samples.valid[0]
        assert (np.diff(samples.frame[shown]) >= 0).all()


@settings(max_examples=60)
@given(gaps, st.integers(1, 40))
def test_uniform_shows_what_is_on_screen(gaps: list[float], n: int) -> None:
    pts = np.concatenate([[0.0], np.cumsum(gaps[:-1])])
    duration = float(pts[-1] + gaps[-1])
    for slot, frame in enumerate(Uniform(n).sample(Timeline(pts, duration, None)).frame):
        centre = (slot + 0.5) * duration / n
        assert pts[frame] <= centre + 2e-6
        assert frame == len(pts) - 1 or pts[frame + 1] > centre
