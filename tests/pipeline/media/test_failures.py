"""Files that cannot be decoded: each gives one typed error with one line, from this process and from the child."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from examples.clips import write_clip
from pipeline.media.decoding import decode
from pipeline.media.types import (
    PERMANENT,
    AudioRequest,
    DecodeRequest,
    Frame,
    Header,
    Limits,
    MediaError,
    StreamFailure,
)

POLICIES = ({"policy": "uniform", "n": 4},)


def failure(path: Path, **fields: Any) -> MediaError:
    request = DecodeRequest(str(path), fields.pop("policies", POLICIES), **fields)
    with pytest.raises(MediaError) as caught:
        for _ in decode(request):
            pass
    assert caught.value.message and "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, seconds=2.0, width=96, height=64)
    return path


def movie(path: Path, codec: str, size: tuple[int, int], frames: int = 2) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def test_text_named_mp4_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("this is not a film\n" * 1000)
    assert failure(path).failure_class == "corrupt"


def test_zero_bytes_are_corrupt(tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").touch()
    assert failure(tmp_path / "zero.mp4").failure_class == "corrupt"


def test_truncated_before_its_index_is_corrupt(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    assert failure(path).failure_class == "corrupt"


@pytest.fixture
def cut_short(clip: Path, tmp_path: Path) -> Path:
    """A clip whose index comes first and whose second half is missing."""
    with (
        av.open(str(clip)) as source,
        av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
    data = (tmp_path / "front.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) * 6 // 10])
    return path


def test_truncated_after_its_index_is_corrupt(cut_short: Path) -> None:
    error = failure(cut_short)
    assert error.failure_class == "corrupt" and "cut short" in error.message


def test_a_clip_inside_what_is_left_of_a_truncated_file_is_decoded(cut_short: Path) -> None:
    events = list(decode(DecodeRequest(str(cut_short), POLICIES, start_s=0.0, end_s=0.2)))
    assert sum(isinstance(event, Frame) for event in events) == 4


def test_damage_inside_is_corrupt_or_decoded_but_never_an_unknown_error(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.mp4"
    outcomes = set()
    for _ in range(25):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 40):
            damaged[position] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            for _ in decode(DecodeRequest(str(path), POLICIES, AudioRequest())):
                pass
            outcomes.add("decoded")
        except MediaError as error:
            # A damaged length can ask FFmpeg for more memory than it ever grants.
            assert error.failure_class in PERMANENT | {"oom"}
            outcomes.add(error.failure_class)
    assert "decoded" in outcomes or "corrupt" in outcomes


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert failure(path).failure_class == "no_video"


def test_unknown_codec_is_unsupported(tmp_path: Path) -> None:
    path = movie(tmp_path / "odd.avi", "mpeg4", (64, 64))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QZX9").replace(b"fmp4", b"qzx9"))
    assert failure(path).failure_class == "unsupported_codec"


def test_unknown_backend_is_named(clip: Path) -> None:
    error = failure(clip, backend="telepathy")
    assert error.failure_class == "unsupported_codec" and "telepathy" in error.message


def bomb(folder: Path) -> Path:
    """A few hundred bytes whose headers, the container's and the picture's own, say 16384 x 16384."""
    path = movie(folder / "bomb.mov", "mjpeg", (16, 16), frames=1)
    data = bytearray(path.read_bytes())
    sof = data.index(b"\xff\xc0")
    data[sof + 5 : sof + 9] = struct.pack(">HH", 16384, 16384)
    entry = data.index(b"jpeg", data.index(b"stsd"))
    data[entry + 28 : entry + 32] = struct.pack(">HH", 16384, 16384)
    path.write_bytes(data)
    assert len(data) < 4096
    return path


def test_a_picture_bomb_is_too_large(tmp_path: Path) -> None:
    error = failure(bomb(tmp_path))
    assert error.failure_class == "too_large" and "16384x16384" in error.message


def test_stretched_pixels_count_as_displayed(tmp_path: Path) -> None:
    path = tmp_path / "stretched.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(20, 1)
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
    assert failure(path, limits=Limits(max_pixels=50_000)).failure_class == "too_large"


def test_too_long_is_too_large(clip: Path) -> None:
    error = failure(clip, limits=Limits(max_duration_s=1.0))
    assert error.failure_class == "too_large" and "2.0 s" in error.message


def test_missing_file(tmp_path: Path) -> None:
    assert failure(tmp_path / "nowhere.mp4").failure_class == "missing"


def test_a_directory_is_unreadable(tmp_path: Path) -> None:
    assert failure(tmp_path).failure_class == "unreadable"


def test_a_file_without_read_right_is_unreadable(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert failure(path).failure_class == "unreadable"


def test_too_few_frames_for_error_padding(clip: Path) -> None:
    error = failure(clip, policies=({"policy": "uniform", "n": 100, "pad": "error"},))
    assert error.failure_class == "too_short"


def test_a_clip_after_the_end_is_too_short(clip: Path) -> None:
    assert failure(clip, start_s=5.0).failure_class == "too_short"


def test_absent_sound_fails_where_asked_to(tmp_path: Path) -> None:
    write_clip(tmp_path / "mute.mp4", seconds=0.5, width=64, height=64, audio=False)
    sound = DecodeRequest(str(tmp_path / "mute.mp4"), (), AudioRequest(absent="fail"))
    with pytest.raises(MediaError) as caught:
        list(decode(sound))
    assert caught.value.failure_class == "no_audio"
    both = replace(sound, policies=({"policy": "uniform", "n": 2},))
    *pictures, last = decode(both)
    assert [type(event) for event in pictures] == [Header, Frame, Frame]
    assert isinstance(last, StreamFailure) and (last.stream, last.failure_class) == ("audio", "no_audio")


SCRIPTS = {
    "playlist": ("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n", "a playlist"),
    "concat": ("ffconcat version 1.0\nfile {clip}\n", "a list of other files"),
    "sdp": ("v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "a description of a stream"),
    "dash": ('<?xml version="1.0"?><MPD><BaseURL>{clip}</BaseURL></MPD>', "a web page or XML"),
    "list": ("{{}} {clip}", "JSON"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_that_names_other_files_is_refused_by_what_it_is(name: str, clip: Path, tmp_path: Path) -> None:
    text, kind = SCRIPTS[name]
    path = tmp_path / "list.mp4"
    path.write_text(text.format(clip=clip))
    error = failure(path)
    assert str(error) == f"unsupported_codec: the file is {kind}" and error.permanent


@pytest.mark.parametrize("name", ["/dev/zero", "fifo.mp4"])
def test_what_is_no_regular_file_is_not_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    error = failure(tmp_path / name)
    assert (error.failure_class, error.message) == ("unreadable", "not a regular file")


def test_names_that_look_like_addresses_are_files(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("http:evil.mp4").write_bytes(clip.read_bytes())
    assert list(decode(DecodeRequest("http:evil.mp4", POLICIES)))


def test_errors_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MediaError("timeout", "two\nlines")))
    assert (error.failure_class, error.message, error.permanent) == ("timeout", "two lines", False)
