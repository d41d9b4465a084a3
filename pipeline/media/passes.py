"""Goes through a video stream: in order, skipping what nobody needs, or listing what is displayed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Literal

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.media.errors import is_damage
from pipeline.media.frame_plan import FramePlan
from pipeline.media.packets import PacketIndex, groups
from pipeline.media.source import Source
from pipeline.media.types import MediaError


class Mismatch(Exception):
    """Raised when the decoder does not show what the packets promised; the message says where."""


def decode_in_order(source: Source, plan: FramePlan) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything in order and yield (pts, frame) of the wanted frames.

    Every frame shown is compared with the prediction, up to the first one past the last wanted.

    Raises
    ------
    Mismatch
        At the first frame that was not predicted, or that is missing.
    """
    last = plan.last
    if last is None:
        return
    position = 0
    for frame in _decode_all(source):
        if position >= len(plan.displayed) or frame.pts != plan.displayed[position]:
            raise Mismatch(f"frame {position} is shown at pts {frame.pts}, not as the packets say")
        position += 1
        if frame.pts in plan.uses:
            yield frame.pts, frame
        if frame.pts > last:
            return
    if position < len(plan.displayed):
        raise Mismatch(f"{position} frames are shown, {len(plan.displayed)} were promised")


def list_displayed(source: Source) -> list[tuple[int, int]]:
    """Decode everything and return (pts, duration) of each frame shown, in the stream's time base, ascending."""
    return [(pts, frame.duration or 0) for pts, frame in retime(source)]


def retime(source: Source) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything and yield each frame shown with the timestamp that FFmpeg's tools would give it.

    Some containers (AVI) keep no presentation times, and what libav makes up for them need not ascend. As in
    libavcodec's ``guess_correct_pts``, the frame's PTS or its packet's DTS is believed, whichever has gone wrong less
    often; every frame comes at least one tick after the one before.
    """
    latest = latest_pts = latest_dts = None
    wrong_pts = wrong_dts = 0
    for frame in _decode_all(source):
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            if latest_dts is not None and dts <= latest_dts:
                wrong_dts += 1
            latest_dts = dts
        if pts is not None:
            if latest_pts is not None and pts <= latest_pts:
                wrong_pts += 1
            latest_pts = pts
        believed = pts if pts is not None and (wrong_pts <= wrong_dts or dts is None) else dts
        if latest is None:
            latest = believed or 0
        else:
            latest = max(latest + 1, latest if believed is None else believed)
        yield latest, frame


def decode_retimed(source: Source, plan: FramePlan) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything in order and yield (pts, frame) of the wanted frames, by the timestamps of ``retime``."""
    last = plan.last
    for pts, frame in retime(source):
        if pts in plan.uses:
            yield pts, frame
        if last is None or pts >= last:
            return


def decode_skipping(source: Source, plan: FramePlan, index: PacketIndex) -> Iterator[tuple[int, VideoFrame]]:
    """Decode only what wanted frames need and yield (pts, frame) of the wanted ones.

    Groups of pictures without a wanted frame are not decoded; inside a group, nothing after the last wanted packet is,
    and of the unwanted frames only those that others refer to. Pixels are those of a plain decode because every group
    begins with an IDR picture and no other frame refers to a skipped one. Frames are known by their PTS alone.

    Raises
    ------
    Mismatch
        Whenever a group does not deliver exactly its wanted frames, once each, whole and progressive.
    """
    context = source.video.codec_context
    ends = _needed_ends(index, plan)
    packets = iter(index.kept or (packet for packet in source.container.demux(source.video) if packet.size))
    skip: Literal["DEFAULT", "NONREF"] | None = None
    for group, end in zip(groups(index), ends, strict=True):
        if group.start >= max(ends):
            return
        due = sorted(pts for pts in index.pts[group.start : end] if pts is not None and pts in plan.uses)
        delivered = 0
        for number in group:
            packet = next(packets, None)
            if packet is None or packet.pts != index.pts[number]:
                raise Mismatch(f"packet {number} changed between two readings")
            if number >= end:
                continue
            before, skip = skip, "DEFAULT" if packet.pts in plan.uses else "NONREF"
            if skip != before:
                context.skip_frame = skip
            for frame in _decode_packet(source, packet):
                if frame.pts in plan.uses:
                    yield _check_turn(frame, due, delivered)
                    delivered += 1
        if end > group.start:
            for frame in context.decode(None):
                if frame.pts in plan.uses:
                    yield _check_turn(frame, due, delivered)
                    delivered += 1
            context.flush_buffers()
        if delivered != len(due):
            raise Mismatch(f"{len(due) - delivered} wanted frames of the group at packet {group.start} did not come")


def _check_turn(frame: VideoFrame, due: list[int], delivered: int) -> tuple[int, VideoFrame]:
    if delivered >= len(due) or frame.pts != due[delivered]:
        raise Mismatch(f"a frame came out of turn at pts {frame.pts}")
    if frame.is_corrupt or frame.interlaced_frame:
        raise Mismatch(f"the frame at pts {frame.pts} is damaged or interlaced")
    return due[delivered], frame


def _needed_ends(index: PacketIndex, plan: FramePlan) -> list[int]:
    """Return, for each group, the packet number after its last wanted packet, or the group's start if it has none."""
    numbers = [number for number, pts in enumerate(index.pts) if pts in plan.uses]
    ends = []
    for group in groups(index):
        place = bisect_left(numbers, group.stop)
        inside = place > 0 and numbers[place - 1] >= group.start
        ends.append(numbers[place - 1] + 1 if inside else group.start)
    return ends


def _decode_all(source: Source) -> Iterator[VideoFrame]:
    """Yield all frames of the plain sequential decode, in order.

    Before the first frame the decoder may lack what it refers to (a stream cut in mid-air): such packets show
    nothing. A packet that fails later is damage.
    """
    started = False
    for packet in source.container.demux(source.video):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if not is_damage(error):
                raise
            if started:
                raise MediaError("corrupt", f"a packet at pts {packet.pts} does not decode") from error
            continue
        for frame in frames:
            started = True
            yield frame
    if not started:
        raise MediaError("corrupt", "no frame of the video stream decodes")


def _decode_packet(source: Source, packet: Packet[VideoStream]) -> list[VideoFrame]:
    try:
        return source.video.codec_context.decode(packet)
    except av.error.FFmpegError as error:
        if not is_damage(error):
            raise
        raise Mismatch(f"a packet at pts {packet.pts} does not decode") from error
