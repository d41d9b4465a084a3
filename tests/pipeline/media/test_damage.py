"""Damaged packets, files that are cut short, files that are no videos: one answer in all containers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from pipeline.media import AudioRequest, DecodeRequest, MediaError, decode
from pipeline.media.claims import claimed_size, edit_list_start
from pipeline.media.damage import DamageLog, damaged_frames
from pipeline.media.packets import PacketIndex
from tests._helpers.films import NO_B_FRAMES, film, remux, see

H264: dict[str, Any] = {"settings": NO_B_FRAMES}
MPEG: dict[str, Any] = {"settings": {"g": "25", "bf": "0", "sc_threshold": "1000000000"}}
KINDS: dict[str, dict[str, Any]] = {
    "mp4": H264,
    "mov": {**MPEG, "video": "mpeg4"},
    "mkv": H264,
    "ts": H264,
    "m2ts": {**MPEG, "video": "mpeg2video", "audio": "mp2"},
    "flv": H264,
    "avi": {**MPEG, "video": "mpeg4", "audio": "pcm_s16le"},
    "nut": H264,
}


def spoil(source: Path, target: Path, wanted: set[int], keep: int = 60) -> Path:
    """Copy a film and replace some video packets, behind their headers, by noise."""

    def noise(kind: str, number: int, packet: Packet) -> Packet:
        if kind != "video" or number not in wanted:
            return packet
        again = Packet(
            bytes(packet)[:keep] + np.random.default_rng(7).integers(1, 256, packet.size, np.uint8).tobytes()
        )
        again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
        again.time_base = packet.time_base
        return again

    return remux(source, target, noise)


@pytest.mark.parametrize("suffix", KINDS)
def test_damage_is_concealed_and_marked_up_to_the_next_key_frame(suffix: str, tmp_path: Path) -> None:
    """Packet 30 of 100 is noise. Frames from 30 to the next key frame may be wrong, and no others."""
    path = film(tmp_path / f"whole.{suffix}", 4.0, **KINDS[suffix])
    whole, seen = see(path, n=50), see(spoil(path, tmp_path / f"damaged.{suffix}", {30}), n=50)
    assert whole.findings is None and seen.findings is not None
    assert seen.header.duration_s == pytest.approx(whole.header.duration_s, abs=0.001)
    assert seen.findings.media["undecodable_packets"] + seen.findings.media["corrupt_frames"] >= 1
    marked = set(seen.findings.damaged[0])
    middles = (np.arange(50) + 0.5) * whole.header.duration_s / 50 - whole.header.duration_s + 4
    with av.open(str(path)) as container:
        keys = [number for number, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    anew = next(key for key in keys if key > 30)
    assert marked == {slot for slot, time in enumerate(middles) if 30 <= time * 25 < anew}
    before, after = pictures(whole), pictures(seen)
    for slot in sorted(set(range(50)) - marked):
        np.testing.assert_array_equal(after[slot], before[slot], err_msg=f"slot {slot} differs and is not marked")
    assert any(not np.array_equal(before[slot], after[slot]) for slot in marked)


def pictures(seen: Any) -> dict[int, np.ndarray]:
    return {slot: frame.rgb for frame in seen.frames for policy, slots in frame.uses if policy == 0 for slot in slots}


@pytest.mark.parametrize("others", [(), ({"policy": "fps", "rate": 25.0},)], ids=["alone", "with every frame"])
def test_what_else_is_wanted_changes_no_mark(others: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    path = spoil(film(tmp_path / "whole.mkv", 4.0, settings=NO_B_FRAMES), tmp_path / "damaged.mkv", {30, 80})
    wanted = ({"policy": "uniform", "n": 10}, *others)
    seen = see(path, policies=wanted)
    assert seen.findings is not None
    assert seen.findings.damaged[0] == see(path, n=10).findings.damaged[0]  # type: ignore[union-attr]  # as above
    assert see(path, n=10, audio=None).findings.damaged[0] == seen.findings.damaged[0]  # type: ignore[union-attr]  # as above


def test_frames_that_are_lost_at_the_end_make_no_video_shorter(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mkv", 2.0, settings=NO_B_FRAMES)
    damaged = spoil(whole, tmp_path / "damaged.mkv", {47, 48, 49}, keep=2)
    seen = see(damaged, n=50)
    assert seen.header.duration_s == see(whole).header.duration_s == see(damaged, policies=()).header.duration_s
    assert seen.findings is not None and set(seen.findings.damaged[0]) >= {47, 48, 49}


def test_a_packet_that_nothing_refers_to_spoils_its_own_frame_alone() -> None:
    """Decoding order 0 3 1 2 | 4 7 5 6, as shown by PTS; the B-frames 1, 2, 5 and 6 are referred to by none."""
    pts = (0, 3, 1, 2, 4, 7, 5, 6)
    key = tuple(number in (0, 4) for number in range(8))
    index = PacketIndex(
        pts=pts,
        duration=(1,) * 8,
        discard=(False,) * 8,
        keyframe=key,
        entry=key,
        reference=tuple(time not in (1, 2, 5, 6) for time in pts),
        corrupt=(),
        objection=None,
        cut=None,
    )
    assert damaged_frames(DamageLog(undecodable=[2]), index) == {1}
    assert damaged_frames(DamageLog(corrupt=[1]), index) == {1}
    assert damaged_frames(DamageLog(corrupt=[3]), index) == {1, 2, 3}
    assert damaged_frames(DamageLog(corrupt=[7]), index) == {5, 6, 7}
    assert damaged_frames(DamageLog(), replace(index, corrupt=(0,))) == {0, 1, 2, 3}
    assert damaged_frames(DamageLog(), index) == frozenset()


CUT = {
    **KINDS,
    "webm": {"video": "libvpx", "audio": "libopus", "settings": {"g": "25", "deadline": "realtime", "cpu-used": "8"}},
    "gif": {"video": "gif", "audio": None},
    "ogv": {"video": "libvpx", "audio": "libopus", "format": "ogg"},
}
CLAIMS = ("mkv", "webm", "flv", "avi", "gif", "ogv")


@pytest.mark.parametrize("suffix", CLAIMS)
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_file_that_is_cut_short_fails_or_is_kept_as_asked(suffix: str, share: float, tmp_path: Path) -> None:
    whole = film(tmp_path / f"whole.{suffix}", 4.0, **CUT[suffix])
    size = whole.stat().st_size
    assert claimed_size(str(whole)) == size
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(size * share)])
    with pytest.raises(
        MediaError, match=rf"^corrupt: the file is cut short: {int(size * share)} of \d+ bytes are there"
    ):
        see(cut)
    kept = see(cut, truncated="keep")
    assert kept.header.media["truncated"].startswith(f"{int(size * share)} of ")
    assert 0.1 < kept.header.duration_s < 4
    assert "truncated" not in see(whole).header.media


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
def test_mp4_that_is_cut_short_fails_or_is_kept_as_asked(flags: str, tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4", 4.0, options={"movflags": flags})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    with pytest.raises(MediaError, match=r"^corrupt: the file is cut short: "):
        see(cut)
    kept = see(cut, truncated="keep")
    assert 1 < kept.header.duration_s < 4 and len(kept.numbers) == 8
    assert see(cut, end_s=0.5).header.duration_s == 0.5  # the clip is there whole


def test_cut_before_the_first_frame_is_said_to_be_cut(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4", options={"movflags": "faststart"})
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b"mdat") + 20])
    with pytest.raises(MediaError, match=r"^corrupt: the file is cut short: "):
        see(whole)


def test_what_is_appended_to_a_file_is_no_cut(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv"):
        path = film(tmp_path / f"tail.{suffix}")
        path.write_bytes(path.read_bytes() + b"http://example.org/ and more that is no box")
        assert see(path).header.duration_s == pytest.approx(2)


def test_a_wrong_size_in_a_header_is_no_cut_if_every_frame_is_there(tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", audio=None, settings=NO_B_FRAMES)
    data = bytearray(path.read_bytes())
    data[4:8] = (int.from_bytes(data[4:8], "little") + 4096).to_bytes(4, "little")
    path.write_bytes(data)
    assert see(path).header.duration_s == pytest.approx(2, abs=0.05)


def test_edit_lists_say_when_they_begin(tmp_path: Path) -> None:
    assert edit_list_start(str(film(tmp_path / "film.mp4"))) == 0
    assert edit_list_start(str(film(tmp_path / "none.mp4", options={"use_editlist": "0"}))) is None
    late = film(tmp_path / "late.mp4", audio=None, options={"output_ts_offset": "0.5", "avoid_negative_ts": "0"})
    assert float(edit_list_start(str(late)) or 0) == pytest.approx(0.5, abs=0.09)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(200), "a JPEG picture"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page or XML"),
        (b'{"error": "quota"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
    ],
)
def test_what_is_no_video_is_called_what_it_is(data: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        see(path)
    assert str(caught.value) == f"unsupported_codec: the file is {kind}"


def test_a_rate_that_gives_too_many_slots_is_a_permanent_failure(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 1.0)
    with pytest.raises(MediaError) as caught:
        list(decode(DecodeRequest(str(path), ({"policy": "fps", "rate": 2e6},), AudioRequest())))
    assert caught.value.failure_class == "too_large" and caught.value.permanent


def test_fragments_are_measured_by_their_segment_index(tmp_path: Path) -> None:
    """Cut between two fragments, every box is whole; the index at the front says that more should follow."""
    options = {"movflags": "dash+frag_keyframe+empty_moov+global_sidx"}
    whole = film(tmp_path / "whole.mp4", 4.0, options=options)
    data = whole.read_bytes()
    assert b"sidx" in data and see(whole).header.duration_s == pytest.approx(4, abs=0.1)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: data.rindex(b"moof") - 4])
    with pytest.raises(MediaError, match=r"^corrupt: the file is cut short: "):
        see(cut)


def test_gif_is_walked_to_its_trailer(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.gif", 2.0, video="gif", audio=None)
    data = whole.read_bytes()
    (tmp_path / "junk.gif").write_bytes(data + b"more; and more;")
    (tmp_path / "no-trailer.gif").write_bytes(data[:-1])
    for name in ("whole.gif", "junk.gif", "no-trailer.gif"):
        assert see(tmp_path / name).header.duration_s == pytest.approx(2)
    place = data.index(b";", len(data) // 2)  # a byte that looks like the trailer
    (tmp_path / "cut.gif").write_bytes(data[: place + 1])
    with pytest.raises(MediaError, match=r"^corrupt: the file is cut short: "):
        see(tmp_path / "cut.gif")


def test_ogg_that_does_not_say_that_it_ends_is_cut_short(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.ogv", 4.0, **CUT["ogv"])
    data = whole.read_bytes()
    cut = tmp_path / "cut.ogv"
    cut.write_bytes(data[: data.rindex(b"OggS", 0, len(data) * 2 // 3)])
    with pytest.raises(MediaError, match=r"^corrupt: the file is cut short: "):
        see(cut)


def test_a_file_that_ends_in_its_first_cluster_is_corrupt_and_not_unreadable(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.webm", 2.0, **CUT["webm"])
    for share in (0.02, 0.05, 0.1):
        cut = tmp_path / "cut.webm"
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
        with pytest.raises(MediaError) as caught:
            see(cut, audio=None)
        assert caught.value.failure_class == "corrupt"


def test_a_stream_that_appears_in_mid_file_takes_nothing_with_it(tmp_path: Path) -> None:
    """A transport stream, and another one with packet ids of its own behind it."""
    first = film(tmp_path / "first.ts")
    second = film(tmp_path / "second.ts", options={"mpegts_start_pid": "512", "mpegts_pmt_start_pid": "5376"})
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert see(joined).numbers == see(first).numbers


def test_packets_damaged_in_the_same_way_are_all_noticed_every_time(tmp_path: Path) -> None:
    """libav says the same words of each, and by default PyAV passes on words that are repeated once."""
    path = film(tmp_path / "film.mov", 4.0, **MPEG, video="mpeg4")
    damaged = spoil(path, tmp_path / "damaged.mov", {30, 31, 32})
    first, second = see(damaged, n=50), see(damaged, n=50)
    assert first.findings is not None and second.findings is not None
    assert first.findings.media == second.findings.media and first.findings.damaged == second.findings.damaged
