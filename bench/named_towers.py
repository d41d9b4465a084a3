"""Compare the micro-batcher with bare networks for towers that are named: of timm, transformers, BEATs, InternVideo2.

Rates are in steps per CPU second, on the CPU, with random weights. The bare loop calls the library's own network on
tensors that are ready: pictures normalised, spectrograms padded or repeated to what the model takes. It may also take
twice the micro-batch; the better of both counts. Where a network of full size is slow on a CPU, fewer blocks of it run,
on inputs of full size.

The front ends of sound, which run where videos are decoded, are compared with the feature extractors of transformers on
the same windows of one second, in windows per CPU second.

    python bench/named_towers.py                       all, in about two minutes
    python bench/named_towers.py --towers beats clap   some
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import numpy as np
import torch
import transformers

from bench.models import TARGET, bare_loop, measure
from bench.report import Column, Report, Table, Target, bench_parser, prose
from examples.clips import shapes_of, waveform
from extractors import MicroBatcher, build
from extractors.batching import noise_steps
from extractors.trained import Trained

Call = Callable[[torch.Tensor], torch.Tensor]

warnings.filterwarnings("ignore", "At least one mel filter has all zero values")  # AST's lowest, as published


@dataclass(frozen=True, slots=True)
class Tower:
    """One tower.

    Attributes
    ----------
    extractor, options
        What is built, with random weights.
    call
        Returns what of the network the bare loop calls.
    ready
        Returns the network's input for prepared steps.
    micro_batch, steps
        Steps of a forward pass, and of a measurement; the former divides the latter.
    folder
        Configuration and processor of a model of transformers, which are written into a folder.
    note
        What is not of full size.
    """

    extractor: str
    options: dict[str, Any]
    call: Callable[[Any], Call]
    ready: Callable[[Any, torch.Tensor], torch.Tensor]
    micro_batch: int = 4
    steps: int = 8
    folder: tuple[Any, ...] = ()
    note: str = ""

    def build(self, root: Path) -> Trained:
        """Make the extractor; a model's folder is written below ``root``."""
        options = {**self.options, "weights": "random:0"}
        if self.folder:
            folder = root / self.folder[0].model_type
            for part in self.folder:
                part.save_pretrained(folder)
            options["model"] = str(folder)
        extractor = build(self.extractor, options)
        assert isinstance(extractor, Trained)
        return extractor


def _pictures(_: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Turn ``uint8 [N,S,S,3]`` into ``[N,3,S,S]``, normalised, in channels_last order."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(0.45).div_(0.27)


def _clips(_: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Turn ``uint8 [N,F,S,S,3]`` into ``[N,F,3,S,S]``."""
    images = _pictures(None, pixels.flatten(0, 1))
    return images.view(*pixels.shape[:2], *images.shape[1:])


_TRANSFORMERS: Any = transformers  # its feature extractors are not annotated
TOWERS = {
    "timm": Tower("timm", {"model": "vit_small_patch16_224"}, lambda network: network, _pictures, note="ViT-S/16"),
    "hf": Tower(
        "hf",
        {},
        lambda network: lambda images: network.vision(pixel_values=images).pooler_output,
        _pictures,
        micro_batch=3,
        steps=6,
        folder=(
            transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224),
            transformers.BitImageProcessor(crop_size=224, size={"shortest_edge": 256}),
        ),
        note="DINOv2-S/14",
    ),
    "ast": Tower(
        "hf_audio",
        {},
        lambda network: lambda times: network.model(input_values=times).pooler_output,
        lambda network, frames: network.whole(frames),
        micro_batch=2,
        steps=4,
        folder=(transformers.ASTConfig(num_hidden_layers=2), _TRANSFORMERS.ASTFeatureExtractor()),
        note="AST, 2 of its 12 blocks, 1,212 tokens",
    ),
    "clap": Tower(
        "hf_audio",
        {},
        lambda network: lambda times: network.model(input_features=times[:, None]).audio_embeds,
        lambda network, frames: network.whole(frames),
        folder=(transformers.ClapConfig(), transformers.ClapFeatureExtractor(truncation="rand_trunc")),
        note="CLAP (HTSAT-tiny)",
    ),
    "beats": Tower(
        "beats",
        {},
        lambda network: lambda energies: network(energies).mean((1, 2)),
        lambda _, energies: energies,
        note="BEATs base",
    ),
    "internvideo2": Tower(
        "internvideo2",
        {"model": "s14", "frames": 4, "image_size": 112, "f0": 4},
        lambda network: lambda clips: network.clip_projector(network.tokens(clips)),
        _clips,
        note="InternVideo2-S, 4 frames of 112 pixels",
    ),
}


def main() -> int:
    """Measure and report; return 1 if a target is missed."""
    parser = bench_parser(__doc__, repeats=1, windows=2, towers=["timm", "beats"])
    parser.add_argument("--towers", nargs="+", default=list(TOWERS), choices=list(TOWERS), metavar="NAME", help="which")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a network")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each; medians are reported")
    parser.add_argument("--windows", type=int, default=20, help="windows of one second for a front end")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, targets, figures = [], [], {}
    fronts = []
    with tempfile.TemporaryDirectory() as root:
        for name in arguments.towers:
            extractor = TOWERS[name].build(Path(root))
            found = _against_bare(TOWERS[name], extractor, arguments.threads, arguments.repeats)
            figures[name] = found
            rows.append(
                (TOWERS[name].note, found["ours"], found["bare"], found["ratio"], found["least"], found["most"])
            )
            targets.append(Target(f"{name}, to the bare network", found["ratio"], TARGET["cpu"], at_most=False))
            if extractor.input == "audio" and TOWERS[name].folder:
                front = _against_feature_extractor(TOWERS[name], extractor, arguments.windows, arguments.repeats)
                figures[f"{name}, front end"] = front
                fronts.append((TOWERS[name].note.partition(",")[0], front["ours"], front["theirs"], front["ratio"]))
    shares = [Column("ratio", ".3f"), Column("least", ".3f"), Column("most", ".3f")]
    tables = [
        Table(
            f"steps per CPU second, median of {arguments.repeats}, {arguments.threads} threads",
            ["", Column("micro-batcher", ".2f"), Column("bare", ".2f"), *shares],
            rows,
        )
    ]
    if fronts:
        columns: list[Column | str] = ["", Column("ours", ".0f"), Column("transformers", ".0f"), Column("ratio", ".1f")]
        tables.append(Table("front ends: windows per CPU second", columns, fronts))
    return Report(
        title="Towers by name, and of sound",
        about=prose(__doc__),
        tables=tables,
        targets=targets,
        figures=figures,
        uses=("torch", "transformers", "timm", "numpy"),
    ).finish(arguments)


def _against_bare(tower: Tower, extractor: Trained, threads: int, repeats: int) -> dict[str, Any]:
    """Compare the micro-batcher with the bare loop, on the same prepared steps."""
    steps = noise_steps((tower.steps, *extractor.prepared_shape()), np.dtype(extractor.prepared_dtype))
    batcher = MicroBatcher(extractor.load("cpu", threads), tower.micro_batch)
    network: Any = extractor.build_network()[0].eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if hasattr(network, "set_positions"):
        network.set_positions(tower.options["frames"], tower.options["image_size"] // 14)
    with torch.inference_mode():
        tensors = tower.ready(network, torch.from_numpy(steps))
    contenders: dict[str, Callable[[], None]] = {"ours": lambda: _discard(batcher.run([("row", steps)]))}
    for size in (tower.micro_batch, 2 * tower.micro_batch):
        contenders[f"bare {size}"] = bare_loop(tower.call(network), tensors, size, threads)
    rates = measure(contenders, len(steps), repeats, time.process_time)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max((name for name in medians if name != "ours"), key=medians.__getitem__)
    # The median of the pairwise ratios: neighbours in time share whatever else the machine is doing.
    ratios = [ours / bare for ours, bare in zip(rates["ours"], rates[best], strict=True)]
    return {
        "ours": medians["ours"],
        "bare": medians[best],
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "rates": rates,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _against_feature_extractor(tower: Tower, extractor: Trained, windows: int, repeats: int) -> dict[str, Any]:
    """Compare ``prepare`` with the library's feature extractor, window by window, as it takes them."""
    rate = extractor.rate
    sound = np.stack([waveform(shapes_of(seed), 1.0, rate) for seed in range(windows)])
    processor = tower.folder[1]

    def theirs() -> None:
        for window in sound:
            processor(window, sampling_rate=rate, return_tensors="np")

    rates = measure(
        {"ours": lambda: _discard(extractor.prepare(sound)), "theirs": theirs}, windows, repeats, time.process_time
    )
    ours, library = (statistics.median(rates[name]) for name in ("ours", "theirs"))
    return {"ours": ours, "theirs": library, "ratio": ours / library, "rates": rates}


def _discard(_: object) -> None:
    """Let a result go."""


if __name__ == "__main__":
    sys.exit(main())
