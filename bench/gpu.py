"""Measure on one GPU, in at most eight minutes, all that cannot be measured without one.

    python bench/gpu.py --out out/gpu                        everything, on the first visible GPU
    python bench/gpu.py --sections towers,throughput --minutes 4
    python bench/gpu.py --device cpu --quick                 the same code in half a minute on any machine; no figure
                                                             means anything

``OUT/gpu.json`` and ``OUT/SECTION.json`` are rewritten whenever something was measured, so that a run that is cut
leaves what it found. Sections, in their order:

    environment  versions, the card; TFLOP/s of matrix products, GB/s on the card and over PCIe
    towers       each tower in float32, bfloat16 and float16 against float32 on the CPU; same bits twice, everywhere
    throughput   each tower's micro-batcher against the best bare model; compiled and as a CUDA graph for information
    extraction   whole extractions of clips encoded here, against decoding and the model alone; how busy the GPU is
    training     CoQo's step on Swin-B maps and CRA's step with the paper's settings: memory and milliseconds
    memory       a card that is full but for a little: the micro-batch halves, and the rows are right
    nvdec        the video engine against PyAV: pixels after the resize, frames per second

It needs torch, torchvision, timm, transformers, h5py and pyarrow, and what ``bench/gpu_wheels.sh`` carries; it needs
neither Ray nor Stanza nor a network. The exit code is 1 if a section failed or a target is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

from bench.report import bench_parser, prose

# In the order of bench.on_gpu.runner.SECTIONS, which imports torch.
SECTIONS = ("environment", "towers", "throughput", "extraction", "training", "memory", "nvdec")
NEEDED = (
    *("av", "h5py", "numpy", "open_clip", "PIL", "psutil", "pyarrow", "pydantic", "rich", "safetensors", "timm"),
    *("torch", "torchvggish", "torchvision", "transformers", "yaml"),
)


_STARTED = time.monotonic()


def main() -> int:
    """Run the chosen sections, and hold the figures to the targets."""
    parser = bench_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the JSON files")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="sections to run, separated by commas")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of them")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to measure")
    parser.add_argument("--workers", type=int, help="decode workers; as many as there are CPUs if not given")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; bench/gpu_wheels.sh carries what is needed")
    from settings.messages import available, nearest  # here, because it needs pydantic

    names = arguments.sections.split(",")
    for name in names:
        if name not in SECTIONS:
            parser.error(f"no section is named {name!r}{nearest(name, SECTIONS)} ({available(SECTIONS)})")
    if arguments.device == "cuda":
        # One card is measured; where the driver's folder is hidden, this also tells the extraction that there is one.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; --device cpu --quick runs what needs none")
    return _measure(arguments, names)


def _measure(arguments: argparse.Namespace, names: list[str]) -> int:
    import torch

    from bench.on_gpu import Findings, Setup, run_sections
    from bench.on_gpu.runner import GRACE_S
    from bench.on_gpu.summary import report
    from pipeline.shared.sizing import available_cpus

    findings = Findings(arguments.out)
    folder = Path(tempfile.mkdtemp(prefix="reelstore-gpu-"))
    workers = arguments.workers or available_cpus()
    # Beside other work, threads that spin while they wait make a quick run slow.
    torch.set_num_threads(1 if arguments.quick else available_cpus())
    setup = Setup(torch.device(arguments.device), arguments.quick, folder, workers)
    seconds = max(0.0, 60 * arguments.minutes - GRACE_S - (time.monotonic() - _STARTED))
    try:
        run_sections(setup, names, findings, seconds, lambda text: print(text, flush=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    code = report(findings.sections, prose(__doc__)).finish(arguments)
    print(f"figures: {findings.folder}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
