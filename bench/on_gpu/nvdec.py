"""Section ``nvdec``: the GPU's video engine against PyAV, by pixels after the resize and by frames per second."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.films import Film, shoot
from bench.on_gpu.section import Section, Setup
from bench.on_gpu.towers import extractor_of, towers
from extractors import Extractor
from pipeline.media import DecodeRequest, Frame, MediaProcess, decode
from pipeline.media.torchcodec_backend import why_unavailable

_POLICY = {"policy": "uniform", "n": 32}
FILMS = (Film(854, 480, 30, 250, bframes=3), Film(1280, 720, 10, 50, bframes=3, pyramid=True))
QUICK_FILMS = (Film(64, 36, 2, 12),)
_AT_ONCE = (1, 4, 8)
_SECONDS_PER_FILM = 10.0


@dataclass(frozen=True, slots=True)
class Pixels:
    """Difference between two decoders' frames after the resize, in levels of 0 to 255.

    Attributes
    ----------
    frames
        Number of frames compared.
    mean, largest
        Mean and largest absolute difference.
    psnr_db
        Peak signal-to-noise ratio; None if all pixels are equal.
    """

    frames: int
    mean: float
    largest: int
    psnr_db: float | None


def run(setup: Setup, section: Section) -> None:
    """Compare each backend that works here with PyAV."""
    backends = []
    for backend in ("torchcodec", "nvdec"):
        reason = why_unavailable(backend)
        if backend == "nvdec" and not setup.on_gpu:
            reason = "it needs a CUDA device"
        if reason is None:
            backends.append(backend)
        else:
            section.leave_out(backend, reason)
    extractor = extractor_of(towers(setup.quick)[0])
    for film in QUICK_FILMS if setup.quick else FILMS:
        if not setup.quick and not section.has_time(film.name, _SECONDS_PER_FILM):
            continue
        clip = shoot(film, setup.folder / "films")
        truth = prepared_frames(clip, "pyav", extractor)
        found: dict[str, Any] = {"pyav": {"in_child": {1: child_rate([clip], "pyav", 1)}}}
        if not setup.quick:
            count = setup.workers
            found["pyav"]["in_child"][count] = child_rate([clip] * 2 * count, "pyav", count)
        for backend in backends:
            with section.attempt(f"{backend} on {film.name}"):
                found[backend] = compare(setup, section, clip, backend, extractor, truth)
        section.put(film.name, found)


def compare(
    setup: Setup, section: Section, clip: Path, backend: str, extractor: Extractor, truth: NDArray[np.uint8]
) -> dict[str, Any]:
    """Compare one backend with PyAV on one clip."""
    pixels = difference(prepared_frames(clip, backend, extractor), truth)
    told: dict[str, Any] = {"pixels": pixels, "in_child": {}, "in_process": {}}
    section.line(f"{clip.name}: {backend} differs from pyav by {pixels.mean:.2f} on average, {pixels.largest} at most")
    for count in (1,) if setup.quick else _AT_ONCE:
        told["in_process"][count] = process_rate([clip] * (1 if setup.quick else 2 * count), backend, count)
    # A child is what an extraction decodes in; each holds a CUDA context of its own.
    for count in () if setup.quick else _AT_ONCE[:2]:
        told["in_child"][count] = child_rate([clip] * 2 * count, backend, count)
    return told


def prepared_frames(clip: Path, backend: str, extractor: Extractor) -> NDArray[np.uint8]:
    """Decode the wanted frames in this process and prepare them for a tower: ``uint8 [N, S, S, 3]``."""
    frames = [event.rgb for event in decode(_request(clip, backend)) if isinstance(event, Frame)]
    return extractor.prepare(np.stack(frames))


def difference(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Pixels:
    """Compare ``uint8 [N, H, W, 3]`` of two decoders."""
    apart = np.abs(frames.astype(np.int16) - truth)
    square = float((apart.astype(np.float64) ** 2).mean())
    psnr = 10 * math.log10(255**2 / square) if square else None
    return Pixels(len(frames), float(apart.mean()), int(apart.max()), psnr)


def process_rate(clips: Sequence[Path], backend: str, at_once: int) -> float:
    """Return wanted frames per second of decoding in threads of this process; the first clip does not count."""
    _count(decode(_request(clips[0], backend)))
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        frames = sum(pool.map(lambda clip: _count(decode(_request(clip, backend))), clips))
    return frames / (time.perf_counter() - started)


def child_rate(clips: Sequence[Path], backend: str, at_once: int) -> float:
    """Return wanted frames per second of decoding in child processes; their start does not count."""
    children = [MediaProcess(memory_mb=16384, backend=backend) for _ in range(at_once)]
    try:
        with ThreadPoolExecutor(at_once) as pool:

            def work(number: int) -> int:
                own = clips[number::at_once]
                return sum(_count(children[number].decode(_request(clip, backend))) for clip in own)

            def start(number: int) -> None:
                _count(children[number].decode(_request(clips[0], backend)))

            list(pool.map(start, range(at_once)))
            started = time.perf_counter()
            frames = sum(pool.map(work, range(at_once)))
            return frames / (time.perf_counter() - started)
    finally:
        for child in children:
            child.close()


def _request(clip: Path, backend: str) -> DecodeRequest:
    return DecodeRequest(str(clip), (_POLICY,), backend=backend)


def _count(events: Any) -> int:
    return sum(isinstance(event, Frame) for event in events)
