"""Sound whose stamps wobble, overlap, leave gaps or come late, and how much of it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from av.packet import Packet

from pipeline.media import AudioRequest, DecodeRequest, MediaError, decode
from pipeline.media.audio import TOLERANCE_S
from tests._helpers.films import NO_B_FRAMES, RATE, film, remux, see


def moved(source: Path, target: Path, by: dict[int, float] | list[float]) -> Path:
    """Copy a film and move the stamps of its sound packets: number to seconds, or seconds by number in turn."""

    def change(kind: str, number: int, packet: Packet) -> Packet:
        if kind == "audio":
            seconds = by.get(number, 0.0) if isinstance(by, dict) else by[number % len(by)]
            assert packet.pts is not None and packet.dts is not None
            ticks = round(seconds / packet.time_base)
            packet.pts += ticks
            packet.dts += ticks
        return packet

    return remux(source, target, change)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("sound") / "whole.mkv", 3.0, settings=NO_B_FRAMES)


PACKET = 1024 / RATE


@pytest.mark.parametrize(
    "wobble",
    [[0.0, 0.021, 0.01], [0.0, 0.001 - PACKET, 0.002 - 2 * PACKET], [0, 0.015, 0.03, 0.045, 0.03, 0.015]],
    ids=["jitter", "three packets stamped on arrival", "drifting and back"],
)
def test_stamps_that_wobble_are_one_stretch(wobble: list[float], whole: Path, tmp_path: Path) -> None:
    seen, expected = see(moved(whole, tmp_path / "wobble.mkv", wobble)), see(whole)
    assert seen.audio is not None and expected.audio is not None
    assert len(seen.audio.segments) == 1
    assert seen.heard_s == pytest.approx(3, abs=0.03)
    middle = seen.audio.samples[8_000:40_000]
    errors = [np.abs(middle - expected.audio.samples[8_000 + by : 40_000 + by]).max() for by in range(-1600, 1601)]
    assert min(errors) < 0.05  # the same tone without a seam, at most a tenth of a second away
    assert seen.numbers == expected.numbers


def test_packets_stamped_in_large_bunches_are_one_stretch(whole: Path, tmp_path: Path) -> None:
    """Ten packets arrive at once: the last is stamped 0.19 s early, and the next is right again."""
    bunch = [0.001 * place - place * PACKET for place in range(10)]
    seen = see(moved(whole, tmp_path / "bunches.mkv", bunch))
    assert seen.heard_s == pytest.approx(3, abs=0.05) and seen.claimed_s == pytest.approx(3, abs=0.05)


def test_a_gap_is_masked_and_what_follows_keeps_its_time(whole: Path, tmp_path: Path) -> None:
    def drop(kind: str, number: int, packet: Packet) -> Packet | None:
        return None if kind == "audio" and 47 <= number < 94 else packet

    seen = see(remux(whole, tmp_path / "gap.mkv", drop))
    assert seen.audio is not None
    (first_start, first_end), (second_start, second_end) = seen.audio.segments
    assert first_start == 0 and second_end == pytest.approx(48_000, abs=400)
    assert first_end / 16_000 == pytest.approx(47 * PACKET - 0.02, abs=0.03)
    assert second_start / 16_000 == pytest.approx(94 * PACKET - 0.02, abs=0.03)
    assert not seen.audio.samples[first_end + 100 : second_start - 100].any()


def test_sound_that_stays_off_is_laid_down_where_its_stamps_say(whole: Path, tmp_path: Path) -> None:
    late = dict.fromkeys(range(70, 200), 0.5)
    seen = see(moved(whole, tmp_path / "late.mkv", late))
    assert seen.audio is not None and len(seen.audio.segments) == 2
    assert seen.audio.segments[1][0] - seen.audio.segments[0][1] == pytest.approx(0.5 * 16_000, abs=100)


def test_a_second_of_wild_stamps_costs_nothing_that_follows(whole: Path, tmp_path: Path) -> None:
    """For 1.2 s the sound claims to come 100 s later; what comes after it is where it belongs."""
    wild = dict.fromkeys(range(30, 86), 100.0)

    def change(kind: str, number: int, packet: Packet) -> Packet:
        if kind == "audio" and number in wild:
            packet.pts += 100_000
        return packet

    seen = see(remux(whole, tmp_path / "wild.mkv", change))
    assert seen.audio is not None
    assert seen.audio.segments[-1][1] == pytest.approx(48_000, abs=400)
    assert seen.claimed_s == pytest.approx(3 - len(wild) * PACKET, abs=0.1)


def test_an_overlap_costs_no_sound_and_no_picture(whole: Path, tmp_path: Path) -> None:
    """The second half comes 0.4 s early: what it covers is dropped, the rest goes on."""

    def half_of(half: int, kind: str, packet: Packet) -> Packet | None:
        second = packet.pts * packet.time_base >= 1.5
        if second and kind == "audio":
            packet.pts -= 400
            packet.dts -= 400
        return packet if second == bool(half) else None

    # Each half in a file of its own: a muxer refuses stamps that step back.
    halves = [
        remux(whole, tmp_path / f"{half}.mkv", lambda kind, number, packet, half=half: half_of(half, kind, packet))
        for half in range(2)
    ]
    path = tmp_path / "early.mkv"
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    seen = see(path)
    assert seen.audio is not None
    assert seen.claimed_s == pytest.approx(2.6, abs=0.1) and seen.heard_s == pytest.approx(2.6, abs=0.1)
    assert len(set(seen.numbers)) == 8


def test_the_tolerance_is_in_the_spec() -> None:
    from pipeline.media.recipes import recipe

    assert recipe("pyav")["audio_tolerance_s"] == TOLERANCE_S == 0.1


@pytest.mark.parametrize("suffix", ["ts", "vob"])
def test_sound_that_begins_late_is_found(suffix: str, tmp_path: Path) -> None:
    """libav looks at five seconds; the sound begins after eight."""
    kind = {"video": "mpeg2video", "audio": "mp2"} if suffix == "vob" else {}
    path = film(tmp_path / f"late.{suffix}", 10.0, sound_from=8.0, **kind)  # type: ignore[arg-type]  # keywords of a film
    seen = see(path)
    assert seen.audio is not None and seen.audio.state == "present"
    assert seen.claimed_s == pytest.approx(2, abs=0.1)
    assert seen.audio.segments[0][0] / 16_000 == pytest.approx(8, abs=0.1)


def test_only_the_wanted_window_of_the_sound_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.media.source import Source

    path = film(tmp_path / "long.mkv", 60.0, settings={"preset": "ultrafast", "g": "250", "crf": "40"})
    read = []
    demux = Source.demux

    def counted(self: Source, *streams: object) -> object:
        for packet in demux(self, *streams):  # type: ignore[type-var]  # the streams of the source
            read.append(packet.size)
            yield packet

    monkeypatch.setattr(Source, "demux", counted)

    def sound(reach: float | None, **clip: float) -> np.ndarray:
        request = DecodeRequest(str(path), (), AudioRequest(reach_s=reach), **clip)  # type: ignore[arg-type]  # bounds
        return next(event.samples for event in decode(request) if hasattr(event, "samples") and hasattr(event, "rate"))

    whole = sound(None)
    read.clear()
    window = sound(3.0)
    packets_of_a_window = len(read)
    np.testing.assert_array_equal(window, whole[: 3 * 16_000])
    read.clear()
    sound(None)
    assert packets_of_a_window < len(read) - 2000  # the video's 1,500 packets are read for its times
    clip = sound(2.0, start_s=50.0)
    assert len(clip) == 2 * 16_000
    # Matroska rounds stamps to milliseconds: where decoding begins elsewhere, the sound may move by half of one.
    errors = [np.abs(clip[16:-16] - whole[50 * 16_000 + 16 + by :][: len(clip) - 32]).max() for by in range(-16, 17)]
    assert min(errors) < 0.1 and abs(int(np.argmin(errors)) - 16) <= 8


def test_sound_that_does_not_decode_is_marked_where_it_is_missing(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mkv", 3.0, settings=NO_B_FRAMES)

    def broken(kind: str, number: int, packet: Packet) -> Packet:
        if kind == "audio" and 50 <= number < 80:
            again = Packet(b"\xff" * packet.size)
            again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
            again.time_base, again.is_keyframe = packet.time_base, True
            return again
        return packet

    path = remux(whole, tmp_path / "broken.mkv", broken)
    seen = see(path)
    assert seen.audio is not None and seen.numbers == see(whole).numbers
    assert seen.audio.damaged and seen.audio.record["failed_packets"] == len(seen.audio.damaged)
    first, last = seen.audio.damaged[0][0] / 16_000, seen.audio.damaged[-1][1] / 16_000
    assert first == pytest.approx(50 * PACKET, abs=0.05) and last == pytest.approx(80 * PACKET, abs=0.05)
    assert seen.claimed_s < 2.6


def test_absent_is_not_said_of_a_track_that_is_listed(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    data = path.read_bytes().replace(b"mp4a", b"apac", 1)
    path.write_bytes(data.replace(b"esds", b"free", 1))
    with pytest.raises(MediaError) as caught:
        list(decode(DecodeRequest(str(path), (), AudioRequest())))
    assert caught.value.failure_class == "unsupported_codec"
