"""Generate small videos: H.264 with B-frames and AAC sound, encoded with PyAV alone.

The clips show coloured shapes that move over a drifting gradient while one tone per shape plays. Every frame differs
from every other, so a wrong frame, a wrong second of sound or swapped colours can be detected.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

SAMPLE_RATE = 44_100
AUDIO_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """One moving shape and its tone."""

    kind: str
    """``disc``, ``square`` or ``diamond``."""
    rgb: tuple[int, int, int]
    radius: float
    """In fractions of the picture's height."""
    start: tuple[float, float]
    """Phase of the motion at 0 s, across and down, in cycles."""
    cycles_per_second: tuple[float, float]
    """Frequency of the motion, across and down."""
    tone_hz: float


def shapes_of(seed: int, count: int = 3) -> tuple[Shape, ...]:
    """Choose the shapes of a clip at random; the same seed gives the same shapes."""
    rng = np.random.default_rng(seed)
    shapes = []
    for _ in range(count):
        red, green, blue = (int(value) for value in rng.integers(40, 256, size=3))
        shapes.append(
            Shape(
                kind=str(rng.choice(["disc", "square", "diamond"])),
                rgb=(red, green, blue),
                radius=float(rng.uniform(0.08, 0.18)),
                start=(float(rng.uniform()), float(rng.uniform())),
                cycles_per_second=(float(rng.uniform(0.05, 0.3)), float(rng.uniform(0.05, 0.3))),
                tone_hz=float(rng.uniform(200.0, 1200.0)),
            )
        )
    return tuple(shapes)


def render(shapes: tuple[Shape, ...], time_s: float, width: int, height: int) -> NDArray[np.uint8]:
    """Draw one picture.

    Returns
    -------
    uint8 [height, width, 3]
        RGB, the shapes in order over a gradient that drifts with time.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(height)
    picture = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        picture[..., channel] = 96 + 48 * np.sin(2.5 * x + 1.7 * channel * y + 0.9 * time_s + channel)
    aspect = width / height
    for shape in shapes:
        centre_x = aspect * (0.5 + 0.42 * math.sin(math.tau * (shape.start[0] + shape.cycles_per_second[0] * time_s)))
        centre_y = 0.5 + 0.42 * math.sin(math.tau * (shape.start[1] + shape.cycles_per_second[1] * time_s))
        picture[inside(shape.kind, x - centre_x, y - centre_y, shape.radius)] = shape.rgb
    return picture.round().astype(np.uint8)


def inside(kind: str, dx: NDArray[np.float32], dy: NDArray[np.float32], radius: float) -> NDArray[np.bool_]:
    """Return which pixels a shape covers.

    Parameters
    ----------
    kind
        ``disc``, ``square``, ``diamond``, ``ring``, ``bar`` or ``pillar``.
    dx, dy
        Offsets of the pixels from the shape's centre, in fractions of the picture's height.
    radius
        Size of the shape, in the same unit.
    """
    if kind == "disc":
        return dx * dx + dy * dy <= radius**2
    if kind == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) <= radius
    if kind == "diamond":
        return np.abs(dx) + np.abs(dy) <= radius * 1.3
    if kind == "ring":
        return np.abs(np.hypot(dx, dy) - radius * 0.9) <= radius * 0.35
    if kind == "pillar":
        dx, dy = dy, dx
    return np.maximum(np.abs(dx) * 0.45, np.abs(dy)) <= radius * 0.65


def waveform(shapes: tuple[Shape, ...], seconds: float, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Mix the sound of a clip: one tone per shape, with a slow tremolo.

    Returns
    -------
    float32 [round(seconds * rate)]
        Mono samples in [-1, 1].
    """
    time = np.arange(round(seconds * rate)) / rate
    mix = np.zeros_like(time)
    for index, shape in enumerate(shapes):
        mix += np.sin(math.tau * shape.tone_hz * time) * (0.6 + 0.4 * np.sin(math.tau * (0.5 + 0.25 * index) * time))
    return (0.8 * mix / max(1, len(shapes))).astype(np.float32)


def write_clip(
    path: str | Path,
    *,
    seed: int = 0,
    seconds: float = 4.0,
    width: int = 320,
    height: int = 240,
    fps: int = 25,
    gop: int = 50,
    bframes: int = 2,
    audio: bool = True,
) -> None:
    """Encode one clip; the container follows the file name (``.mp4``, ``.mkv``, …).

    Parameters
    ----------
    path
        File to write; its folder must exist.
    seed
        Selects shapes, colours, motion and tones. Equal arguments give equal pictures and sound, and equal bytes
        with the same build of the encoder, which runs on one thread.
    seconds, fps
        Length and frame rate; ``round(seconds * fps)`` frames are written.
    width, height
        Picture size in pixels, both even because of 4:2:0 chroma.
    gop
        Distance between key frames, in frames.
    bframes
        B-frames between references; with 0, frames are stored in the order in which they are shown.
    audio
        Whether to add a mono AAC track of 44.1 kHz.
    """
    shapes = shapes_of(seed)
    count = round(seconds * fps)
    encode(
        path,
        (render(shapes, index / fps, width, height) for index in range(count)),
        fps=fps,
        size=(width, height),
        sound=waveform(shapes, seconds) if audio else None,
        gop=gop,
        bframes=bframes,
    )


def encode(
    path: str | Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    fps: int,
    size: tuple[int, int],
    sound: NDArray[np.float32] | None = None,
    sample_rate: int = SAMPLE_RATE,
    gop: int = 50,
    bframes: int = 2,
) -> None:
    """Encode pictures as H.264 and a waveform as AAC, interleaved, on one thread.

    Parameters
    ----------
    path
        File to write; the container follows its name.
    pictures
        RGB frames, uint8 [height, width, 3], one every ``1 / fps`` seconds.
    fps
        Frame rate.
    size
        Width and height in pixels, both even.
    sound
        Mono waveform, float32 [S] in [-1, 1] at ``sample_rate``; None for a file without an audio track.
    sample_rate
        Samples per second of the sound.
    gop
        Distance between key frames, in frames.
    bframes
        B-frames between references.
    """
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(
            "libx264",
            rate=fps,
            options={
                "preset": "veryfast",
                "crf": "23",
                "bf": str(bframes),
                "g": str(gop),
                "threads": "1",
                "flags": "+bitexact",
                # On small pictures, x264's macroblock tree reads memory that it never wrote, so bytes would differ.
                "x264-params": "mbtree=0",
            },
        )
        assert isinstance(video, VideoStream)
        (video.width, video.height), video.pix_fmt = size, "yuv420p"
        track: AudioStream | None = None
        blocks: deque[tuple[float, av.AudioFrame]] = deque()
        if sound is not None:
            # The default coder takes 2.5 times as long and, on pure tones, produces three times the bytes.
            track = container.add_stream("aac", rate=sample_rate, layout="mono", options={"aac_coder": "fast"})
            track.codec_context.flags |= int(av.codec.context.Flags.bitexact)
            blocks.extend(_audio_blocks(sound, sample_rate))
        for index, picture in enumerate(pictures):
            while track is not None and blocks and blocks[0][0] <= index / fps:
                container.mux(track.encode(blocks.popleft()[1]))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if track is not None:
            for _, block in blocks:
                container.mux(track.encode(block))
            container.mux(track.encode(None))


def _audio_blocks(samples: NDArray[np.float32], rate: int) -> Iterator[tuple[float, av.AudioFrame]]:
    """Cut a mono waveform into frames of AAC's own block length; yield each with its start in seconds."""
    for start in range(0, len(samples), AUDIO_BLOCK):
        block = np.ascontiguousarray(samples[None, start : start + AUDIO_BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield start / rate, frame
