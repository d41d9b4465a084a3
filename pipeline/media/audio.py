"""Decodes the sound of a video into one mono waveform on the video's time axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from pipeline.media.errors import is_damage
from pipeline.media.source import Source
from pipeline.media.types import Audio, AudioRequest, MediaError

# Containers round timestamps (Matroska to 1 ms) and live streams jitter; less than this is no gap.
GAP_S = 0.02
# Sound whose samples all stay below one step of 16 bits is silent.
SILENCE = 1 / 32768
# Samples that go to the resampler at once: one call costs as much as decoding a packet.
BLOCK = 1 << 15
# Sample formats of libav: numpy type, offset and scale to [-1, 1).
_FORMATS: dict[str, tuple[str, float, float]] = {
    "u8": ("u1", 128.0, 128.0),
    "s16": ("i2", 0.0, 32768.0),
    "s32": ("i4", 0.0, 2147483648.0),
    "s64": ("i8", 0.0, 9223372036854775808.0),
    "flt": ("f4", 0.0, 1.0),
    "dbl": ("f8", 0.0, 1.0),
}


@dataclass(slots=True)
class _Stretch:
    """A stretch of sound without gaps: resampled as one piece and laid down at its own start."""

    start: Fraction
    rate: int
    target_rate: int
    taken: int = 0
    fed: int = 0
    expected_s: float = 0.0
    placed: int = 0
    pending: list[NDArray[np.float32]] = field(default_factory=list)
    resampler: AudioResampler | None = None

    @property
    def end(self) -> Fraction:
        return self.start + Fraction(self.taken, self.rate)

    def take(self, mono: NDArray[np.float32], canvas: _Canvas) -> None:
        self.pending.append(mono)
        self.taken += len(mono)
        self.expected_s += len(mono) / self.rate
        if self.taken - self.fed >= BLOCK:
            self._feed(canvas)

    def _feed(self, canvas: _Canvas) -> None:
        if not self.pending:
            return
        mono = np.concatenate(self.pending)
        self.pending.clear()
        if self.rate == self.target_rate:
            self._place(mono, canvas)
        else:
            if self.resampler is None:
                self.resampler = AudioResampler(format="flt", layout="mono", rate=self.target_rate)
            frame = AudioFrame.from_ndarray(mono[None, :], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.fed, Fraction(1, self.rate)
            for block in self.resampler.resample(frame):
                self._place(block.to_ndarray()[0], canvas)
        self.fed = self.taken

    def finish(self, canvas: _Canvas) -> None:
        """Take what the resampler holds back, but no more than the sound itself lasts."""
        self._feed(canvas)
        length = round(Fraction(self.taken * self.target_rate, self.rate))
        if self.resampler is not None:
            for block in self.resampler.resample(None):
                samples = block.to_ndarray()[0]
                self._place(samples[: max(0, length - self.placed)], canvas)
        first = round(self.start * self.target_rate)
        canvas.add_segment(first, first + min(length, self.placed))

    def _place(self, samples: NDArray[np.float32], canvas: _Canvas) -> None:
        canvas.write(round(self.start * self.target_rate) + self.placed, samples)
        self.placed += len(samples)


@dataclass(slots=True)
class _Canvas:
    """The waveform being filled: float32 [S] of zeros, and the ranges that hold sound."""

    samples: NDArray[np.float32]
    segments: list[tuple[int, int]] = field(default_factory=list)

    def write(self, first: int, samples: NDArray[np.float32]) -> None:
        begin, end = max(first, 0), min(first + len(samples), len(self.samples))
        if begin < end:
            np.clip(samples[begin - first : end - first], -1.0, 1.0, out=self.samples[begin:end])

    def add_segment(self, first: int, end: int) -> None:
        first, end = max(first, 0), min(end, len(self.samples))
        if first >= end:
            return
        if self.segments and first <= self.segments[-1][1]:
            first = self.segments.pop()[0]
        self.segments.append((first, end))


def decode_audio(source: Source, request: AudioRequest, start: Fraction, duration_s: float) -> Audio:
    """Decode, mix and resample the sound of [start, start + duration).

    Channels are averaged in float before resampling; the result is clipped to [-1, 1]. Each stretch of sound is laid
    down at its own timestamp. The decoder drops priming; gaps stay zero and outside ``segments``. A packet that does
    not decode is a gap.

    Raises
    ------
    MediaError
        ``no_audio`` if there is no sound and the request says ``fail``; ``unsupported_codec``; ``corrupt`` if no packet
        decodes.
    """
    canvas = _Canvas(np.zeros(max(0, round(duration_s * request.rate)), dtype=np.float32))
    if source.audio is None:
        if request.absent == "fail":
            raise MediaError("no_audio", "the file has no audio stream")
        return Audio(canvas.samples, request.rate, (), "absent", {"stream": None})
    if source.audio.codec_context is None:
        raise MediaError("unsupported_codec", "no decoder for any audio stream")
    failures: list[str] = []
    stretch: _Stretch | None = None
    origin = float(source.zero + start)
    for frame in _frames(source, failures, start + Fraction(duration_s)):
        mono = mix(frame)
        if stretch is None or not _continues(frame, stretch, origin):
            begin = _begin(frame, source, start, stretch)
            if stretch is not None:
                stretch.finish(canvas)
                # What overlaps the sound already laid down is dropped: the earlier samples stay.
                overlap = max(Fraction(0), stretch.end - begin)
                mono = mono[min(len(mono), round(overlap * frame.sample_rate)) :]
                if not len(mono):
                    raise MediaError("corrupt", f"the timestamps of the sound step back by {float(overlap):.3f} s")
                begin += overlap
            stretch = _Stretch(begin, frame.sample_rate, request.rate, expected_s=float(begin))
        stretch.take(mono, canvas)
    if stretch is not None:
        stretch.finish(canvas)
    if stretch is None and failures:
        raise MediaError("corrupt", f"no packet of the audio stream decodes: {failures[0]}")
    return _result(canvas, source, request, len(failures))


def mix(frame: AudioFrame) -> NDArray[np.float32]:
    """Return the mean of the channels, float32 [S]; integers are scaled to [-1, 1)."""
    dtype, offset, scale = _FORMATS[frame.format.packed.name]
    channels = frame.layout.nb_channels
    if frame.format.is_planar:
        total = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples).astype(np.float64)
        for plane in frame.planes[1:]:
            total += np.frombuffer(memoryview(plane), dtype, frame.samples)
    else:
        packed = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * channels)
        total = packed.reshape(-1, channels).sum(axis=1, dtype=np.float64)
    mono: NDArray[np.float32] = ((total / channels - offset) / scale).astype(np.float32)
    return mono


def _frames(source: Source, failures: list[str], end: Fraction) -> Iterator[AudioFrame]:
    """Yield decoded frames until one starts at or after ``end``, in seconds of the source's axis."""
    audio = source.audio
    assert audio is not None and audio.time_base is not None
    stop = (end + source.zero) / audio.time_base
    stop_pts = int(stop) if stop == int(stop) else int(stop) + 1
    for packet in source.container.demux(audio):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if not is_damage(error):
                raise
            failures.append(str(error.strerror))
            continue
        for frame in frames:
            if frame.pts is not None and frame.pts >= stop_pts:
                return
            yield frame


def _continues(frame: AudioFrame, stretch: _Stretch, origin: float) -> bool:
    """Return whether the frame follows the stretch without a gap; in floats, since this runs once per frame."""
    if frame.sample_rate != stretch.rate:
        return False
    return frame.time is None or abs(frame.time - origin - stretch.expected_s) <= GAP_S


def _begin(frame: AudioFrame, source: Source, start: Fraction, stretch: _Stretch | None) -> Fraction:
    """Return when the frame begins on the request's axis; one without a timestamp follows the one before it."""
    if frame.pts is None or frame.time_base is None:
        return stretch.end if stretch is not None else -start
    return frame.pts * frame.time_base - source.zero - start


def _result(canvas: _Canvas, source: Source, request: AudioRequest, failures: int) -> Audio:
    audio = source.audio
    assert audio is not None
    context = audio.codec_context
    record: dict[str, Any] = {
        "stream": audio.index,
        "codec": context.name,
        "rate": context.sample_rate,
        "channels": context.layout.nb_channels,
        "layout": context.layout.name,
        "resampler": "swresample " + ".".join(map(str, av.library_versions["libswresample"])),
        "failed_packets": failures,
    }
    if not canvas.segments:
        if request.absent == "fail":
            raise MediaError("no_audio", "the audio stream holds no sound in the wanted time")
        return Audio(canvas.samples, request.rate, (), "absent", record)
    silent = max(float(canvas.samples.max()), -float(canvas.samples.min())) < SILENCE
    return Audio(canvas.samples, request.rate, tuple(canvas.segments), "silent" if silent else "present", record)
