"""Opens a file and chooses its streams; knows the time axis and the limits, but decodes nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.media.types import Limits, MediaError

# Formats that hold a film in one file. Playlists and concatenation scripts are left out: a hostile "video" could use
# them to read other files of this machine.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,ivf,obu,av1,vc1,mjpeg,"
    "gif,dv,mxf,nut,rm,wtv,yuv4mpegpipe,mp3,wav,flac,aac,ac3,aiff,amr,w64,caf"
)
MOV_FORMAT = "mov"
_REFUSED_SIZE = re.compile(r"Picture size (\d+)x(\d+) is invalid")


@dataclass(frozen=True, slots=True)
class Source:
    """One opened file.

    Attributes
    ----------
    container
        libav's container.
    video
        FFmpeg's best video stream.
    audio
        The audio stream that goes with it: FFmpeg's choice, or the best one that has a decoder; None without any.
    zero
        Presentation zero in seconds: what is subtracted from a stream's own times.
    """

    container: InputContainer
    video: VideoStream
    audio: AudioStream | None
    zero: Fraction

    def seconds(self, timestamps: Iterable[int]) -> list[float]:
        """Convert video timestamps to seconds on the axis, each correctly rounded."""
        assert self.video.time_base is not None
        scale, zero = self.video.time_base, self.zero
        factor, shift = scale.numerator * zero.denominator, zero.numerator * scale.denominator
        divisor = scale.denominator * zero.denominator
        return [(timestamp * factor - shift) / divisor for timestamp in timestamps]


@contextmanager
def open_source(path: str, limits: Limits) -> Iterator[Source]:
    """Open ``path``, choose its streams and check the limits that its headers can break.

    Raises
    ------
    MediaError
        ``no_video``, ``unsupported_codec``, ``too_large`` or ``corrupt``; libav's own errors pass through untouched.
    """
    av.logging.set_level(None)
    container = _open(path)
    try:
        video = container.streams.best("video")
        if not isinstance(video, VideoStream) or video.disposition & Disposition.attached_pic:
            raise MediaError("no_video", "the file has no video stream")
        audio = _best_audio(container, video)
        _check(path, container, video, limits)
        context = video.codec_context
        context.thread_count = 1
        context.thread_type = "NONE"
        # The decoder itself refuses what the headers understate.
        context.options = {**context.options, "max_pixels": str(limits.max_pixels)}
        yield Source(
            container=container,
            video=video,
            audio=audio,
            zero=presentation_zero(container),
        )
    finally:
        container.close()


def presentation_zero(container: InputContainer) -> Fraction:
    """Return the second of the file's own clock at which presentation begins.

    ISO-BMFF times are absolute after edit lists, so zero is 0 even when the first frame comes later. Other formats
    (MPEG-TS, Matroska cut from a stream) may start anywhere: there zero is the earliest stream's start, but never
    below 0, since what lies before 0 is priming that must not shift the rest.
    """
    if container.start_time is None or MOV_FORMAT in container.format.name.split(","):
        return Fraction(0)
    zero = Fraction(container.start_time, 1_000_000)
    for stream in container.streams:
        # The container rounds to microseconds; the stream that defines its start knows the exact time.
        if stream.start_time is not None and stream.time_base is not None:
            exact = stream.start_time * stream.time_base
            if abs(exact - zero) < Fraction(1, 1_000_000):
                zero = exact
                break
    return max(zero, Fraction(0))


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
    }


def pixel_aspect(source: Source) -> Fraction:
    """Return the width of a pixel over its height; 1 if the file does not say or says nonsense."""
    aspect = source.video.sample_aspect_ratio
    return Fraction(aspect) if aspect else Fraction(1)


def _open(path: str) -> InputContainer:
    # The prefix keeps libav from reading a name with a colon as another protocol.
    return av.open(
        f"file:{path}",
        options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
        metadata_errors="replace",
    )


def _refused_size(path: str) -> tuple[int, int] | None:
    """Return the picture size that libav itself refused as too large; it is only in libav's log."""
    with av.logging.Capture() as lines:
        av.logging.set_level(av.logging.ERROR)
        try:
            _open(path).close()
        finally:
            av.logging.set_level(None)
    matches = (_REFUSED_SIZE.search(text) for _, _, text in lines)
    return next(((int(match[1]), int(match[2])) for match in matches if match), None)


def _check(path: str, container: InputContainer, video: VideoStream, limits: Limits) -> None:
    context = video.codec_context
    if context is None:
        raise MediaError("unsupported_codec", "no decoder for the video stream")
    width, height = context.width, context.height
    if not width or not height:
        refused = _refused_size(path)
        if refused is None:
            raise MediaError("corrupt", "the video stream does not state a picture size")
        raise MediaError("too_large", f"{refused[0]}x{refused[1]} pixels, more than libav decodes")
    if width * height > limits.max_pixels:
        raise MediaError("too_large", f"{width}x{height} pixels; the limit is {limits.max_pixels} pixels")
    claimed = (container.duration or 0) / 1e6
    if video.duration is not None and video.time_base is not None:
        claimed = max(claimed, float(video.duration * video.time_base))
    check_duration(claimed, limits)


def check_duration(seconds: float, limits: Limits) -> None:
    """Raise ``too_large`` for a source that lasts longer than the limits allow."""
    if not math.isfinite(seconds) or seconds > limits.max_duration_s:
        raise MediaError("too_large", f"{seconds:.1f} s long; the limit is {limits.max_duration_s:.1f} s")
