"""Files whose clock is not a clean 0 to T: restarts, jumps, wraps, late starts, missing stamps."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.packet import Packet

from pipeline.media import MediaError
from pipeline.media.clock import NO_LEAPS, Stamp, follow
from tests._helpers.films import NO_B_FRAMES, film, remux, see

KINDS: dict[str, dict[str, Any]] = {
    "ts": {},
    "vob": {"video": "mpeg2video", "audio": "mp2"},
    "mpg": {"video": "mpeg1video", "audio": "mp2"},
    "webm": {"video": "libvpx", "audio": "libopus"},
    "ogv": {"video": "libvpx", "audio": "libopus", "format": "ogg"},
    "mkv": {},
    "nut": {},
    "m2ts": {},
}


@pytest.mark.parametrize("suffix", KINDS)
def test_a_clock_that_restarts_goes_on(suffix: str, tmp_path: Path) -> None:
    """Two films of 2 s joined with ``cat`` are one of 4 s, pictures and sound alike."""
    once = film(tmp_path / f"once.{suffix}", **KINDS[suffix])
    twice = tmp_path / f"twice.{suffix}"
    twice.write_bytes(once.read_bytes() * 2)
    seen = see(twice)
    assert seen.header.duration_s == pytest.approx(4, abs=0.12)
    np.testing.assert_allclose(np.diff(seen.times), 0.5, atol=0.06)
    expected = [6, 19, 31, 44, 6, 19, 31, 44]  # the middles of eight half seconds
    assert np.abs(np.array(seen.numbers) - expected).max() <= 3, seen.numbers
    assert seen.heard_s == pytest.approx(4, abs=0.1) and seen.claimed_s == pytest.approx(4, abs=0.1)
    assert seen.header.media["clock_leaps"] == 1


@pytest.mark.parametrize("offset", ["5000", "95442.7", "100000"])
def test_a_clock_that_jumps_or_wraps_goes_on(offset: str, tmp_path: Path) -> None:
    """33 bits of 90 kHz wrap after 95,443.7 s: in the second case in the middle of the second part."""
    first = film(tmp_path / "first.ts")
    second = film(tmp_path / "second.ts", options={"output_ts_offset": offset})
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    seen = see(joined)
    assert seen.header.duration_s == pytest.approx(4, abs=0.05)
    assert seen.heard_s == pytest.approx(4, abs=0.05)
    assert np.abs(np.array(seen.numbers) - [6, 19, 31, 44, 6, 19, 31, 44]).max() <= 2


@pytest.mark.parametrize(("suffix", "offset"), [("ts", "5000"), ("ts", "95442.7"), ("vob", "95442.7"), ("mkv", "50")])
def test_a_clock_that_begins_anywhere_begins_at_zero(suffix: str, offset: str, tmp_path: Path) -> None:
    plain = see(film(tmp_path / f"plain.{suffix}", **KINDS[suffix]))
    moved = see(film(tmp_path / f"moved.{suffix}", **KINDS[suffix], options={"output_ts_offset": offset}))
    assert moved.numbers == plain.numbers
    np.testing.assert_allclose(moved.times, plain.times, atol=0.002)
    assert moved.claimed_s == pytest.approx(plain.claimed_s, abs=0.002)


def live(path: Path, audio: str | None) -> Path:
    """Write fragments whose clock stands at 3600 s, as those of a stream that has been on the air for an hour."""
    film(path, audio=audio, options={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    data = bytearray(path.read_bytes())
    scales, place = [], 0
    while (place := data.find(b"mdhd", place + 1)) > 0:
        scales.append(struct.unpack_from(">I", data, place + 4 + (20 if data[place + 4] else 12))[0])
    place = 0
    while (place := data.find(b"tfdt", place + 1)) > 0:
        (track,) = struct.unpack_from(">I", data, data.rfind(b"tfhd", 0, place) + 8)
        form = ">Q" if data[place + 4] else ">I"
        (time,) = struct.unpack_from(form, data, place + 8)
        struct.pack_into(form, data, place + 8, time + 3600 * scales[track - 1])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("audio", ["aac", None])
def test_fragments_of_a_live_stream_begin_at_zero(audio: str | None, tmp_path: Path) -> None:
    plain = see(film(tmp_path / "plain.mp4", audio=audio, options={"movflags": "frag_keyframe+empty_moov"}))
    seen = see(live(tmp_path / "live.mp4", audio))
    assert seen.header.media["zero_s"] >= 3600
    assert seen.numbers == plain.numbers and len(set(seen.numbers)) == 8
    np.testing.assert_allclose(seen.times, plain.times, atol=1e-6)
    assert seen.heard_s == plain.heard_s


def test_without_an_edit_list_the_first_frame_is_zero_if_nothing_begins_earlier(tmp_path: Path) -> None:
    silent = see(film(tmp_path / "silent.mp4", audio=None, options={"use_editlist": "0"}))
    assert silent.header.media["zero_s"] == pytest.approx(0.08)  # two B-frames
    assert silent.header.duration_s == pytest.approx(2)
    assert silent.numbers == [3, 8, 15, 21, 28, 34, 40, 46]
    sounding = see(film(tmp_path / "sounding.mp4", options={"use_editlist": "0"}))
    assert sounding.header.media["zero_s"] == 0  # the sound begins there


def test_an_empty_edit_belongs_to_the_presentation(tmp_path: Path) -> None:
    """The file says that nothing is shown for half a second."""
    late = see(film(tmp_path / "late.mp4", audio=None, options={"output_ts_offset": "0.5", "avoid_negative_ts": "0"}))
    assert late.header.media["zero_s"] == 0
    assert late.header.duration_s == pytest.approx(2.5)
    assert late.times[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("raw.h264", {"format": "h264"}),
        ("raw.mp4", {"format": "h264"}),
        ("raw.m4v", {"format": "m4v", "video": "mpeg4"}),
        ("raw.m2v", {"format": "mpeg2video", "video": "mpeg2video"}),
    ],
)
def test_frames_without_stamps_last_as_long_as_the_rate_says(name: str, kind: dict[str, Any], tmp_path: Path) -> None:
    seen = see(film(tmp_path / name, audio=None, **kind))
    assert seen.header.duration_s == pytest.approx(2)
    np.testing.assert_allclose(seen.times, np.array([3, 9, 15, 21, 28, 34, 40, 46]) / 25, atol=1e-6)
    assert np.abs(np.array(seen.numbers) - [3, 9, 15, 21, 28, 34, 40, 46]).max() <= 1


def test_stamps_that_are_missing_at_the_front_are_counted_back(tmp_path: Path) -> None:
    """Times before 0, which Matroska cannot hold, come without a stamp."""
    options = {"output_ts_offset": "-0.5", "avoid_negative_ts": "disabled"}
    seen = see(film(tmp_path / "early.mkv", options=options))
    assert seen.header.media["times_from"] == "decoder"
    numbers = np.array([2, 8, 15, 21, 27, 34, 40, 46])  # the sound begins 21 ms before the picture
    assert np.abs(np.array(seen.numbers) - numbers).max() <= 1
    np.testing.assert_allclose(seen.times, numbers / 25 + 0.021, atol=0.001)


def test_one_stray_stamp_moves_nothing(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mkv", settings=NO_B_FRAMES)

    def stray(kind: str, number: int, packet: Packet) -> Packet:
        if (kind, number) == ("audio", 40):
            assert packet.pts is not None
            packet.pts += 600
        return packet

    seen, expected = see(remux(whole, tmp_path / "stray.mkv", stray)), see(whole)
    assert seen.header.media["clock_leaps"] == 0
    assert seen.numbers == expected.numbers and seen.times.tolist() == expected.times.tolist()
    assert seen.claimed_s == pytest.approx(expected.claimed_s, abs=0.01)


def test_a_clock_that_stands_still_is_refused(tmp_path: Path) -> None:
    def still(kind: str, number: int, packet: Packet) -> Packet:
        packet.pts = packet.dts = 0
        packet.duration = 0
        return packet

    path = remux(film(tmp_path / "film.mkv", audio=None, settings=NO_B_FRAMES), tmp_path / "still.mkv", still)
    with pytest.raises(MediaError) as caught:
        see(path)
    assert caught.value.failure_class == "bad_timestamps" and caught.value.permanent


def test_a_clock_of_ticks_is_refused(tmp_path: Path) -> None:
    """A writer that counts frames in units of the time base claims a million frames per second."""
    source = film(tmp_path / "film.mp4", audio=None, settings=NO_B_FRAMES)

    def ticks(kind: str, number: int, packet: Packet) -> Packet:
        packet.time_base = Fraction(1, 1_000_000)
        packet.pts = packet.dts = number * 10
        packet.duration = 10
        return packet

    with pytest.raises(MediaError, match="bad_timestamps: the timestamps put 50 frames into"):
        see(remux(source, tmp_path / "ticks.mp4", ticks, video_track_timescale="1000000"))


def stamps(*times: float, stream: int = 0) -> list[Stamp]:
    return [Stamp(stream, Fraction(time).limit_denominator(1000), Fraction(1, 25)) for time in times]


class TestFollow:
    def test_a_clean_clock_does_not_leap(self) -> None:
        assert follow(stamps(0, 0.04, 0.08, 5, 5.04), True, 0) == NO_LEAPS
        assert follow(stamps(0, 0.04, 900, 900.04), False, 0) == NO_LEAPS  # a still picture of 15 minutes

    def test_a_jump_of_more_than_ten_seconds_leaps_where_the_format_says_that_it_may(self) -> None:
        clock = follow(stamps(0, 0.04, 11, 11.04), True, 0)
        assert clock.leaps == 1 and clock.shift(0, 1) == 0
        assert clock.shift(0, 2) == clock.shift(0, 3) == Fraction(8, 100) - 11

    def test_a_step_back_must_last_elsewhere(self) -> None:
        assert follow(stamps(0, 0.04, 0.08, -3, 0.16, 0.2), False, 0).leaps == 0
        assert follow(stamps(*[n / 25 for n in range(20)], *[n / 25 for n in range(20)]), False, 0).leaps == 1

    def test_the_stream_that_lags_keeps_the_old_clock_until_its_own_packets_leap(self) -> None:
        """As in the file: picture 0 to 1 s, sound to 1 s, then the sound's second part before the picture's last."""
        picture = stamps(*[n / 25 for n in range(24)])
        sound = stamps(*[n / 25 for n in range(25)], stream=1)
        again = stamps(*[n / 25 for n in range(5)], stream=1)
        rest = [*stamps(24 / 25), *stamps(*[n / 25 for n in range(5)])]
        clock = follow([*picture, *sound, *again, *rest], True, 0)
        assert clock.leaps == 1
        assert clock.shift(1, 24) == 0 and clock.shift(1, 25) == 1
        assert clock.shift(0, 24) == 0 and clock.shift(0, 25) == 1
