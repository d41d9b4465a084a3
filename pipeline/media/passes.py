"""Goes through a video stream: in order, skipping what nobody needs, or listing what is displayed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Literal

import av.error
import av.logging
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.media.damage import DamageLog
from pipeline.media.errors import is_damage
from pipeline.media.frame_plan import FramePlan
from pipeline.media.packets import PacketIndex, groups
from pipeline.media.source import Source
from pipeline.media.types import MediaError

# Decoders that flag every frame in which they conceal something. The others only say so in libav's log.
_FLAGGING = frozenset({"h264"})
_FEW_FRAMES = 2  # no clock can be judged by so few


class Mismatch(Exception):
    """Raised when the decoder does not show what the packets promised; the message says where."""


def decode_in_order(source: Source, plan: FramePlan) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything in order and yield (pts, frame) of the wanted frames.

    Every frame shown is compared with the prediction, up to the first one past the last wanted.

    Raises
    ------
    Mismatch
        At the first frame that was not predicted, that is missing, or that is damaged.
    """
    last = plan.last
    if last is None:
        return
    position = 0
    for frame in _decode_all(source):
        _check_whole([frame])
        if position >= len(plan.displayed) or frame.pts != plan.displayed[position]:
            raise Mismatch(f"frame {position} is shown at pts {frame.pts}, not as the packets say")
        position += 1
        if frame.pts in plan.uses:
            yield frame.pts, frame
        if frame.pts > last:
            # What has been decoded already may refer to the wanted frames: it must be whole as well.
            with suppress(av.error.EOFError):  # the stream's end has flushed the decoder already
                _check_whole(source.video.codec_context.decode(None))
            return
    if position < len(plan.displayed):
        raise Mismatch(f"{position} frames are shown, {len(plan.displayed)} were promised")


def list_displayed(source: Source, log: DamageLog) -> list[tuple[int, int]]:
    """Decode everything and return (pts, duration) of each frame shown, in the stream's time base, ascending.

    What is damaged goes into ``log``.

    Raises
    ------
    MediaError
        ``bad_timestamps`` if the stamps do not order the frames in time.
    """
    displayed: list[tuple[int, int]] = []
    clock = _FrameClock(source)
    after_damage = False
    lost = 0
    for frame in _decode_all(source, log):
        unstamped = clock.unstamped
        pts = clock.time(frame)
        if unstamped and not clock.unstamped:  # the first stamp says when the frames before it were due
            early = pts - displayed[-1][0] - clock.gap
            displayed = [(time + early, duration) for time, duration in displayed]
        displayed.append((pts, frame.duration or 0))
        hurt = len(log.undecodable) + len(log.concealed)
        after_damage, lost = after_damage or hurt > lost, hurt
        if frame.is_corrupt:
            log.corrupt.append(pts)
            after_damage = True
        elif frame.key_frame:
            after_damage = False
        if after_damage:
            log.shown.append(pts)
    clock.check(len(displayed))
    return displayed


def retime(source: Source, first: int | None = None) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything and yield each frame shown with the timestamp that FFmpeg's tools would give it.

    Parameters
    ----------
    first
        The first frame's time, if it has no stamp and ``list_displayed`` found out.
    """
    clock = _FrameClock(source, first)
    for frame in _decode_all(source, DamageLog()):
        yield clock.time(frame), frame


class _FrameClock:
    """Gives each frame a time where the container's own are missing or do not ascend.

    Some containers (AVI) keep no presentation times, and what libav makes up for them need not ascend. As in
    libavcodec's ``guess_correct_pts``, the frame's PTS or its packet's DTS is believed, whichever has gone wrong less
    often; every frame comes at least one tick after the one before. A frame without any stamp comes when the one before
    it has been shown for as long as it lasts: its own duration, or one frame at the stream's rate.

    Attributes
    ----------
    unstamped
        Whether no frame so far had a stamp.
    gap
        How long the last frame before the first stamp was shown, in the stream's time base.
    """

    def __init__(self, source: Source, first: int | None = None) -> None:
        self._video = source.video
        self._first = first
        self.unstamped = False
        self.gap = 0
        self._only_dts = source.keeps_only_dts
        self._latest: int | None = None
        self._latest_pts: int | None = None
        self._latest_dts: int | None = None
        self._wrong_pts = self._wrong_dts = 0
        self._held = 0
        self._duration = 0

    def time(self, frame: VideoFrame) -> int:
        """Return when a frame is shown, in the stream's time base; call it for every frame, in order.

        Raises
        ------
        MediaError
            ``bad_timestamps`` if a frame has no stamp and nothing tells how long frames last.
        """
        pts, dts = None if self._only_dts else frame.pts, frame.dts
        if dts is not None:
            self._wrong_dts += self._latest_dts is not None and dts <= self._latest_dts
            self._latest_dts = dts
        if pts is not None:
            self._wrong_pts += self._latest_pts is not None and pts <= self._latest_pts
            self._latest_pts = pts
        believed = pts if pts is not None and (self._wrong_pts <= self._wrong_dts or dts is None) else dts
        if self._latest is None:
            time = (self._first or 0) if believed is None else believed
            self.unstamped = believed is None
        elif believed is None:
            time = self._latest + self._frame_ticks()
        elif self.unstamped and self._first is None:
            self.gap = self._frame_ticks()
            time = believed
            self.unstamped = False
        else:
            self._held += believed <= self._latest
            time = max(self._latest + 1, believed)
            self.unstamped = False
        self._latest, self._duration = time, frame.duration or 0
        return time

    def check(self, count: int) -> None:
        """Raise ``bad_timestamps`` if most of ``count`` frames are stamped no later than the one before them."""
        if count > _FEW_FRAMES and 2 * self._held > count:
            raise MediaError(
                "bad_timestamps", f"{self._held} of {count} frames are stamped no later than the frame before them"
            )

    def _frame_ticks(self) -> int:
        """Return for how long the frame before this one is shown."""
        if self._duration:
            return self._duration
        rate, base = self._video.average_rate or self._video.guessed_rate, self._video.time_base
        if not rate or not base:
            raise MediaError("bad_timestamps", "frames have no timestamps, and nothing tells how long they last")
        return max(1, round(1 / (Fraction(rate) * base)))


def decode_retimed(source: Source, plan: FramePlan) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything in order and yield (pts, frame) of the wanted frames, by the timestamps of ``retime``."""
    last = plan.last
    for pts, frame in retime(source, plan.displayed[0]):
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
    packets = iter(index.kept or (packet for packet in source.demux(source.video) if packet.size))
    skip: Literal["DEFAULT", "NONREF"] | None = None
    last_needed = max(ends)
    for group, end in zip(groups(index), ends, strict=True):
        if group.start >= last_needed:
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


def _check_whole(frames: Iterable[VideoFrame]) -> None:
    for frame in frames:
        if frame.is_corrupt:
            raise Mismatch(f"the frame at pts {frame.pts} is damaged")


def _decode_all(source: Source, log: DamageLog | None = None) -> Iterator[VideoFrame]:
    """Yield all frames of the plain sequential decode, in order. A packet that does not decode shows nothing.

    Raises
    ------
    Mismatch
        Without a ``log``: at a packet in which the decoder conceals something without flagging a frame.
    MediaError
        ``corrupt`` if no frame decodes.
    """
    started = False
    reason = "no frame of the video stream decodes"
    says_all = source.video.codec_context.name in _FLAGGING
    number = -1
    for packet in source.demux(source.video):
        if packet.size:
            number += 1
        elif packet.pts is not None or packet.dts is not None:
            continue  # the frame before it once more, as Theora and AVI say it; the packet at the end has no stamp
        try:
            frames, complaint = (packet.decode(), None) if says_all else _listen(packet)
        except av.error.FFmpegError as error:
            if not is_damage(error):
                raise
            if log is not None:
                log.undecodable.append(number)
            frames, complaint = [], None
            reason = f"no packet of the video stream decodes: {error.strerror}"
        if complaint is not None:
            if log is None:
                raise Mismatch(f"the decoder says of the packet at pts {packet.pts}: {complaint}")
            log.concealed.append(number)
        for frame in frames:
            started = True
            yield frame
    if not started:
        raise MediaError("corrupt", reason)


def _listen(packet: Packet[VideoStream]) -> tuple[list[VideoFrame], str | None]:
    """Decode a packet, and return what the decoder has to say about it at libav's level of errors, if anything."""
    with av.logging.Capture() as lines:
        av.logging.set_level(av.logging.ERROR)
        try:
            frames = packet.decode()
        finally:
            av.logging.set_level(None)
    return frames, lines[0][2].strip() if lines else None


def _decode_packet(source: Source, packet: Packet[VideoStream]) -> list[VideoFrame]:
    try:
        return source.video.codec_context.decode(packet)
    except av.error.FFmpegError as error:
        if not is_damage(error):
            raise
        raise Mismatch(f"a packet at pts {packet.pts} does not decode") from error
