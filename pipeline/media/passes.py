"""The ways through a video stream: plainly, skipping what nobody needs, and counting what is shown."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame

from pipeline.media.errors import is_damage
from pipeline.media.packets import PacketIndex, groups
from pipeline.media.source import Source
from pipeline.media.types import MediaError
from pipeline.media.wanted import Wanted


class Mismatch(Exception):
    """The decoder did not show what the packets promised; the message says where."""


def plain(source: Source, wanted: Wanted) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything in order and yield (pts, frame) of the wanted frames.

    Every frame shown is compared with the prediction, up to the first one past the last wanted.

    Raises
    ------
    Mismatch
        At the first frame that was not predicted, or that is missing.
    """
    last = wanted.last
    if last is None:
        return
    position = 0
    for frame in _shown(source):
        if position >= len(wanted.displayed) or frame.pts != wanted.displayed[position]:
            raise Mismatch(f"frame {position} is shown at pts {frame.pts}, not as the packets say")
        position += 1
        if frame.pts in wanted.uses:
            yield frame.pts, frame
        if frame.pts > last:
            return
    if position < len(wanted.displayed):
        raise Mismatch(f"{position} frames are shown, {len(wanted.displayed)} were promised")


def counted(source: Source) -> list[tuple[int, int]]:
    """Decode everything and return (pts, duration) of each frame shown, in the stream's time base, ascending."""
    return [(pts, frame.duration or 0) for pts, frame in stamped(source)]


def stamped(source: Source) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame shown, with the timestamp that FFmpeg's tools would give it.

    Some containers (AVI) keep no presentation times, and what libav makes up for them need not ascend. As in
    libavcodec's `guess_correct_pts`, whichever of the frame's PTS and its packet's DTS has gone wrong less often is
    believed; every frame comes at least one tick after the one before.
    """
    latest = latest_pts = latest_dts = None
    wrong_pts = wrong_dts = 0
    for frame in _shown(source):
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            wrong_dts += latest_dts is not None and dts <= latest_dts
            latest_dts = dts
        if pts is not None:
            wrong_pts += latest_pts is not None and pts <= latest_pts
            latest_pts = pts
        believed = pts if pts is not None and (wrong_pts <= wrong_dts or dts is None) else dts
        if latest is None:
            latest = believed or 0
        else:
            latest = max(latest + 1, latest if believed is None else believed)
        yield latest, frame


def restamped(source: Source, wanted: Wanted) -> Iterator[tuple[int, VideoFrame]]:
    """As `plain`, on the true timestamps that `counted` found."""
    last = wanted.last
    for pts, frame in stamped(source):
        if pts in wanted.uses:
            yield pts, frame
        if last is None or pts >= last:
            return


def skipping(source: Source, wanted: Wanted, index: PacketIndex) -> Iterator[tuple[int, VideoFrame]]:
    """Decode only what wanted frames need and yield (pts, frame) of the wanted ones.

    Groups of pictures without a wanted frame are not decoded; inside a group, nothing after the last wanted packet,
    and of the unwanted frames only those that others refer to. Pixels are those of a plain decode because every
    group begins with an IDR picture and skipped frames are referred to by none. Frames are known by their PTS alone.

    Raises
    ------
    Mismatch
        Whenever a group does not deliver exactly its wanted frames, once each, whole and progressive.
    """
    context = source.video.codec_context
    ends = _feeding_ends(index, wanted)
    packets = iter(index.kept or (packet for packet in source.container.demux(source.video) if packet.size))
    skip: Literal["DEFAULT", "NONREF"] | None = None
    for group, end in zip(groups(index), ends, strict=True):
        if group.start >= max(ends):
            return
        due = sorted(pts for pts in index.pts[group.start : end] if pts is not None and pts in wanted.uses)
        delivered = 0
        for number in group:
            packet = next(packets, None)
            if packet is None or packet.pts != index.pts[number]:
                raise Mismatch(f"packet {number} changed between two readings")
            if number >= end:
                continue
            before, skip = skip, "DEFAULT" if packet.pts in wanted.uses else "NONREF"
            if skip != before:
                context.skip_frame = skip
            for frame in _decode(source, packet):
                if frame.pts in wanted.uses:
                    yield _checked(frame, due, delivered)
                    delivered += 1
        if end > group.start:
            for frame in context.decode(None):
                if frame.pts in wanted.uses:
                    yield _checked(frame, due, delivered)
                    delivered += 1
            context.flush_buffers()
        if delivered != len(due):
            raise Mismatch(f"{len(due) - delivered} wanted frames of the group at packet {group.start} did not come")


def _checked(frame: VideoFrame, due: list[int], delivered: int) -> tuple[int, VideoFrame]:
    if delivered >= len(due) or frame.pts != due[delivered]:
        raise Mismatch(f"a frame came out of turn at pts {frame.pts}")
    if frame.is_corrupt or frame.interlaced_frame:
        raise Mismatch(f"the frame at pts {frame.pts} is damaged or interlaced")
    return due[delivered], frame


def _feeding_ends(index: PacketIndex, wanted: Wanted) -> list[int]:
    """For each group, the packet number after its last wanted packet; the group's start where it has none."""
    numbers = [number for number, pts in enumerate(index.pts) if pts in wanted.uses]
    ends = []
    for group in groups(index):
        place = bisect_left(numbers, group.stop)
        inside = place > 0 and numbers[place - 1] >= group.start
        ends.append(numbers[place - 1] + 1 if inside else group.start)
    return ends


def _shown(source: Source) -> Iterator[VideoFrame]:
    """All frames of the plain sequential decode, in order.

    Before the first frame the decoder may lack what it refers to (a stream cut in mid-air): such packets show
    nothing. A packet that fails later is damage.
    """
    begun = False
    for packet in source.container.demux(source.video):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if not is_damage(error):
                raise
            if begun:
                raise MediaError("corrupt", f"a packet at pts {packet.pts} does not decode") from error
            continue
        for frame in frames:
            begun = True
            yield frame
    if not begun:
        raise MediaError("corrupt", "no frame of the video stream decodes")


def _decode(source: Source, packet: Packet) -> list[VideoFrame]:  # type: ignore[type-arg]
    try:
        return source.video.codec_context.decode(packet)
    except av.error.FFmpegError as error:
        if not is_damage(error):
            raise
        raise Mismatch(f"a packet at pts {packet.pts} does not decode") from error
