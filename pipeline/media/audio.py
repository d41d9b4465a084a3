"""Decodes the sound of a video into one mono waveform on the video's time axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from pipeline.media.types import Audio, AudioRequest, MediaError, audio_state

TOLERANCE_S = 0.1
"""Seconds by which a frame's stamp may be off and the sound still be continuous, as FFmpeg's ``min_hard_comp``."""
SETTLED_S = 1.0
"""Seconds of sound that must stay off before it is laid down anew where its stamps say."""
SEEK_FROM_S = 30
"""A clip that begins later is not decoded from the start of the file, but from a little before the clip."""
_PREROLL_S = 10
_BEYOND_S = 5.0  # of sound that claims to lie beyond the end before it is believed
_MARGIN_S = Fraction(1, 4)  # of sound beyond what is wanted, for the resampler to look ahead
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
    """The waveform being filled: float32 [S] of zeros, and the ranges that hold sound, ascending and disjoint."""

    samples: NDArray[np.float32]
    segments: list[tuple[int, int]] = field(default_factory=list)

    def write(self, first: int, samples: NDArray[np.float32]) -> None:
        """Lay samples down from ``first`` on, wherever no finished stretch lies."""
        for begin, end in self._free(max(first, 0), min(first + len(samples), len(self.samples))):
            np.clip(samples[begin - first : end - first], -1.0, 1.0, out=self.samples[begin:end])

    def _free(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        for start, stop in self.segments:
            if begin < min(start, end):
                yield begin, min(start, end)
            begin = max(begin, stop)
        if begin < end:
            yield begin, end

    def add_segment(self, first: int, end: int) -> None:
        """Note that a stretch is finished."""
        first, end = max(first, 0), min(end, len(self.samples))
        if first >= end:
            return
        merged: list[tuple[int, int]] = []
        for start, stop in sorted([*self.segments, (first, end)]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            else:
                merged.append((start, stop))
        self.segments = merged


class _Placer:
    """Lays decoded frames down where they belong.

    A stamp within ``TOLERANCE_S`` of where the sound so far ends continues it: containers round, live streams jitter,
    recorders stamp packets when they arrive. Frames further off are held back. If the stamps return to where the
    samples lead, nothing was wrong with the sound; if they stay off for ``SETTLED_S``, a new stretch begins at the
    first of them, and what is already laid down stays.
    """

    def __init__(self, canvas: _Canvas, source: Source, rate: int, start: Fraction) -> None:
        self._canvas = canvas
        self._zero = source.zero + start
        self._rate = rate
        self._stretch: _Stretch | None = None
        self._held: list[_Block] = []
        self._held_s = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether no sound came at all."""
        return self._stretch is None

    def take(self, frame: AudioFrame) -> None:
        """Take the next frame of the decoder."""
        mono = mix(frame)
        if len(mono):
            begin = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base - self._zero
            self._place(_Block(mono, frame.sample_rate, begin))

    def finish(self) -> None:
        """Lay down what is held back."""
        while self._held:
            self._settle()
        if self._stretch is not None:
            self._stretch.finish(self._canvas)

    def _place(self, block: _Block) -> None:
        stretch = self._stretch
        if stretch is None:
            self._begin(block, Fraction(0))
        elif block.rate != stretch.rate:
            while self._held:
                self._settle()
            self._begin(block, self._stretch.end if self._stretch is not None else Fraction(0))
        elif self._continues(block, stretch):
            for held in self._held:
                stretch.take(held.mono, self._canvas)
            self._held, self._held_s = [], 0.0
            stretch.take(block.mono, self._canvas)
        else:
            self._held.append(block)
            self._held_s += block.seconds
            if self._held_s >= SETTLED_S:
                self._settle()

    def _continues(self, block: _Block, stretch: _Stretch) -> bool:
        """Whether the block begins where the samples so far lead, those held back among them."""
        if block.begin is None:
            return not self._held
        return abs(float(block.begin) - stretch.expected_s - self._held_s) <= TOLERANCE_S

    def _settle(self) -> None:
        """Begin a new stretch with the first block that is held back, and see what that makes of the others."""
        first, *others = self._held
        self._held, self._held_s = [], 0.0
        self._begin(first, Fraction(0))
        for block in others:
            self._place(block)

    def _begin(self, block: _Block, follows: Fraction) -> None:
        """Begin a new stretch where the block's stamp says, or, if it has none, where it follows."""
        begin = follows if block.begin is None else block.begin
        if self._stretch is not None:
            self._stretch.finish(self._canvas)
        self._stretch = _Stretch(begin, block.rate, self._rate, expected_s=float(begin))
        self._stretch.take(block.mono, self._canvas)


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """One decoded frame: float32 [S], its rate, and when it says that it begins."""

    mono: NDArray[np.float32]
    rate: int
    begin: Fraction | None

    @property
    def seconds(self) -> float:
        return len(self.mono) / self.rate


def decode_audio(source: Source, request: AudioRequest, start: Fraction, duration_s: float) -> list[Audio]:
    """Decode, mix and resample the sound of [start, start + duration), as far as the request reaches, to each rate.

    Channels are averaged in float before resampling; the result is clipped to [-1, 1]. Each stretch of sound is laid
    down at its own timestamp. The decoder drops priming; gaps stay zero and outside ``segments``. A packet that does
    not decode is a gap.

    Raises
    ------
    MediaError
        ``no_audio`` if there is no sound and the request says ``fail``; ``unsupported_codec``; ``corrupt`` if no packet
        decodes.
    """
    if source.audio is None:
        return absent_audio(request, duration_s, "the file has no audio stream")
    canvases = [_Canvas(_silence(request, rate, duration_s)) for rate in request.rates]
    if source.audio.codec_context is None:
        raise MediaError("unsupported_codec", "no decoder for any audio stream")
    failures: list[_FailedPacket] = []
    end = start + Fraction(duration_s)
    if request.reach_s is not None:
        end = min(end, start + Fraction(request.reach_s) + _MARGIN_S)
    placers = [_Placer(canvas, source, rate, start) for canvas, rate in zip(canvases, request.rates, strict=True)]
    for frame in _frames(source, failures, start, end):
        for placer in placers:
            placer.take(frame)
    for placer in placers:
        placer.finish()
    if placers[0].is_empty and failures:
        raise MediaError("corrupt", f"no packet of the audio stream decodes: {failures[0].reason}")
    zero = source.zero + start
    return [
        _result(canvas, source, request, rate, _damaged_ranges(failures, zero, rate, canvas))
        for canvas, rate in zip(canvases, request.rates, strict=True)
    ]


def absent_audio(request: AudioRequest, duration_s: float, reason: str) -> list[Audio]:
    """Return the sound of a source that has none, at each rate.

    Raises
    ------
    MediaError
        ``no_audio`` with the reason if the request says ``fail``.
    """
    if request.absent == "fail":
        raise MediaError("no_audio", reason)
    return [Audio(_silence(request, rate, duration_s), rate, (), "absent", {"stream": None}) for rate in request.rates]


def _silence(request: AudioRequest, rate: int, duration_s: float) -> NDArray[np.float32]:
    """Return zeros, float32 [S], for the part of a source of this length that the request reaches over."""
    length_s = duration_s if request.reach_s is None else min(duration_s, request.reach_s)
    return np.zeros(max(0, round(length_s * rate)), dtype=np.float32)


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


@dataclass(frozen=True, slots=True)
class _FailedPacket:
    """A packet that does not decode: its time on the file's clock and its length in seconds, and libav's words."""

    time_s: Fraction | None
    seconds: Fraction
    reason: str


def _frames(source: Source, failures: list[_FailedPacket], start: Fraction, end: Fraction) -> Iterator[AudioFrame]:
    """Yield the decoded frames that begin before ``end``, in seconds of the source's axis.

    A stray stamp ends nothing: reading goes on until the sound has stayed beyond the end for some seconds. For a clip
    that begins late, decoding begins a little before it.
    """
    audio = source.audio
    assert audio is not None and audio.time_base is not None
    stop = (end + source.zero) / audio.time_base
    stop_pts = int(stop) if stop == int(stop) else int(stop) + 1
    first_pts = int((start - _PREROLL_S + source.zero) / audio.time_base) if start > SEEK_FROM_S else None
    beyond: list[AudioFrame] = []
    beyond_s = 0.0
    for packet in source.demux(audio):
        if first_pts is not None and packet.size:
            if packet.pts is not None and packet.pts < first_pts:
                continue
            first_pts = None
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if not is_damage(error):
                raise
            time_s = None if packet.pts is None else packet.pts * audio.time_base
            seconds = Fraction(packet.duration or 0) * audio.time_base
            failures.append(_FailedPacket(time_s, seconds, str(error.strerror)))
            continue
        for frame in frames:
            if frame.pts is not None and frame.pts >= stop_pts:
                beyond.append(frame)
                beyond_s += frame.samples / frame.sample_rate
                if beyond_s >= _BEYOND_S:
                    return
                continue
            yield from beyond
            beyond, beyond_s = [], 0.0
            yield frame


def _damaged_ranges(
    failures: Sequence[_FailedPacket], zero: Fraction, rate: int, canvas: _Canvas
) -> tuple[tuple[int, int], ...]:
    """Return the sample ranges of the packets that do not decode, as far as they lie on the canvas."""
    ranges = []
    for failure in failures:
        if failure.time_s is not None:
            begin = round((failure.time_s - zero) * rate)
            end = max(begin + 1, round((failure.time_s + failure.seconds - zero) * rate))
            if begin < len(canvas.samples) and end > 0:
                ranges.append((max(begin, 0), min(end, len(canvas.samples))))
    return tuple(sorted(ranges))


def _result(
    canvas: _Canvas, source: Source, request: AudioRequest, rate: int, damaged: tuple[tuple[int, int], ...]
) -> Audio:
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
        "failed_packets": len(damaged),
    }
    if not canvas.segments and request.absent == "fail":
        raise MediaError("no_audio", "the audio stream holds no sound in the wanted time")
    segments = tuple(canvas.segments)
    return Audio(canvas.samples, rate, segments, audio_state(canvas.samples, segments), record, damaged)
