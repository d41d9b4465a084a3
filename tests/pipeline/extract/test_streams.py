"""One failing stream fails the features that need it, and no others; what else a run wants changes no row."""

from __future__ import annotations

from pathlib import Path

import av
import av.error
import numpy as np
import pytest

from examples.clips import write_clip
from pipeline.extract.units import RunContext
from pipeline.media import MediaProcess
from pipeline.media.errors import classify
from stores import Store
from stores.describe import describe_store
from stores.upkeep import verify
from tests._helpers.runs import digests, extract, rgb_config

PICTURES = """
features:
  rgb: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}}
media: {deadline_s: 20}
"""
BOTH = PICTURES.replace(
    "media:", "  sound: {extractor: logmel_bands, dtype: float32, sampling: {policy: segments, t: 3}}\nmedia:"
)
SOUND = BOTH.replace("  rgb: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}}\n", "")


def clip(path: Path, tracks: int = 1) -> Path:
    """A clip of 3 s with one or two tracks of the same sound."""
    write_clip(path, seconds=3, width=96, height=64, gop=10)
    if tracks == 1:
        return path
    double = path.with_name(f"double-{path.name}")
    with av.open(str(path)) as source, av.open(str(double), "w") as target:
        video, audio = source.streams.video[0], source.streams.audio[0]
        streams = [target.add_stream_from_template(video), *(target.add_stream_from_template(audio) for _ in "ab")]
        for packet in source.demux(video, audio):
            if packet.dts is None:
                continue
            copies = streams[:1] if packet.stream is video else streams[1:]
            for copy in copies:
                again = av.Packet(bytes(packet))
                again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
                again.time_base, again.is_keyframe, again.stream = packet.time_base, packet.is_keyframe, copy
                target.mux(again)
    double.replace(path)
    return path


def without_decoder(path: Path, track: int) -> Path:
    """Rename a sound track's codec to Apple's spatial audio, for which libav has no decoder."""
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(track + 1):
        place = data.index(b"mp4a", place + 1)
    data[place : place + 4] = b"apac"
    esds = data.index(b"esds", place)
    data[esds : esds + 4] = b"free"
    path.write_bytes(data)
    return path


def run(videos: Path, store: Path, text: str) -> dict[tuple[str, str], str]:
    """Extract, and return (feature, key) to the class of each failure."""
    done = extract(videos, store, rgb_config(videos.parent, text=text))
    return {(failure["feature"], failure["video_id"]): failure["class"] for failure in done.summary["failures"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def test_sound_without_a_decoder_costs_the_sound_alone(folder: Path, tmp_path: Path) -> None:
    without_decoder(clip(folder / "mute.mp4"), 0)
    clip(folder / "whole.mp4")
    assert run(folder, tmp_path / "both", BOTH) == {("sound", "mute"): "unsupported_codec"}
    assert run(folder, tmp_path / "pictures", PICTURES) == {}
    assert digests(tmp_path / "both") == digests(tmp_path / "pictures")
    assert set(digests(tmp_path / "both")) == {"mute", "whole"}


def test_a_track_with_a_decoder_is_taken_in_place_of_one_without(folder: Path, tmp_path: Path) -> None:
    clip(folder / "plain.mp4")
    for track, name in enumerate(("first", "second")):
        without_decoder(clip(folder / f"{name}.mp4", tracks=2), track)
    assert run(folder, tmp_path / "store", BOTH) == {}
    rows = digests(tmp_path / "store", "sound")
    assert rows["first"] == rows["second"] == rows["plain"]
    with Store.open(tmp_path / "store") as store:
        assert store.media("sound", "first")["audio_stream"] == 2
        assert store.media("sound", "second")["audio_stream"] == 1


def test_damaged_pictures_are_concealed_and_marked_or_fail_and_the_sound_stays(folder: Path, tmp_path: Path) -> None:
    """Packets of seconds 1 and 2 do not decode; the sound beside them is whole."""
    path = clip(folder / "damaged.mp4")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in packets[20:50]:
        assert packet.pos is not None
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    clip(folder / "whole.mp4")
    assert run(folder, tmp_path / "both", BOTH) == {}
    assert run(folder, tmp_path / "sound", SOUND) == {}
    assert digests(tmp_path / "both", "sound") == digests(tmp_path / "sound", "sound")
    with Store.open(tmp_path / "both") as store:
        # Of 75 frames, 20 to 49 are lost: the steps at 0.375, 1.125, 1.875 and 2.625 s.
        assert store.times("rgb", "damaged").tolist() == pytest.approx([0.36, 0.76, 0.76, 2.6])
        assert store.damaged("rgb", "damaged").tolist() == [False, True, True, False]
        assert store.media("rgb", "damaged")["undecodable_packets"] == 30
        assert not store.damaged("rgb", "whole").any() and not store.damaged("sound", "damaged").any()
        assert describe_store(store)["features"]["rgb"]["media_damage"] == {
            "rows": 1, "steps": 2, "truncated": 0, "odd_rates": 0
        }  # fmt: skip
    assert verify(tmp_path / "both").media_damage.rows == 1 and verify(tmp_path / "both").ok
    assert "1 row of damaged media (2 marked steps)" in (tmp_path / "both" / "README.md").read_text()
    strict = BOTH.replace("media: {", "media: {damage: fail, ")
    assert run(folder, tmp_path / "strict", strict) == {("rgb", "damaged"): "corrupt"}


DYING = """
import ctypes, sys
import pipeline.media.child as child
module = sys.modules["pipeline.media.decoding"]
real = module.{name}
def dying(*arguments, **named):
    if {condition}:
        ctypes.string_at(0)
    return real(*arguments, **named)
module.{name} = dying
child.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("dies_in", "condition", "failed", "stored"),
    [
        ("decode_audio", "True", "sound", "rgb"),
        ("_decode_pictures", "arguments[0].policies", "rgb", "sound"),  # a pass for the sound alone goes through
    ],
)
def test_a_decoder_that_dies_over_one_stream_leaves_the_other(
    dies_in: str,
    condition: str,
    failed: str,
    stored: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "dying_child.py").write_text(DYING.format(name=dies_in, condition=condition))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(RunContext, "media_process", lambda self: MediaProcess(20.0, 512, 300, module="dying_child"))
    clip(folder / "a.mp4")
    assert run(folder, tmp_path / "store", BOTH) == {(failed, "a"): "crash"}
    assert set(digests(tmp_path / "store", stored)) == {"a"}


def test_enomem_of_libav_is_not_taken_for_the_machines_memory() -> None:
    """libav answers ENOMEM to a frame without samples; memory is short only if this process cannot get any."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 0), np.float32), format="flt", layout="mono")
    frame.sample_rate = 48_000
    with pytest.raises(av.error.FFmpegError) as caught:
        resampler.resample(frame)
    assert classify(caught.value).failure_class == "corrupt"
    assert classify(MemoryError()).failure_class == "oom"
