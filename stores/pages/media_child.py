"""A process that decodes videos for their pages: small pictures at given seconds, and their sound as numbers.

It reads JSON objects from stdin, a line each, and answers each with a line on stdout. It imports av, numpy and the
standard library alone, and nothing of ours: a file that brings the decoder down takes only this process with it.
"""

from __future__ import annotations

import base64
import json
import math
import os
import resource
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RATE = 16_000
BANDS, HOP, WINDOW, FFT = 64, 160, 400, 512
LOW_HZ, HIGH_HZ = 125.0, 7500.0
OFFSET = 0.01
PEAKS, COLUMNS = 240, 480
"""Pieces of a waveform, and most columns of a log-mel picture."""
SEEK_OVER_S = 8.0
"""Seconds without a wanted frame that are skipped, in files whose index and codec allow that without a difference."""
MOV = "mov"
_SLACK_S = 1e-6
_QUALITY = "5"  # of 1 to 31; about 4 kB for 160 by 90
_MEMORY = 4 << 30


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the pictures and the sound that a request wants, or what stands in the way of either.

    Parameters
    ----------
    request
        ``path``; ``zero_s``, the second of the file's own clock at which the video begins; ``start_s`` and
        ``seconds`` of the clip in it; ``times``, ascending seconds of the clip; ``height`` in pixels; ``rotation``
        in degrees clockwise; ``mirrored``; ``sound``, whether sound is wanted.

    Returns
    -------
    dict
        ``pictures``, JPEG files in base64, one for each time, and ``sound`` (``peaks``, least and greatest sample of
        each of ``PEAKS`` pieces; ``mel``, ``levels`` [BANDS, columns] in base64), null where there is none; ``problem``
        says why something is missing.
    """
    found: dict[str, Any] = {"pictures": [], "sound": None}
    problems = []
    for part, compute in (("pictures", _all_pictures), ("sound", _sound)):
        try:
            found[part] = compute(request)
        except (av.FFmpegError, ValueError, OSError) as error:
            problems.append(f"its {part} cannot be decoded ({error})")
        except MemoryError:
            problems.append(f"its {part} take too much memory to decode")
    return {**found, "problem": "; ".join(problems)}


def _all_pictures(request: dict[str, Any]) -> list[str]:
    return [base64.b64encode(picture).decode() for picture in pictures(request)] if request["times"] else []


def _sound(request: dict[str, Any]) -> dict[str, Any] | None:
    if not request["sound"]:
        return None
    samples = waveform(request["path"], request["zero_s"] + request["start_s"], request["seconds"])
    return None if samples is None else describe_sound(samples)


def pictures(request: dict[str, Any]) -> Iterator[bytes]:
    """Yield a JPEG file for each time: of the frame with the greatest time that is not later, as extraction takes it.

    Raises
    ------
    ValueError
        If the file has no video stream, no frame, or frames without times.
    """
    with _open(request["path"]) as container:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise ValueError("no video stream")
        stream.thread_type = "NONE"  # as many processes as there are cores run already
        may_seek = MOV in container.format.name.split(",") and stream.codec_context.name == "h264"
        frames = _frames(container, stream)
        shown = ahead = None
        for time in request["times"]:
            second = request["start_s"] + time + request["zero_s"] + _SLACK_S
            if may_seek and second - (ahead.time if ahead is not None else 0) > SEEK_OVER_S:
                container.seek(int(second / stream.time_base), stream=stream, backward=True)
                frames, ahead = _frames(container, stream), None
            shown, ahead = _shown_at(second, frames, shown if ahead is not None else None, ahead)
            if shown is None:
                raise ValueError("no frame could be decoded")
            yield _jpeg(shown, request)


def _shown_at(second: float, frames: Iterator[Any], shown: Any, ahead: Any) -> tuple[Any, Any]:
    """Read on to the first frame after a second; return the one before it, or itself if it is the first, and it.

    At the end of the file, the last frame stands for both.
    """
    while ahead is None or ahead.time <= second:
        shown = ahead if ahead is not None else shown
        ahead = next(frames, None)
        if ahead is None:
            return shown, shown
    return (shown if shown is not None else ahead), ahead


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    for frame in container.decode(stream):
        if frame.time is None:
            raise ValueError("its frames have no times")
        yield frame


@contextmanager
def _open(path: str) -> Iterator[Any]:
    """Open a regular file, and nothing that it names: a list of segments may name other files and servers."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        with av.open(file, options={"protocol_whitelist": "none"}) as container:
            yield container


def _jpeg(frame: Any, request: dict[str, Any]) -> bytes:
    """Return a frame upright, with square pixels, as a small JPEG file."""
    aspect = Fraction(request.get("aspect") or 1)
    turned = request["rotation"] % 180 != 0
    width, height = frame.width * float(aspect), float(frame.height)
    scale = request["height"] / (width if turned else height)
    size = max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
    pixels = frame.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray()
    pixels = np.rot90(pixels, -(request["rotation"] // 90))
    if request["mirrored"]:
        pixels = pixels[:, ::-1]
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qmin": _QUALITY, "qmax": _QUALITY}
    full_range = picture.reformat(format="yuvj420p", dst_color_range="JPEG")
    return b"".join(bytes(packet) for packet in [*encoder.encode(full_range), *encoder.encode(None)])


def waveform(path: str, start_s: float, seconds: float) -> Array | None:
    """Return the first audio stream between two seconds of the file's clock, mono ``[S] float32`` at 16 kHz, or None.

    Where the file has no sound, as before a track begins, there are zeros.
    """
    with _open(path) as container:
        if not container.streams.audio:
            return None
        resampler = av.AudioResampler("flt", "mono", RATE)
        samples = np.zeros(round(seconds * RATE), np.float32)
        at: int | None = None
        for frame in container.decode(audio=0):
            if at is None:
                at = round(((frame.time or 0.0) - start_s) * RATE)
            for block in resampler.resample(frame):
                values = block.to_ndarray().reshape(-1)
                first, last = max(at, 0), min(at + len(values), len(samples))
                if last > first:
                    samples[first:last] = values[first - at : last - at]
                at += len(values)
            if at >= len(samples):
                break
    return samples if at is not None and len(samples) else None


def describe_sound(samples: Array) -> dict[str, Any]:
    """Return the peaks of equal pieces of a waveform, and its log-mel energies as levels from 0 to 255."""
    pieces = np.array_split(samples, min(PEAKS, len(samples)))
    peaks = [(round(float(piece.min()), 3), round(float(piece.max()), 3)) for piece in pieces]
    mel = log_mel(samples)
    low, high = math.log(OFFSET), max(float(mel.max(initial=0.0)), math.log(OFFSET) + 1)
    levels = (np.clip((mel - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    return {"peaks": peaks, "columns": levels.shape[1], "mel": base64.b64encode(levels[::-1].tobytes()).decode()}


def log_mel(samples: Array) -> Array:
    """Return ``ln(mel + 0.01)``, ``[BANDS, columns] float64``, with the frames and bands of VGGish's front end.

    At most ``COLUMNS`` frames are taken, at equal distances: a picture has no room for more.
    """
    count = max(1, 1 + (len(samples) - WINDOW) // HOP)
    starts = np.linspace(0, (count - 1) * HOP, min(count, COLUMNS)).round().astype(np.int64)
    padded = np.concatenate([samples, np.zeros(WINDOW, samples.dtype)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    frames = np.stack([padded[start : start + WINDOW] for start in starts.tolist()]) * window
    magnitude = np.abs(np.fft.rfft(frames, FFT))
    energies: Array = np.log(magnitude @ _triangles().T + OFFSET).T
    return energies


def _triangles() -> Array:
    """Return the weights of the bands, ``[BANDS, FFT / 2 + 1]``: triangles on the HTK mel scale."""

    def mel(hertz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), BANDS + 2)
    bins = mel(np.linspace(0, RATE / 2, FFT // 2 + 1))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights: Array = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    return weights


def main() -> None:
    """Answer each request on stdin, a line each, with a line on stdout."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _MEMORY if limit == resource.RLIM_INFINITY else min(_MEMORY, limit)
    resource.setrlimit(resource.RLIMIT_AS, (most, limit))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
