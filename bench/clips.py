"""Measure what steps of several frames cost: decoding and resizing them, and a tower of clips against a bare loop.

    python bench/clips.py [--runs 5] [--seconds 60] [--quick] [--json PATH]

One step per second of the clip of ``bench/decode.py`` (H.264, 640×360, 30 frames per second) shows 1 frame, as the
policy ``segments`` gives it, or 4 or 8, as ``clips`` does. User and system time of this process are counted, first of
decoding to RGB alone, then with the resize to 224 pixels that InternVideo2 takes.

InternVideo2-S with random weights takes clips of 4 frames, on one thread. The bare loop calls the same network on
batches that are normalised already, in the micro-batch's size and twice that; the faster counts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import numpy as np
import torch

from bench.decode import make_clip
from bench.models import TARGET, measure
from bench.report import Column, Report, Table, Target, bench_parser, prose
from extractors import MicroBatcher
from extractors.internvideo2 import InternVideo2
from extractors.internvideo2_tower import InternVideo2Encoder, read
from pipeline.media import DecodeRequest, Frame, decode

FRAMES = (1, 4, 8)
MICRO_BATCH = 2
USES = ("av", "pillow", "torch", "numpy")


def main() -> int:
    """Measure and report; return 1 if the tower misses its target."""
    parser = bench_parser(__doc__, runs=1, seconds=5, clips=2, image_size=56)
    parser.add_argument("--runs", type=int, default=5, help="measurements of each; medians are reported")
    parser.add_argument("--seconds", type=int, default=60, help="length of the clip, and number of steps")
    parser.add_argument("--clips", type=int, default=4, help="clips of one measurement of the tower")
    parser.add_argument("--image-size", type=int, default=224, help="pixels of a frame in the tower")
    arguments = parser.parse_args()
    cpu = decoding(make_clip(arguments.seconds), arguments.seconds, arguments.runs)
    rates = tower(arguments.clips, arguments.image_size, arguments.runs)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max((name for name in medians if name != "micro-batcher"), key=medians.__getitem__)
    ratio = statistics.median(ours / bare for ours, bare in zip(rates["micro-batcher"], rates[best], strict=True))
    return Report(
        title="Clips as steps",
        about=prose(__doc__),
        tables=[
            Table(
                f"median CPU seconds of {arguments.runs}, {arguments.seconds} steps",
                [
                    "frames of a step",
                    Column("decode", ".2f"),
                    Column("to 1 frame", ".2f"),
                    Column("decode and resize", ".2f"),
                    Column("to 1 frame", ".2f"),
                ],
                [
                    (
                        str(frames),
                        *(value for kind in (0, 1) for value in (cpu[frames][kind], to_one(cpu, frames, kind))),
                    )
                    for frames in FRAMES
                ],
            ),
            Table(
                f"InternVideo2-S, clips of 4 frames of {arguments.image_size} pixels, per CPU second",
                ["", Column(f"median of {arguments.runs}", ".3f")],
                list(medians.items()),
            ),
        ],
        targets=[Target("tower's rate, to the best bare loop", ratio, TARGET["cpu"], at_most=False)],
        figures={"cpu_s": {str(frames): values for frames, values in cpu.items()}, "rates": rates, "ratio": ratio},
        uses=USES,
    ).finish(arguments)


def to_one(cpu: dict[int, tuple[float, float]], frames: int, kind: int) -> float:
    """Return the cost of steps of some frames as a multiple of that of steps of one."""
    return cpu[frames][kind] / cpu[1][kind]


def decoding(path: Path, steps: int, runs: int) -> dict[int, tuple[float, float]]:
    """Return the median CPU seconds of decoding, and of decoding and resizing, by the number of frames of a step."""
    spent: dict[int, list[tuple[float, float]]] = {frames: [] for frames in FRAMES}
    for run in range(runs):
        for frames in FRAMES[run % len(FRAMES) :] + FRAMES[: run % len(FRAMES)]:
            spent[frames].append((_decode(path, steps, frames, False), _decode(path, steps, frames, True)))
    return {
        frames: (statistics.median(plain for plain, _ in pairs), statistics.median(resized for _, resized in pairs))
        for frames, pairs in spent.items()
    }


def _decode(path: Path, steps: int, frames: int, resize: bool) -> float:
    extractor = InternVideo2(model="s14", weights="random:0")
    single: dict[str, Any] = {"policy": "segments", "t": steps}
    policy = single if frames == 1 else {"policy": "clips", "t": steps, "frames": frames}
    start = time.process_time()
    for event in decode(DecodeRequest(str(path), (policy,))):
        if resize and isinstance(event, Frame):
            extractor.prepare(event.rgb[None, None])
    return time.process_time() - start


def tower(clips: int, image_size: int, runs: int) -> dict[str, list[float]]:
    """Return clips per CPU second of the micro-batcher and of the bare loops."""
    extractor = InternVideo2(model="s14", weights="random:0", image_size=image_size)
    batcher = MicroBatcher(extractor.load("cpu", 1), MICRO_BATCH)
    steps = np.random.default_rng(0).integers(0, 256, (clips, *extractor.prepared_shape()), np.uint8)
    network, _ = extractor.build_network()
    assert isinstance(network, InternVideo2Encoder)
    network.eval().requires_grad_(False)
    network.set_positions(extractor.frames, extractor.reading.grid)
    inputs = torch.from_numpy(steps).permute(0, 1, 4, 2, 3).float().div_(255).sub_(0.45).div_(0.27)

    def bare(size: int) -> Callable[[], None]:
        batches = torch.split(inputs, size)

        def loop() -> None:
            torch.set_num_threads(1)
            with torch.inference_mode():
                for batch in batches:
                    read(network, batch, extractor.reading)

        return loop

    def batched() -> None:
        batcher.run([("video", steps)])

    contenders = {
        "micro-batcher": batched,
        **{f"bare, batch {size}": bare(size) for size in (MICRO_BATCH, 2 * MICRO_BATCH)},
    }
    return measure(contenders, clips, runs, time.process_time)


if __name__ == "__main__":
    sys.exit(main())
