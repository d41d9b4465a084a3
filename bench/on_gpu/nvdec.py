"""Section ``nvdec``: the GPU's video engine against PyAV, by pixels after the resize and by frames per second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.device_decoding import compare
from bench.films import Film, shoot
from bench.on_gpu.section import Section, Setup
from bench.on_gpu.towers import extractor_of, towers
from pipeline.media import DecodeRequest, Frame, MediaProcess
from pipeline.media.torchcodec_backend import why_unavailable

_POLICY = {"policy": "uniform", "n": 32}
FILMS = (Film(854, 480, 30, 250, bframes=3), Film(1280, 720, 10, 50, bframes=3, pyramid=True))
QUICK_FILMS = (Film(64, 36, 2, 12),)
_AT_ONCE = (1, 4, 8)
_SECONDS_PER_FILM = 10.0


def run(setup: Setup, section: Section) -> None:
    """Compare what decodes on the device with PyAV, which decodes in children as in every extraction."""
    device = "cuda" if setup.on_gpu else "cpu"  # on the CPU torchcodec takes the way that it takes on a GPU
    if not setup.on_gpu:
        section.leave_out("nvdec", "it needs a CUDA device")
    reason = why_unavailable("nvdec" if setup.on_gpu else "torchcodec")
    if reason is not None:
        section.leave_out("nvdec" if setup.on_gpu else "torchcodec", reason)
    extractor = extractor_of(towers(setup.quick)[0])
    for film in QUICK_FILMS if setup.quick else FILMS:
        if not setup.quick and not section.has_time(film.name, _SECONDS_PER_FILM):
            continue
        clip = shoot(film, setup.folder / "films")
        found: dict[str, Any] = {"pyav_in_children": {1: child_rate([clip], 1)}}
        if not setup.quick:
            found["pyav_in_children"][setup.workers] = child_rate([clip] * 2 * setup.workers, setup.workers)
        if reason is None:
            with section.attempt(f"{device} on {film.name}"):
                found[device] = compare(clip, _POLICY, extractor, device, (1,) if setup.quick else _AT_ONCE)
        section.put(film.name, found)


def child_rate(clips: Sequence[Path], at_once: int) -> float:
    """Return wanted frames per second of PyAV in child processes; their start does not count."""
    children = [MediaProcess(memory_mb=16384) for _ in range(at_once)]
    try:
        with ThreadPoolExecutor(at_once) as pool:

            def decode(number: int, clip: Path) -> int:
                events = children[number].decode(DecodeRequest(str(clip), (_POLICY,)))
                return sum(isinstance(event, Frame) for event in events)

            def work(number: int) -> int:
                return sum(decode(number, clip) for clip in clips[number::at_once])

            list(pool.map(lambda number: decode(number, clips[0]), range(at_once)))
            started = time.perf_counter()
            frames = sum(pool.map(work, range(at_once)))
            return frames / (time.perf_counter() - started)
    finally:
        for child in children:
            child.close()
