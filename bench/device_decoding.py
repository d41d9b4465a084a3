"""Measure what ``media.backend=nvdec`` changes: pixels against PyAV, and wanted frames per second.

    python bench/device_decoding.py [--device cuda] [--frames 32] [--at-once 1 4 8] [--quick] [--json PATH] [FILE...]

Frames are prepared as for CLIP ViT-B/32 (short side to 224, centre crop). On the device they are decoded and resized
there; PyAV decodes in this process, on one thread, and Pillow resizes. A file that the device refuses is listed with
the reason. Without files, a clip of 60 s is filmed. On the device ``cpu``, the default without a GPU, FFmpeg decodes:
that shows what the resize costs in pixels, which is nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import numpy as np
import torch
from numpy.typing import NDArray

from bench.decode import USES, make_clip
from bench.report import Column, Report, Table, bench_parser, prose
from extractors import Extractor, build
from pipeline.media import DecodeRequest, Frame, Header, Picks, RefusalError, decode, read_picks
from pipeline.media.torchcodec_backend import why_unavailable


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between two decoders' prepared frames, in levels of 0 to 255.

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


def prepared_on_device(path: Path, policy: dict[str, Any], extractor: Extractor, device: str) -> torch.Tensor:
    """Decode and prepare the wanted frames on a device, as an extraction does: ``uint8 [N,S,S,3]`` there.

    Raises
    ------
    RefusalError
        If the file would be decoded by PyAV instead.
    """
    header, *events = decode(DecodeRequest(str(path), (policy,), backend="nvdec"))
    assert isinstance(header, Header)
    if "fallback" in header.media:
        raise RefusalError("nvdec", header.media["fallback"]["reason"])
    (picks,) = (event for event in events if isinstance(event, Picks))
    size = (header.media["display_height"], header.media["display_width"])
    steps = [extractor.prepare_tensor(frames) for _, frames in read_picks(str(path), picks, size, device)]
    return torch.cat([chunk for chunk in steps if chunk is not None])


def prepared_by_pyav(path: Path, policy: dict[str, Any], extractor: Extractor) -> NDArray[np.uint8]:
    """Decode the wanted frames with PyAV and prepare them with Pillow: ``uint8 [N,S,S,3]``."""
    events = decode(DecodeRequest(str(path), (policy,)))
    return np.concatenate([extractor.prepare(event.rgb[None]) for event in events if isinstance(event, Frame)])


def difference(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Difference:
    """Compare ``uint8 [N,S,S,3]`` of two decoders."""
    apart = np.abs(frames.astype(np.int16) - truth)
    square = float((apart.astype(np.float64) ** 2).mean())
    psnr = 10 * math.log10(255**2 / square) if square else None
    return Difference(len(frames), float(apart.mean()), int(apart.max()), psnr)


def rate(work: Callable[[], int], at_once: int, rounds: int = 3) -> float:
    """Return frames per second of work that returns its number of frames, in some threads; the first does not count."""
    work()
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        frames = sum(pool.map(lambda _: work(), range(rounds * at_once)))
    return frames / (time.perf_counter() - started)


def compare(
    path: Path, policy: dict[str, Any], extractor: Extractor, device: str, at_once: Sequence[int]
) -> dict[str, Any]:
    """Return the difference, PyAV's rate and the device's rates by files at a time; or why the device refuses."""
    truth = prepared_by_pyav(path, policy, extractor)
    try:
        ours = prepared_on_device(path, policy, extractor, device).cpu().numpy()
    except RefusalError as refusal:
        return {"refused": refusal.reason}

    def on_device() -> int:
        frames = prepared_on_device(path, policy, extractor, device)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return len(frames)

    return {
        "difference": asdict(difference(ours, truth)),
        "pyav_frames_per_s": rate(lambda: len(prepared_by_pyav(path, policy, extractor)), 1),
        "device_frames_per_s": {count: rate(on_device, count) for count in at_once},
    }


def report(files: dict[str, dict[str, Any]], device: str, at_once: Sequence[int]) -> Report:
    """Return the figures as two tables."""
    compared = {name: row for name, row in files.items() if "refused" not in row}
    pixels = [
        (name, row["difference"]["mean"], row["difference"]["largest"], row["difference"]["psnr_db"] or "equal")
        for name, row in compared.items()
    ]
    rates = [
        (name, row["pyav_frames_per_s"], *(row["device_frames_per_s"][count] for count in at_once))
        for name, row in compared.items()
    ]
    counts = [Column(f"{device}, {count} at once", ".0f") for count in at_once]
    return Report(
        title=f"Decoding on the device: {device}",
        about=prose(__doc__),
        tables=[
            Table(
                f"pixels of {device} against PyAV, levels of 0 to 255",
                ["file", Column("mean", ".3f"), Column("largest"), Column("PSNR, dB", ".1f")],
                pixels,
            ),
            Table("wanted frames per second", ["file", Column("PyAV", ".0f"), *counts], rates),
        ],
        notes=[f"{name} was refused: {row['refused']}" for name, row in files.items() if "refused" in row],
        figures={"device": device, "at_once": at_once, "files": files},
        uses=(*USES, "torch"),
    )


def main() -> int:
    """Measure and report."""
    on_gpu = torch.cuda.is_available()
    parser = bench_parser(__doc__, frames=4, at_once=[1])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--frames", type=int, default=32, help="wanted frames of each file")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 8] if on_gpu else [1], help="files at a time")
    arguments = parser.parse_args()
    reason = why_unavailable("torchcodec" if arguments.device == "cpu" else "nvdec")
    if reason is not None:
        return Report(f"Decoding on the device: {arguments.device}", skipped=reason).finish(arguments)
    extractor = build("clip", {"model": "ViT-B-32", "weights": "random:0", "crop": "center_crop"})
    policy = {"policy": "uniform", "n": arguments.frames}
    files = {
        path.name: compare(path, policy, extractor, arguments.device, arguments.at_once)
        for path in arguments.files or [make_clip(3 if arguments.quick else 60)]
    }
    return report(files, arguments.device, arguments.at_once).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
