"""Makes the first pass over a file: every video packet's times and flags, read without decoding."""

from __future__ import annotations

import io
from bisect import bisect
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any, cast

import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.media import h264
from pipeline.media.claims import claimed_size
from pipeline.media.clock import NO_LEAPS, Clock, Stamp, follow
from pipeline.media.errors import is_damage
from pipeline.media.source import MOV_FORMAT, Source, open_source

H264 = "h264"
# Packets up to this size in all are kept for the second pass; a short clip fits, a film need not.
KEPT_BYTES = 64 << 20
# Formats that state a duration in their header, and by how many seconds a whole file may fall short of it: by rounding,
# by the padding of sound that no packet shows, in ASF by more.
_DURATION_IN_HEADER = {
    "matroska": Fraction(1, 50),
    "avi": Fraction(1, 500),
    "flv": Fraction(1, 500),
    "asf": Fraction(1, 10),
    "mxf": Fraction(1, 500),
}
_AVI_SLACK = 2  # frames that encoders count and never write


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """Video packets in the order in which a decoder takes them.

    Attributes
    ----------
    pts
        Presentation times in the stream's time base; None if the container has none.
    duration
        Claimed durations in the time base, 0 if there is none.
    discard
        Whether the packet is decoded but not shown (edit lists).
    keyframe
        Whether the packet is an H.264 IDR picture; for other codecs libav's key flag.
    entry
        Whether the demuxer says that decoding may begin here: libav's key flag for every codec.
    reference
        Whether other frames may refer to the packet's; True where that is not known.
    corrupt
        Numbers of the packets that the demuxer flagged as damaged.
    objection
        Why this stream must be decoded in order, or None if skipping is allowed.
    cut
        What the container claims and the file lacks, in words; None for a whole file.
    clock
        What is added to the stamps; the times above have it added already.
    kept
        The packets themselves if they are few enough to keep, so that one reading of the file serves both passes;
        empty otherwise.
    guessed
        Whether libav makes the times up, because the container keeps none and frames are reordered.
    """

    pts: tuple[int | None, ...]
    duration: tuple[int, ...]
    discard: tuple[bool, ...]
    keyframe: tuple[bool, ...]
    entry: tuple[bool, ...]
    reference: tuple[bool, ...]
    corrupt: tuple[int, ...]
    objection: str | None
    cut: str | None
    clock: Clock = NO_LEAPS
    kept: tuple[Packet[VideoStream], ...] = ()
    guessed: bool = False

    @property
    def timed(self) -> bool:
        """Whether every packet has a presentation time of its own, so that the frames shown can be predicted."""
        return not self.guessed and None not in self.pts and len(set(self.pts)) == len(self.pts)

    def displayed(self) -> list[tuple[int, int]]:
        """Return the predicted (pts, claimed duration) of each frame shown, ascending; needs ``timed``."""
        return sorted(
            (pts, duration)
            for pts, duration, discard in zip(self.pts, self.duration, self.discard, strict=True)
            if pts is not None and not discard
        )


def read_index(source: Source) -> PacketIndex:
    """Demux the whole video stream once and note its packets; if the format's clock may leap, the sound's as well."""
    video = source.video
    reader = _Reader(video)
    stamps: list[Stamp] = []
    streams: list[VideoStream | AudioStream] = [video]
    may_leap = source.is_discontinuous
    if may_leap and source.audio is not None:
        streams.append(source.audio)
    broken: str | None = None
    try:
        for packet in source.demux(*streams):
            if packet.size == 0:
                if packet.stream_index == video.index and packet.pts is not None:
                    reader.prolong(packet.pts, packet.duration or 0)
                continue
            if may_leap:
                stamps.append(_stamp(packet))
            if packet.stream_index == video.index:
                reader.take(cast("Packet[VideoStream]", packet))
    except av.error.FFmpegError as error:
        if not is_damage(error):
            raise
        broken = "its last packets cannot be read"
    if not may_leap and reader.steps_back:
        stamps = _read_stamps(source)
    clock = follow(stamps, may_leap, video.index)
    if source.container.start_time is None:
        clock = replace(clock, start_s=reader.start_s)
    index = reader.index(source, clock)
    index = replace(index, cut=_missing_part(source, index, reader.empty) or broken)
    if index.objection is None:
        return replace(index, objection=_order_objection(index, video.codec_context.reorder_depth))
    return index


class _Reader:
    """Notes the packets of one video stream."""

    def __init__(self, video: VideoStream) -> None:
        self._video = video
        self._pts: list[int | None] = []
        self._duration: list[int] = []
        self._discard: list[bool] = []
        self._keyframe: list[bool] = []
        self._entry: list[bool] = []
        self._reference: list[bool] = []
        self._corrupt: list[int] = []
        self._kept: list[Packet[VideoStream]] = []
        self._room = KEPT_BYTES
        self._latest_dts: int | None = None
        self.steps_back = False
        self.empty = 0
        self._is_h264 = video.codec_context.name == H264
        self._sets = h264.ParameterSets()
        extradata = bytes(video.codec_context.extradata or b"")
        self._length_size = h264.avcc_length_size(extradata) if self._is_h264 else None
        if self._is_h264:
            _read_extradata(extradata, self._length_size, self._sets)

    def prolong(self, pts: int, duration: int) -> None:
        """Note an empty packet: it shows the frame before it once more."""
        self.empty += 1
        if self._pts and (before := self._pts[-1]) is not None and pts > before:
            self._duration[-1] = max(self._duration[-1], pts + (duration or self._duration[-1]) - before)

    def take(self, packet: Packet[VideoStream]) -> None:
        """Note one packet."""
        dts = packet.dts
        if dts is not None:
            if self._latest_dts is not None and dts < self._latest_dts:
                self.steps_back = True
            self._latest_dts = dts
        if packet.is_corrupt:
            self._corrupt.append(len(self._pts))
        self._pts.append(packet.pts)
        self._duration.append(packet.duration or 0)
        self._discard.append(packet.is_discard)
        self._entry.append(packet.is_keyframe)
        self._room -= packet.size
        if self._is_h264:
            if self._room >= 0:
                self._kept.append(packet)
            idr, reference = h264.read_packet(bytes(packet), self._length_size, self._sets)
            self._keyframe.append(idr)
            self._reference.append(reference)

    @property
    def start_s(self) -> Fraction:
        """Second at which the first frame is shown; 0 if no packet has a time."""
        times = [pts for pts, discard in zip(self._pts, self._discard, strict=True) if pts is not None and not discard]
        assert self._video.time_base is not None
        return min(times, default=0) * self._video.time_base

    def index(self, source: Source, clock: Clock) -> PacketIndex:
        """Return what was noted, on the one clock."""
        video, count = self._video, len(self._pts)
        objection = self._sets.objection if self._is_h264 else f"{video.codec_context.name} is not on the allow-list"
        pts = self._pts
        if clock.shifts:
            assert video.time_base is not None
            objection = objection or "the clock leaps"
            shifts = [round(clock.shift(video.index, number) / video.time_base) for number in range(count)]
            pts = [None if pts is None else pts + shift for pts, shift in zip(self._pts, shifts, strict=True)]
        return PacketIndex(
            pts=tuple(pts),
            duration=tuple(self._duration),
            discard=tuple(self._discard),
            keyframe=tuple(self._keyframe if self._is_h264 else self._entry),
            entry=tuple(self._entry),
            reference=tuple(self._reference) if self._is_h264 else (True,) * count,
            corrupt=tuple(self._corrupt),
            objection=objection,
            cut=None,
            clock=clock,
            kept=tuple(self._kept) if len(self._kept) == count and not clock.shifts else (),
            guessed=source.keeps_only_dts,
        )


def _stamp(packet: Packet[Any]) -> Stamp:
    base = packet.time_base
    return Stamp(
        packet.stream_index, None if packet.dts is None else packet.dts * base, Fraction(packet.duration or 0) * base
    )


def _read_stamps(source: Source) -> list[Stamp]:
    """Return the stamps of both streams in the order of the file, as far as it can be read."""
    stamps: list[Stamp] = []
    with open_source(source.path, source.limits, files=source.files) as again:
        streams: list[VideoStream | AudioStream] = [again.video, *([] if again.audio is None else [again.audio])]
        try:
            stamps.extend(_stamp(packet) for packet in again.demux(*streams) if packet.size)
        except av.error.FFmpegError as error:
            if not is_damage(error):
                raise
    return stamps


def _missing_part(source: Source, index: PacketIndex, empty: int) -> str | None:
    """Return what the container claims and the file lacks, in words; None for a whole file.

    Bytes that are missing count only if pictures are: an index or a tag at the end of a file may be lost, and some
    writers claim a wrong size.
    """
    with source.files.open(source.path) as file:
        size = file.seek(0, io.SEEK_END)
    if MOV_FORMAT in source.container.format.name.split(","):
        streams = [source.video, *([] if source.audio is None else [source.audio])]
        needed = max((entry.pos + entry.size for stream in streams for entry in stream.index_entries), default=0)
        if needed > size:
            return f"{size} of at least {needed} bytes are there"
    claimed = claimed_size(source.path, source.files)
    if claimed is not None and claimed > size:
        if "avi" in source.container.format.name:  # libav shortens the duration to what is there, not the count
            lacks_pictures = len(index.pts) + empty < source.video.frames - _AVI_SLACK
        else:
            lacks_pictures = _ends_early(source, index, Fraction(1), Fraction(0)) is not False
        if lacks_pictures:
            return f"{size} of {claimed} bytes are there"
    elif _ends_early(source, index, Fraction(9, 10), Fraction(1)):
        assert source.container.duration is not None
        return f"its header claims {source.container.duration / 1e6:.1f} s, which are not there"
    return None


def _ends_early(source: Source, index: PacketIndex, share: Fraction, slack_s: Fraction) -> bool | None:
    """Return whether pictures and sound end before a share of the duration in the header; None if it states none."""
    names = source.container.format.name.split(",")
    duration = source.container.duration
    slacks = [_DURATION_IN_HEADER[name] for name in names if name in _DURATION_IN_HEADER]
    if not slacks or duration is None or not index.pts:
        return None
    # Matroska counts from 0, whenever the first frame is shown; others may count from there.
    wanted = Fraction(duration, 1_000_000) * share - slack_s - slacks[0] + min(source.zero, Fraction(0))
    assert source.video.time_base is not None
    ends = [pts + span for pts, span in zip(index.pts, index.duration, strict=True) if pts is not None]
    if max(ends, default=0) * source.video.time_base >= wanted:
        return False
    both = [stamp.dts_s + stamp.duration_s for stamp in _read_stamps(source) if stamp.dts_s is not None]
    return max(both, default=Fraction(0)) < wanted


def groups(index: PacketIndex) -> list[range]:
    """Return the ranges of packets that start with an IDR picture and can be decoded on their own."""
    starts = [number for number, key in enumerate(index.keyframe) if key]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(index.pts)], strict=True)]


def last_duration(displayed: list[tuple[int, int]], source: Source) -> Fraction:
    """Return how many seconds the last frame is shown: as its packet claims, else the usual gap between frames."""
    assert source.video.time_base is not None
    if displayed[-1][1] > 0:
        return displayed[-1][1] * source.video.time_base
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(displayed)]
    if gaps:
        return Fraction(median(gaps)) * source.video.time_base
    rate = source.video.average_rate or source.video.guessed_rate
    return 1 / Fraction(rate) if rate else Fraction(1, 25)


def ffmpeg5_durations(displayed: list[tuple[int, int]], index: PacketIndex, source: Source) -> NDArray[np.float64]:
    """Return each frame's duration, float64 [F] in seconds, as FFmpeg 5.1's command line reads it.

    Up to release 5.1 the ISO-BMFF demuxer took no duration from tables with reordered frames and used the frame rate
    instead. The published 6-fps dumps were made that way.
    """
    assert source.video.time_base is not None
    reordered = any(a > b for a, b in pairwise(index.pts) if a is not None and b is not None)
    if reordered and MOV_FORMAT in source.container.format.name.split(",") and source.video.base_rate:
        return np.full(len(displayed), float(1 / source.video.base_rate))
    seconds = {duration: float(duration * source.video.time_base) for _, duration in displayed}
    return np.array([seconds[duration] for _, duration in displayed])


def _read_extradata(extradata: bytes, length_size: int | None, sets: h264.ParameterSets) -> None:
    if length_size is not None:
        units = [unit for unit in h264.avcc_units(extradata) if unit]
    else:
        units = [extradata[start:end] for start, end in h264.units(extradata, None) if start < end]
    for unit in units:
        if unit[0] & 31 in (h264.NAL_SPS, h264.NAL_PPS, h264.NAL_SUBSET_SPS):
            sets.add(unit[0] & 31, unit.rstrip(b"\x00"))


def _order_objection(index: PacketIndex, reorder_depth: int) -> str | None:
    """Return why the packets' order forbids skipping, or None."""
    if not index.pts:
        return "no packets"
    if not index.timed:
        return "missing or repeated presentation times"
    if not index.keyframe[0]:
        return "the first packet is not an IDR picture"
    if index.corrupt:
        return "damaged packets"
    times = [pts for pts in index.pts if pts is not None]
    latest = None
    for group in groups(index):
        inside = times[group.start : group.stop]
        if inside[0] != min(inside):
            return "pictures before their IDR picture"
        if latest is not None and inside[0] <= latest:
            return "groups of pictures overlap"
        latest = max(inside)
        if _reordering(inside) > reorder_depth:
            return "frames are reordered further than the decoder expects"
    return None


def _reordering(times: list[int]) -> int:
    """Return the most frames that come before another in decoding and after it on screen."""
    earlier: list[int] = []
    deepest = 0
    for time in times:
        place = bisect(earlier, time)
        deepest = max(deepest, len(earlier) - place)
        earlier.insert(place, time)
    return deepest
