"""Compare the CPU time of our decoder with PyAV, decord and torchcodec.

    python bench/decode.py [--runs 5] [--seconds 60] [--quick] [--json PATH]

The clip is H.264 at 640×360 and 30 frames per second (x264, B-frames, a GOP of 250, moving texture, AAC sound). Every
measurement runs in a process of its own and counts the user and system time of decoding alone, on one thread; the
median is reported. A contender whose package is missing is left out. Frames are compared bit by bit with those of
PyAV's plain sequential decode.

The shared pass gives 32 frames, 60 segments and the sound at once; it is compared with three plain passes of PyAV.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import av
import numpy as np
from numpy.typing import NDArray

from bench.report import Column, Report, Table, Target, bench_parser, prose
from pipeline.media import AudioRequest, DecodeRequest, Frame, Header, decode, policy_from_spec
from pipeline.media.timeline import Timeline

WIDTH, HEIGHT, FPS, GOP = 640, 360, 30, 250
UNIFORM = {"policy": "uniform", "n": 32}
SEGMENTS = {"policy": "segments", "t": 60}
TASKS = {"32 uniform frames": UNIFORM, "60 segments": SEGMENTS}
TARGET_FRAMES, TARGET_PASS = 0.8, 0.45
USES = ("av", "decord", "torchcodec", "numpy")
NOTE = """What is left of our time is libavcodec on frames that others refer to; a clip without non-reference frames
gains nothing. Reading the packets once instead of twice was worth a few hundredths of the ratio."""


def make_clip(seconds: int) -> Path:
    """Return a clip of a panning texture with grain, encoded on first use: x264 defaults (B-frames), GOP 250, AAC."""
    path = Path(tempfile.gettempdir()) / f"reelstore-bench-{seconds}s-{WIDTH}x{HEIGHT}.mp4"
    if path.exists():
        return path
    partial = path.with_suffix(f".{os.getpid()}.mp4")
    rng = np.random.default_rng(0)
    texture: NDArray[Any] = rng.integers(0, 256, (HEIGHT + 200, WIDTH * 2, 3)).astype(np.float32)
    for step in (1, 2, 4, 8):
        texture = (texture + np.roll(texture, step, axis=0) + np.roll(texture, step, axis=1)) / 3
    texture = (texture - texture.mean()) * 3 + 128
    grain = [rng.normal(0, 1.5, (HEIGHT, WIDTH, 1)).astype(np.float32) for _ in range(8)]
    with av.open(str(partial), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "medium", "g": str(GOP)})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=44_100, layout="stereo")
        noise = rng.normal(0, 0.1, (2, 44_100 // FPS)).astype(np.float32)
        for index in range(seconds * FPS):
            left, top = int(320 + 300 * np.sin(index / 90)), int(100 + 90 * np.cos(index / 70))
            picture = texture[top : top + HEIGHT, left : left + WIDTH].copy()
            row = int(150 + 140 * np.sin(index / 25))
            picture[row : row + 60, 200:300] = 255 - picture[row : row + 60, 200:300]
            picture = (picture + grain[index % len(grain)]).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
            block = av.AudioFrame.from_ndarray(np.roll(noise, index, axis=1), format="fltp", layout="stereo")
            block.sample_rate, block.pts, block.time_base = 44_100, index * noise.shape[1], Fraction(1, 44_100)
            container.mux(sound.encode(block))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    partial.replace(path)
    return path


def wanted_indices(spec: dict[str, Any], seconds: int) -> list[int]:
    """Return the numbers of the frames that a policy takes from the clip, whose frames are evenly spaced."""
    timeline = Timeline(np.arange(seconds * FPS) / FPS, float(seconds), float(FPS))
    return [int(index) for index in policy_from_spec(spec).sample(timeline).frame]


def ours(path: str, spec: dict[str, Any], wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Decode with our own decoder, in this process."""
    for event in decode(DecodeRequest(path, (spec,))):
        if isinstance(event, Frame):
            yield event.rgb


def pyav(path: str, spec: dict[str, Any], wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Decode every frame with PyAV on one thread, up to the last wanted one."""
    chosen, last = frozenset(wanted), max(wanted)
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in chosen:
                yield frame.to_ndarray(format="rgb24", threads=1)
            if index >= last:
                return


def decord(path: str, spec: dict[str, Any], wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Read the wanted frames with decord as one batch, on one thread."""
    from decord import VideoReader, cpu

    reader = VideoReader(path, ctx=cpu(0), num_threads=1)
    yield from reader.get_batch(sorted(set(wanted))).asnumpy()


def torchcodec(path: str, spec: dict[str, Any], wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Read the wanted frames with torchcodec in exact mode, on one thread."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact", dimension_order="NHWC")
    yield from decoder.get_frames_at(sorted(set(wanted))).data.numpy()


CONTENDERS: dict[str, Callable[[str, dict[str, Any], Sequence[int]], Iterator[np.ndarray]]] = {
    "ours": ours,
    "pyav": pyav,
    "decord": decord,
    "torchcodec": torchcodec,
}


def one_pass(path: str, seconds: int) -> int:
    """Decode 32 frames, 60 segments and 16 kHz mono sound in one pass; return how many pieces came."""
    events = decode(DecodeRequest(path, (UNIFORM, SEGMENTS), AudioRequest()))
    return sum(not isinstance(event, Header) for event in events)


def three_passes(path: str, seconds: int) -> int:
    """Decode the same with three sequential passes of PyAV: two over the pictures, one over the sound."""
    count = sum(1 for spec in (UNIFORM, SEGMENTS) for _ in pyav(path, spec, wanted_indices(spec, seconds)))
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
    with av.open(path) as container:
        blocks = [block.to_ndarray() for frame in container.decode(audio=0) for block in resampler.resample(frame)]
    np.concatenate(blocks, axis=1)
    return count + 1


def measure(contender: str, task: str, path: str, seconds: int) -> dict[str, Any]:
    """Measure once in this process: CPU seconds, number of frames, digest of all pixels (computed off the clock)."""
    pictures: list[np.ndarray] = []
    wanted: list[int] = []
    if contender in CONTENDERS:
        wanted = wanted_indices(TASKS[task], seconds)
        # Imports and first-use costs are no part of decoding.
        next(iter(CONTENDERS[contender](path, TASKS[task], wanted)))
    before = resource.getrusage(resource.RUSAGE_SELF)
    if contender in CONTENDERS:
        pictures = list(CONTENDERS[contender](path, TASKS[task], wanted))
        count = len(pictures)
    else:
        count = {"one pass": one_pass, "three passes": three_passes}[contender](path, seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(picture).tobytes() for picture in pictures)).hexdigest()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu, "frames": count, "digest": digest}


def measure_apart(contender: str, task: str, path: Path, seconds: int) -> dict[str, Any]:
    """Measure once in a fresh process; ``skipped`` in the result is the reason why that failed."""
    if contender in ("decord", "torchcodec") and importlib.util.find_spec(contender) is None:
        return {"skipped": f"{contender} is not installed"}
    command = [sys.executable, __file__, "--child", contender, task, str(path), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["failed"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def medians(contenders: list[str], task: str, path: Path, seconds: int, runs: int) -> dict[str, dict[str, Any]]:
    """Return the median measurement of each contender; they take turns, so that all share the machine's noise."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, measured in results.items():
            if not (measured and "skipped" in measured[0]):
                measured.append(measure_apart(name, task, path, seconds))
    rows = {}
    for name, measured in results.items():
        if "skipped" in measured[0]:
            rows[name] = measured[0]
        else:
            times = [result["cpu_s"] for result in measured]
            rows[name] = {**measured[0], "cpu_s": statistics.median(times), "all_cpu_s": times}
    return rows


def measure_all(path: Path, seconds: int, runs: int) -> dict[str, Any]:
    """Measure every task and the shared pass; return all figures, JSON-able."""
    tasks: dict[str, Any] = {}
    for task in TASKS:
        rows = medians(list(CONTENDERS), task, path, seconds, runs)
        others = [row["cpu_s"] for name, row in rows.items() if name != "ours" and "cpu_s" in row]
        tasks[task] = {
            "contenders": rows,
            "ratio_to_fastest": rows["ours"]["cpu_s"] / min(others),
            "identical_to_pyav": rows["ours"]["digest"] == rows["pyav"]["digest"],
        }
    passes = medians(["one pass", "three passes"], "-", path, seconds, runs)
    ratio = passes["one pass"]["cpu_s"] / passes["three passes"]["cpu_s"]
    return {
        "clip": {"seconds": seconds, "width": WIDTH, "height": HEIGHT, "fps": FPS, "gop": GOP},
        "runs": runs,
        "tasks": tasks,
        "shared pass": {**passes, "ratio": ratio},
    }


def report(figures: dict[str, Any]) -> Report:
    """Return the figures as tables, held to the targets."""
    tasks, shared = figures["tasks"], figures["shared pass"]
    present = [name for name in CONTENDERS if any("cpu_s" in found["contenders"][name] for found in tasks.values())]
    times = [Column(name, ".3f") for name in present]
    rows = [
        [
            task,
            *(found["contenders"][name].get("cpu_s") for name in present),
            found["ratio_to_fastest"],
            found["identical_to_pyav"],
        ]
        for task, found in tasks.items()
    ]
    both = (shared["one pass"]["cpu_s"], shared["three passes"]["cpu_s"], shared["ratio"])
    skipped = {
        name: row["skipped"]
        for found in tasks.values()
        for name, row in found["contenders"].items()
        if "skipped" in row
    }
    title = f"CPU seconds, {figures['clip']['seconds']} s of film, median of {figures['runs']}"
    return Report(
        title="Decoding",
        about=prose(__doc__),
        tables=[
            Table(title, ["task", *times, Column("ratio", ".2f"), "equal"], rows),
            Table(
                "32 frames, 60 segments and sound, CPU seconds",
                [Column("ours, one pass", ".3f"), Column("PyAV, three passes", ".3f"), Column("ratio", ".2f")],
                [both],
            ),
        ],
        targets=[
            *(
                Target(f"{task}, to the fastest", found["ratio_to_fastest"], TARGET_FRAMES)
                for task, found in tasks.items()
            ),
            Target("one pass for all, to three of PyAV", shared["ratio"], TARGET_PASS),
        ],
        notes=[*(f"{name} was left out: {reason}" for name, reason in skipped.items()), NOTE],
        failures=[
            f"{task}: frames differ from PyAV's" for task, found in tasks.items() if not found["identical_to_pyav"]
        ],
        figures=figures,
        uses=USES,
    )


def main() -> int:
    """Measure and report; with ``--child``, run one measurement and print it as JSON."""
    parser = bench_parser(__doc__, runs=1, seconds=3)
    parser.add_argument("--runs", type=int, default=5, help="measurements of each contender; medians are reported")
    parser.add_argument("--seconds", type=int, default=60, help="length of the clip")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        contender, task, path, seconds = arguments.child
        print(json.dumps(measure(contender, task, path, int(seconds))))
        return 0
    return report(measure_all(make_clip(arguments.seconds), arguments.seconds, arguments.runs)).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
