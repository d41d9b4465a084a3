"""Makes the first pass over a file: every video packet's times and flags, read without decoding."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median

import av.error
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.media import h264
from pipeline.media.errors import is_damage
from pipeline.media.source import MOV_FORMAT, Source

H264 = "h264"
AVI_FORMAT = "avi"
# Packets up to this size in all are kept for the second pass; a short clip fits, a film need not.
KEPT_BYTES = 64 << 20


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
    corrupt
        Number of packets that the demuxer flagged as damaged.
    objection
        Why this stream must be decoded in order, or None if skipping is allowed.
    truncated
        Whether the file ends before its own index says.
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
    corrupt: int
    objection: str | None
    truncated: bool
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


def read_index(source: Source, path: str) -> PacketIndex:
    """Demux the whole video stream once and note its packets."""
    video = source.video
    pts: list[int | None] = []
    duration: list[int] = []
    discard: list[bool] = []
    keyframe: list[bool] = []
    corrupt = 0
    truncated = _index_exceeds_file(source, path)
    kept: list[Packet[VideoStream]] = []
    room = KEPT_BYTES
    is_h264 = video.codec_context.name == H264
    sets = h264.ParameterSets()
    extradata = bytes(video.codec_context.extradata or b"")
    length_size = h264.avcc_length_size(extradata) if is_h264 else None
    if is_h264:
        _read_extradata(extradata, length_size, sets)
    try:
        for packet in source.container.demux(video):
            if packet.size == 0:
                continue
            pts.append(packet.pts)
            duration.append(packet.duration or 0)
            discard.append(packet.is_discard)
            corrupt += packet.is_corrupt
            room -= packet.size
            if is_h264 and room >= 0:
                kept.append(packet)
            idr = h264.read_packet(bytes(packet), length_size, sets) if is_h264 else packet.is_keyframe
            keyframe.append(idr)
    except av.error.FFmpegError as error:
        if not is_damage(error):
            raise
        truncated = True
    objection = sets.objection if is_h264 else f"{video.codec_context.name} is not on the allow-list"
    index = PacketIndex(
        pts=tuple(pts),
        duration=tuple(duration),
        discard=tuple(discard),
        keyframe=tuple(keyframe),
        corrupt=corrupt,
        objection=objection,
        truncated=truncated,
        kept=tuple(kept) if len(kept) == len(pts) else (),
        guessed=source.container.format.name == AVI_FORMAT and video.codec_context.reorder_depth > 0,
    )
    if objection is None:
        return replace(index, objection=_order_objection(index, video.codec_context.reorder_depth))
    return index


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
    return np.array([float(duration * source.video.time_base) for _, duration in displayed])


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


def _index_exceeds_file(source: Source, path: str) -> bool:
    if MOV_FORMAT not in source.container.format.name.split(","):
        return False
    end = max((entry.pos + entry.size for entry in source.video.index_entries), default=0)
    return end > Path(path).stat().st_size
