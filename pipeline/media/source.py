"""Opens a file and chooses its streams; knows the time axis and the limits, but decodes nothing."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from io import RawIOBase
from typing import Any, TypeVar, cast

import av
import av.error
import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.media import picture
from pipeline.media.claims import codec_delays, edit_list_start
from pipeline.media.clock import NO_LEAPS, Clock
from pipeline.media.inputs import LOCAL, Files
from pipeline.media.types import Limits, MediaError

# Formats that hold a film in one file. Playlists and concatenation scripts are left out: a hostile "video" could use
# them to read other files of this machine.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,ivf,obu,av1,vc1,mjpeg,"
    "gif,dv,mxf,nut,rm,wtv,yuv4mpegpipe,mp3,wav,flac,aac,ac3,aiff,amr,w64,caf"
)
MOV_FORMAT = "mov"
# Formats without a header: a stream is known only once its first packet has come by.
_HEADERLESS = frozenset({"mpegts", "mpeg", "flv", "live_flv", "wtv"})
_DTS_ONLY = frozenset({"avi", "asf"})
_WIDE_WINDOW = {"analyzeduration": str(4 * 3600 * 1_000_000), "probesize": str(128 << 20)}
_DISCONTINUOUS = 0x200  # libavformat's AVFMT_TS_DISCONT
PRIMING_S = Fraction(1, 4)
"""Sound that begins at most this long before 0 is priming of its decoder and moves no zero."""
_LATEST_START_S = 1  # how far behind its edit list a stream may begin before its clock is that of a broadcast
_REFUSED_SIZE = re.compile(r"Picture size (\d+)x(\d+) is invalid")
# What a file under a video's name may be instead, by its first bytes.
_OTHER_KINDS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat version", "a list of other files"),
    (b"v=0", "a description of a stream"),
    (b"<", "a web page or XML"),
    (b"{", "JSON"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)


_Stream = TypeVar("_Stream", bound=VideoStream | AudioStream)


@dataclass(frozen=True, slots=True)
class Source:
    """One opened file.

    Attributes
    ----------
    path, limits, files
        What it was opened with.
    container
        libav's container.
    video
        FFmpeg's best video stream.
    audio
        The audio stream that goes with it: FFmpeg's choice, or the best one that has a decoder; None without any.
    zero
        Presentation zero in seconds: what is subtracted from a stream's own times.
    clock
        What is added to the stamps of the packets, so that they are one clock.
    """

    path: str
    limits: Limits
    container: InputContainer
    video: VideoStream
    audio: AudioStream | None
    zero: Fraction
    clock: Clock
    files: Files = LOCAL

    def on(self, clock: Clock) -> Source:
        """Return the same open file on the clock that its packets were found to keep."""
        return replace(self, clock=clock, zero=self.zero + clock.start_s)

    def demux(self, *streams: _Stream) -> Iterator[Packet[_Stream]]:
        """Yield the packets of some streams on the one clock; an empty packet ends each stream."""
        packets = self._read(*streams)
        if not any(stream.index in self.clock.shifts for stream in streams):
            yield from packets
            return
        counts = dict.fromkeys((stream.index for stream in streams), 0)
        for packet in packets:
            if not packet.size:  # no picture and no sound of its own; the one at the end does not know its stream
                yield packet
                continue
            shift = self.clock.shift(packet.stream_index, counts[packet.stream_index])
            counts[packet.stream_index] += 1
            if shift:
                ticks = round(shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet

    def _read(self, *streams: _Stream) -> Iterator[Packet[_Stream]]:
        """Yield packets as PyAV does, but pass over those of streams that appear in mid-file: PyAV raises at them."""
        while True:
            try:
                yield from cast("Iterator[Packet[_Stream]]", self.container.demux(*streams))
            except IndexError:  # the packet that raised it is consumed: reading goes on behind it
                continue
            return

    @property
    def is_discontinuous(self) -> bool:
        """Whether the format says that its clock may leap."""
        return bool(int(self.container.format.flags) & _DISCONTINUOUS)

    @property
    def keeps_only_dts(self) -> bool:
        """Whether the container keeps no presentation times and frames are reordered: libav makes the times up."""
        reorders = self.video.codec_context.reorder_depth > 0
        return reorders and not _DTS_ONLY.isdisjoint(self.container.format.name.split(","))

    @property
    def dump_zero(self) -> Fraction:
        """What FFmpeg's command line subtracts from all times when it writes the pictures alone, in seconds.

        The start of the container, in microseconds; where the clock may leap, that of the streams in use, here the
        video (``open_input_file`` and ``correct_input_start_times`` of FFmpeg 5.1).
        """
        start = Fraction(self.container.start_time or 0, 1_000_000)
        if "matroska" in self.container.format.name:
            # Up to release 5.1 the start of sound in Matroska had the codec's delay taken off.
            for stream, delay in zip(self.container.streams, codec_delays(self.path, self.files), strict=False):
                if stream.type == "audio" and stream.start_time is not None and stream.time_base is not None:
                    ticks = math.floor(delay / stream.time_base + Fraction(1, 2))
                    start = min(start, (stream.start_time - ticks) * stream.time_base) if ticks else start
        if self.is_discontinuous and self.video.start_time is not None and self.video.time_base is not None:
            own = Fraction(math.floor(self.video.start_time * self.video.time_base * 1_000_000), 1_000_000)
            return max(start, own)
        return start

    def seconds(self, timestamps: Iterable[int]) -> list[float]:
        """Convert video timestamps to seconds on the axis, each correctly rounded."""
        assert self.video.time_base is not None
        scale, zero = self.video.time_base, self.zero
        factor, shift = scale.numerator * zero.denominator, zero.numerator * scale.denominator
        divisor = scale.denominator * zero.denominator
        return [(timestamp * factor - shift) / divisor for timestamp in timestamps]


@contextmanager
def open_source(path: str, limits: Limits, clock: Clock = NO_LEAPS, files: Files = LOCAL) -> Iterator[Source]:
    """Open ``path``, choose its streams and check the limits that its headers can break.

    Parameters
    ----------
    clock
        What the first pass found out about the stamps.
    files
        Opens it.

    Raises
    ------
    MediaError
        ``no_video``, ``unsupported_codec``, ``too_large`` or ``corrupt``; libav's own errors pass through untouched.
    """
    av.logging.set_level(None)
    av.logging.set_skip_repeated(False)  # a second packet may be damaged in the very same way
    container, file = _open_wide_if_needed(path, files)
    try:
        video = container.streams.best("video")
        if not isinstance(video, VideoStream) or video.disposition & Disposition.attached_pic:
            raise MediaError("no_video", "the file has no video stream")
        audio = _best_audio(container, video)
        _check(path, files, container, video, limits)
        context = video.codec_context
        context.thread_count = 1
        context.thread_type = "NONE"
        # The decoder itself refuses what the headers understate.
        context.options = {**context.options, "max_pixels": str(limits.max_pixels)}
        zero = presentation_zero(container, path, files)
        yield Source(path, limits, container, video, audio, zero, NO_LEAPS, files).on(clock)
    finally:
        container.close()
        file.close()


def presentation_zero(container: InputContainer, path: str, files: Files = LOCAL) -> Fraction:
    """Return the second of the file's own clock at which presentation begins.

    That is where the earliest stream begins, with two exceptions. In ISO-BMFF it is 0 if an edit list places the
    streams: whatever it leaves empty at the front belongs to the presentation. And sound that begins up to a quarter of
    a second before 0 is priming. ``docs/facts/media.md`` derives the rule.
    """
    starts: list[Fraction] = []
    for stream in container.streams:
        if stream.start_time is None or stream.time_base is None or stream.type not in ("video", "audio"):
            continue
        if stream.disposition & Disposition.attached_pic:
            continue
        start = stream.start_time * stream.time_base
        starts.append(Fraction(0) if stream.type == "audio" and -PRIMING_S <= start < 0 else start)
    zero = min(starts, default=Fraction(0))
    if MOV_FORMAT in container.format.name.split(",") and zero:
        edited = edit_list_start(path, files)
        if edited is not None and zero <= edited + _LATEST_START_S:
            return Fraction(0)
    return zero


def _best_audio(container: InputContainer, video: VideoStream) -> AudioStream | None:
    """Choose the audio stream that goes with the video.

    FFmpeg's own choice does not ask for a decoder. If it has none, the next best stream that has one is taken: a
    default stream before others, then the one of the highest bit rate, then the first.
    """
    chosen = container.streams.best("audio", related=video)
    if not isinstance(chosen, AudioStream):
        return None
    decodable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if chosen.codec_context is not None or not decodable:
        return chosen
    return min(
        decodable,
        key=lambda stream: (
            not stream.disposition & Disposition.default,
            -(stream.codec_context.bit_rate or 0),
            stream.index,
        ),
    )


def rewind(source: Source) -> bool:
    """Go back to the first packet if that is exact, and return whether it was.

    It is in ISO-BMFF, whose index holds every packet.
    """
    if MOV_FORMAT not in source.container.format.name.split(",") or not len(source.video.index_entries):
        return False
    first = min(entry.timestamp for entry in source.video.index_entries)
    source.container.seek(first, stream=source.video, backward=True)
    return True


def describe_source(source: Source) -> dict[str, Any]:
    """Return what the media record says about the file, JSON-able; the first picture adds its own part."""
    container, video = source.container, source.video
    context = video.codec_context
    return {
        "format": container.format.name,
        "video_stream": video.index,
        "audio_stream": None if source.audio is None else source.audio.index,
        "codec": context.codec.canonical_name,
        "decoder": context.name,
        "profile": video.profile,
        "coded_width": context.coded_width or context.width,
        "coded_height": context.coded_height or context.height,
        "width": context.width,
        "height": context.height,
        "frame_rate": None if video.average_rate is None else float(video.average_rate),
        "claimed_frames": video.frames,
        "claimed_duration_s": None if container.duration is None else container.duration / 1e6,
        "zero_s": float(source.zero),
        "clock_leaps": source.clock.leaps,
    }


def pixel_aspect(source: Source) -> Fraction:
    """Return the width of a pixel over its height; 1 if the file does not say or says nonsense."""
    aspect = source.video.sample_aspect_ratio
    return Fraction(aspect) if aspect else Fraction(1)


def _open_wide_if_needed(path: str, files: Files) -> tuple[InputContainer, RawIOBase]:
    """Open a file; once more, with a wide probing window, if a stream was not found or not understood in libav's."""
    container, file = _open(path, files)
    if not _is_incomplete(container):
        return container, file
    container.close()
    file.close()
    return _open(path, files, _WIDE_WINDOW)


def _is_incomplete(container: InputContainer) -> bool:
    """Return whether a stream lacks parameters, or a format without a header has shown only one kind of stream."""
    for video in container.streams.video:
        if video.codec_context is not None and not (video.codec_context.width and video.codec_context.height):
            return True
    for audio in container.streams.audio:
        sound = audio.codec_context
        if sound is not None and not (sound.sample_rate and sound.layout.nb_channels):
            return True
    if not _HEADERLESS.intersection(container.format.name.split(",")):
        return False
    return not (container.streams.video and container.streams.audio)


def _open(path: str, files: Files, window: dict[str, str] | None = None) -> tuple[InputContainer, RawIOBase]:
    """Open a file, and libav on it: whatever else its bytes name, libav may open nothing."""
    file = files.open(path)
    try:
        options = {"protocol_whitelist": "none", "format_whitelist": FORMATS, **(window or {})}
        return av.open(file, "r", options=options, metadata_errors="replace"), file
    except av.error.FFmpegError as error:
        file.close()
        # libav refuses a format that is not on the list with EINVAL, and what it does not know as invalid data.
        is_unknown = error.errno == errno.EINVAL or isinstance(error, av.error.InvalidDataError)
        kind = _other_kind(path, files) if is_unknown else ""
        if kind or error.errno == errno.EINVAL:
            described = kind or "in a format that is not that of a video"
            raise MediaError("unsupported_codec", f"the file is {described}") from error
        raise


def _other_kind(path: str, files: Files) -> str:
    """Return what a file is if its first bytes tell that it is no video; else nothing."""
    with files.open(path) as file:
        head = (file.read(512) or b"").removeprefix(b"\xef\xbb\xbf").lstrip()
    image = picture.image_kind(head)
    if image is not None:
        return f"a {image.name} picture"
    return next((kind for magic, kind in _OTHER_KINDS if head.startswith(magic)), "")


def _refused_size(path: str, files: Files) -> tuple[int, int] | None:
    """Return the picture size that libav itself refused as too large; it is only in libav's log."""
    with av.logging.Capture() as lines:
        av.logging.set_level(av.logging.ERROR)
        try:
            container, file = _open(path, files)
            container.close()
            file.close()
        finally:
            av.logging.set_level(None)
    matches = (_REFUSED_SIZE.search(text) for _, _, text in lines)
    return next(((int(match[1]), int(match[2])) for match in matches if match), None)


def _check(path: str, files: Files, container: InputContainer, video: VideoStream, limits: Limits) -> None:
    context = video.codec_context
    if context is None:
        raise MediaError("unsupported_codec", "no decoder for the video stream")
    width, height = context.width, context.height
    if not width or not height:
        refused = _refused_size(path, files)
        if refused is None:
            raise MediaError("unsupported_codec", "the video stream does not state a picture size")
        raise MediaError("too_large", f"{refused[0]}x{refused[1]} pixels, more than libav decodes")
    if width * height > limits.max_pixels:
        raise MediaError("too_large", f"{width}x{height} pixels; the limit is {limits.max_pixels} pixels")
    if int(container.format.flags) & _DISCONTINUOUS:
        return  # their duration is a difference of two stamps, which the clock may have leapt between
    claimed = (container.duration or 0) / 1e6
    if video.duration is not None and video.time_base is not None:
        claimed = max(claimed, float(video.duration * video.time_base))
    check_duration(claimed, limits)


def check_duration(seconds: float, limits: Limits) -> None:
    """Raise ``too_large`` for a source that lasts longer than the limits allow."""
    if not math.isfinite(seconds) or seconds > limits.max_duration_s:
        raise MediaError("too_large", f"{seconds:.1f} s long; the limit is {limits.max_duration_s:.1f} s")
