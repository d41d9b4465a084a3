"""Writes short films of any container through PyAV: frame n is grey 16 + 2 n, and the sound is one steady tone.

A picture thus tells its own number, and a sample of sound whether it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from pipeline.media import Audio, AudioRequest, DecodeRequest, Event, Findings, Frame, Header, StreamFailure, decode

FPS = 25
RATE = 48_000
TONE = 0.4
NO_B_FRAMES = {"preset": "ultrafast", "g": "25", "bf": "0", "crf": "10", "threads": "1", "sc_threshold": "0"}
X264 = {"preset": "ultrafast", "g": "25", "bf": "2", "crf": "10", "threads": "1", "sc_threshold": "0"}


def film(
    path: Path,
    seconds: float = 2.0,
    *,
    video: str = "libx264",
    audio: str | None = "aac",
    settings: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    fps: int = FPS,
    format: str | None = None,
    sound_from: float = 0.0,
) -> Path:
    """Encode a film; ``settings`` are those of the video encoder, ``options`` those of the muxer."""
    chosen = (X264 if video == "libx264" else {}) if settings is None else settings
    pixels = {"gif": "rgb8", "wmv2": "yuv420p"}.get(video, "yuv420p")
    with av.open(str(path), "w", format=format, options=options or {}) as output:
        picture = output.add_stream(video, rate=fps, options=chosen)
        picture.width, picture.height, picture.pix_fmt = 64, 48, pixels
        if video != "libx264":
            picture.bit_rate = 400_000
        sound = None if audio is None else output.add_stream(audio, rate=RATE, layout="mono")
        for number in range(round(seconds * fps)):
            grey = np.full((48, 64, 3), level(number), np.uint8)
            grey[:8] = np.random.default_rng(number).integers(0, 256, (8, 64, 1))  # no two packets are alike
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            output.mux(picture.encode(frame))
        output.mux(picture.encode(None))
        if sound is not None:
            times = np.arange(round(seconds * RATE)) / RATE
            wave = (TONE * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
            form = sound.codec_context.format.name
            for start in range(round(sound_from * RATE), len(wave), 960):
                block = av.AudioFrame.from_ndarray(wave[None, start : start + 960], format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
                for converted in av.AudioResampler(format=form, layout="mono", rate=RATE).resample(block):
                    output.mux(sound.encode(converted))
            output.mux(sound.encode(None))
    return path


def level(number: int) -> int:
    """Return the grey of frame ``number``."""
    return 16 + 2 * (number % 110)


def remux(source: Path, target: Path, change: Callable[[str, int, Packet], Packet | None], **options: str) -> Path:
    """Copy a film packet by packet; ``change`` is given kind, number and packet, and returns what is written.

    The film should have no B-frames: Matroska does not keep the decoding times that a muxer wants.
    """
    counts = {"video": 0, "audio": 0}
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options) as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if not packet.size:
                continue
            kind = packet.stream.type
            changed = change(kind, counts[kind], packet)
            counts[kind] += 1
            if changed is not None:
                changed.stream = streams[packet.stream_index]
                writer.mux_one(changed)
    return target


@dataclass
class Seen:
    """What one decode gave."""

    header: Header
    frames: list[Frame] = field(default_factory=list)
    audio: Audio | None = None
    findings: Findings | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        """The frame number in each slot of the first policy, read off the pictures."""
        found: dict[int, int] = {}
        for frame in self.frames:
            for policy, slots in frame.uses:
                if policy == 0:
                    grey = float(np.median(frame.rgb))
                    found |= dict.fromkeys(slots, round((grey - 16) / 2))
        return [found[slot] for slot in sorted(found)]

    @property
    def times(self) -> NDArray[np.float64]:
        """The times of the first policy's slots."""
        return self.header.samples[0].time_s

    @property
    def heard_s(self) -> float:
        """Seconds in which the tone is there: where the waveform, smoothed over 20 ms, is loud."""
        assert self.audio is not None
        square = np.convolve(self.audio.samples.astype(np.float64) ** 2, np.full(320, 1 / 320), "same")
        return float((square > (TONE / 4) ** 2).sum() / self.audio.rate)

    @property
    def claimed_s(self) -> float:
        """Seconds of sound that the segments claim."""
        assert self.audio is not None
        return sum(end - start for start, end in self.audio.segments) / self.audio.rate


def see(path: Path, n: int = 8, **request: object) -> Seen:
    """Decode ``n`` uniform frames and the sound."""
    fields: dict[str, object] = {"policies": ({"policy": "uniform", "n": n},), "audio": AudioRequest(), **request}
    seen: Seen | None = None
    for event in decode(DecodeRequest(str(path), **fields)):  # type: ignore[arg-type]  # keywords of a request
        if isinstance(event, Header):
            seen = Seen(event)
        assert seen is not None
        seen.events.append(event)
        assert not isinstance(event, StreamFailure), event
        if isinstance(event, Frame):
            seen.frames.append(event)
        elif isinstance(event, Audio):
            seen.audio = event
        elif isinstance(event, Findings):
            seen.findings = event
    assert seen is not None
    return seen
