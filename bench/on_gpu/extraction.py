"""Section ``extraction``: whole extractions of clips that are encoded here, against decoding alone and the GPU alone.

The feature is CLIP's, 32 frames of each clip, on the local executor with as many decode workers as there are CPUs.
``limit`` is the smaller of the two rates alone: an extraction at 0.9 of it is limited by decoding or by the GPU, and
not by what lies between them.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.bare import rate
from bench.films import Film, shoot
from bench.on_gpu.nvml import Busy, Watch
from bench.on_gpu.section import Section, Setup
from bench.on_gpu.towers import Tower, extractor_of, load, load_extractor, network_of, noise, towers
from bench.overhead import copies
from extractors import MicroBatcher, Model
from extractors.clip import Clip
from pipeline.extract import Config, ExtractRequest, Unit, extract, ready_features
from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.identity import hash_content, source_status
from pipeline.extract.units import Decoded, RunContext
from pipeline.shared import Terminal

TARGET = 0.9
DTYPE = "float16"
_FRAMES, _QUICK_FRAMES = 32, 4
_ROWS = 8  # as many as the local executor hands over at a time

FILMS = (
    Film(320, 240, 20, 50, bframes=3),
    Film(854, 480, 30, 250, bframes=3),
    Film(1280, 720, 10, 50, bframes=3, pyramid=True),
)
QUICK_FILMS = (Film(64, 36, 2, 12),)
_SECONDS_PER_FILM = 25.0


class BuiltClip(Clip):
    """CLIP, whose network is copied from the one that this process has built already."""

    def load(self, device: str, threads: int | None = None) -> Model:
        """Return the model of an extractor of this model's name."""
        tower = next(tower for quick in (False, True) for tower in towers(quick) if tower.model == self.model)
        return load_extractor(self, deepcopy(network_of(tower)), device, threads)


class Meter(Terminal):
    """Shows nothing and notes when how many videos were done."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.done: list[tuple[float, int]] = []

    def stage(self, name: str, done: int, total: int, note: str = "") -> None:
        """Note the time if videos were done."""
        if name == "extract" and (not self.done or done > self.done[-1][1]):
            self.done.append((time.perf_counter(), done))

    def steady(self) -> tuple[tuple[float, int], tuple[float, int]] | None:
        """Return time and number of videos at a tenth and at 19 twentieths of them; None if that is the same moment."""
        if not self.done:
            return None
        whole = self.done[-1][1]
        first, last = (next(entry for entry in self.done if entry[1] >= share * whole) for share in (0.1, 0.95))
        return None if first == last else (first, last)


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """One film's figures, all in frames per second that the tower takes.

    Attributes
    ----------
    videos
        Videos of the extraction.
    decode_alone
        Decoding and preparing on the same workers, without a model.
    gpu_alone
        The micro-batcher over ready rows.
    extraction
        The whole extraction, between a tenth and 19 twentieths of its videos.
    limit
        The smaller of the two alone.
    ratio
        Extraction to limit.
    limited_by
        ``decoding`` or ``gpu``.
    wall_s
        Seconds of the whole extraction, the network's copy to the device and the commits included.
    busy
        Share of that time in which the GPU ran a kernel.
    stages
        Seconds by stage, as the extraction itself counts them.
    """

    videos: int
    decode_alone: float
    gpu_alone: float
    extraction: float
    limit: float
    ratio: float
    limited_by: str
    wall_s: float
    busy: Busy
    stages: dict[str, float]


def run(setup: Setup, section: Section) -> None:
    """Encode the films, and extract each of them as many times as the time allows."""
    films = QUICK_FILMS if setup.quick else FILMS
    if not setup.quick and not section.has_time("all films", _SECONDS_PER_FILM):
        return
    tower = towers(setup.quick)[0]
    with ThreadPoolExecutor(len(films)) as pool:
        clips = list(pool.map(lambda film: shoot(film, setup.folder / "films"), films))
    section.put("encoded_s", section.spent)
    gpu_alone = ready_rate(setup, tower)
    section.put("gpu_alone", gpu_alone)
    for index, (film, clip) in enumerate(zip(films, clips, strict=True)):
        if not setup.quick and not section.has_time(film.name, _SECONDS_PER_FILM / 2):
            continue
        share = section.left / (len(films) - index)
        seconds = 0.0 if setup.quick else share * 0.45
        with section.attempt(film.name):
            found = measure(setup, tower, clip, gpu_alone, seconds)
            section.put(film.name, found)
            section.line(describe(film.name, found))
    if not setup.on_gpu:
        section.leave_out("how busy the GPU is", "it needs a CUDA device")


def describe(name: str, found: EndToEnd) -> str:
    """Return one line about a film."""
    busy = "not sampled" if found.busy.percent is None else f"{found.busy.percent:.0f} %"
    return (
        f"{name}: {found.extraction:.0f} frames/s, decoding alone {found.decode_alone:.0f}, model alone "
        f"{found.gpu_alone:.0f}: {found.ratio:.3f} of the limit ({found.limited_by}), GPU busy {busy}"
    )


def measure(setup: Setup, tower: Tower, clip: Path, gpu_alone: float, seconds: float) -> EndToEnd:
    """Measure one clip: decoding alone on a few copies, then a whole extraction of about ``seconds``."""
    folder = setup.folder / clip.stem
    few = 4 if setup.quick else 6 * setup.workers
    config = configuration(setup, tower)
    decode_alone = decode_rate(config, list_units(config, copies(folder / "few", few, clip)), setup.workers)
    limit = min(decode_alone, gpu_alone)
    frames = frames_of(setup)
    videos = max(few, min(4000, int(seconds * limit / frames)))
    source = copies(folder / "many", videos, clip)
    meter, watch = Meter(), Watch(_uuid(setup))
    request = ExtractRequest(
        source=str(source),
        store=str(folder / "store"),
        config=config,
        executor="local",
    )
    started = time.perf_counter()
    with watch:
        result = extract(request, meter)
    wall_s = time.perf_counter() - started
    shutil.rmtree(folder)
    assert result.run is not None and result.run.computed == videos, result.summary()
    (start, first), (end, last) = meter.steady() or ((started, 0), (started + wall_s, videos))
    extraction = frames * (last - first) / (end - start)
    return EndToEnd(
        videos,
        decode_alone,
        gpu_alone,
        extraction,
        limit,
        extraction / limit,
        "decoding" if decode_alone < gpu_alone else "gpu",
        wall_s,
        watch.busy(start, end),
        {name: getattr(result.run, name) for name in ("compute_s", "decode_s", "model_s", "write_s", "waiting_s")},
    )


def configuration(setup: Setup, tower: Tower) -> Config:
    """Return the configuration of the extraction."""
    feature = {
        "extractor": f"{__name__}:{BuiltClip.__name__}",
        "model": tower.model,
        "weights": "random:0",
        "compute_dtype": DTYPE if setup.on_gpu else "float32",
        "sampling": {"policy": "uniform", "n": frames_of(setup)},
        "micro_batch": tower.micro_batch,
    }
    run = {"device": setup.device.type, "decode_workers": setup.workers}
    return Config.model_validate({"features": {"clip": feature}, "run": run})


def list_units(config: Config, videos: Path) -> list[Unit]:
    """Return the units of a folder of different clips, as a plan would list them."""
    units = []
    for path in sorted(videos.iterdir()):
        size, stamp = source_status(path, None)
        units.append(Unit(str(path), (path.stem,), tuple(config.features), hash_content(path, None), size, stamp))
    return units


def decode_rate(config: Config, units: Sequence[Unit], workers: int) -> float:
    """Return frames per second of decoding and preparing on threads that each supervise a child, as extraction does.

    The first unit of every worker, which starts its child, does not count. Each worker's rate is taken until it ends,
    and these are summed: that some wait at the end for the last one says nothing about decoding.

    Raises
    ------
    RuntimeError
        If a unit cannot be decoded.
    """
    context = RunContext(Path(units[0].uri).parent, ready_features(config), config.media, config.limits())
    waiting, lock = list(units), threading.Lock()
    workers = min(workers, len(units) // 2)
    ready = threading.Barrier(workers)

    def work() -> float:
        with context.media_process() as media:
            frames, started = 0, math.nan
            while True:
                with lock:
                    unit = waiting.pop() if waiting else None
                if unit is None:
                    return frames / (time.perf_counter() - started)
                decoded = decode_unit(context, unit, media)
                if not isinstance(decoded, Decoded) or decoded.failures:
                    ready.abort()
                    raise RuntimeError(f"{unit.uri} cannot be decoded: {decoded}")
                if math.isnan(started):
                    ready.wait()
                    started = time.perf_counter()
                else:
                    frames += sum(len(part.steps) for part in decoded.features.values())

    with ThreadPoolExecutor(workers) as pool:
        results = [pool.submit(work) for _ in range(workers)]
        errors = [result.exception() for result in results]
    for error in errors:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return sum(result.result() for result in results)


def ready_rate(setup: Setup, tower: Tower) -> float:
    """Return frames per second of the micro-batcher over rows that are ready in memory."""
    dtype = DTYPE if setup.on_gpu else "float32"
    batcher = MicroBatcher(load(tower, dtype, setup.device), tower.micro_batch)
    frames = frames_of(setup)
    steps = noise(extractor_of(tower, dtype), frames)
    rows = [(f"video{index}", steps) for index in range(1 if setup.quick else _ROWS)]
    return rate(lambda: batcher.run(rows), len(rows) * frames, 0.05 if setup.quick else 2.0, setup.device)


def frames_of(setup: Setup) -> int:
    """Return how many frames of each clip the feature takes."""
    return _QUICK_FRAMES if setup.quick else _FRAMES


def _uuid(setup: Setup) -> str | None:
    return str(torch.cuda.get_device_properties(setup.device).uuid) if setup.on_gpu else None
