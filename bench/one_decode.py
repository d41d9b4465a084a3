"""Measure what one decode for all towers saves: the preset ``all`` against single-feature extractions over 60 s clips.

    python bench/one_decode.py [--clips 3] [--runs 3] [--json PATH]

The towers are null models behind the real preparation of frames and sound, so that only decoding and preparing count.
``all`` computes five features in one pass: CLIP on 32 frames and on 60 segments, Swin-B, Swin-L and VGGish. It is
compared with three extractions, one per tower (CLIP on 32 frames, Swin-B, VGGish), and with one per feature. All of
them are our own: a single-feature extraction skips what it does not need, and the one for sound decodes no picture.

decode   CPU seconds of the decoding child process.
wall     wall seconds of whole extractions (plan, decode, prepare, shards, commits) with one decode worker.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.decode import make_clip
from bench.overhead import copies, whole_extraction
from extractors.base import Json, Model, OutputSpec
from extractors.clip import Clip
from extractors.swin import Swin
from extractors.vggish import Vggish
from pipeline.extract import PRESETS, Config, ready_features
from pipeline.media import AudioRequest, DecodeRequest, MediaProcess

TOWERS = ("clip", "swin_b", "vggish")
TARGET_DECODE, TARGET_WALL = 0.5, 0.6


class NullModel(Model):
    """Returns zeros, at once."""

    output = OutputSpec((8,), "zeros")

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        return np.zeros((len(batch), 8), np.float32)

    def numerics(self) -> dict[str, Json]:
        return {}


class _Null:
    """Replaces the network of the extractor class that comes after it among the bases."""

    def output(self) -> OutputSpec:
        return NullModel.output

    def load(self, device: str, threads: int | None = None) -> Model:
        return NullModel()


class NullClip(_Null, Clip):
    """CLIP's preparation without its network."""


class NullSwin(_Null, Swin):
    """Swin's preparation without its network."""


class NullVggish(_Null, Vggish):
    """VGGish's log-mel patches without its network."""


def null_features() -> dict[str, dict[str, Any]]:
    """Return the features of the preset ``all`` with null towers."""
    nulls = {"clip": NullClip, "swin": NullSwin, "vggish": NullVggish}
    preset = yaml.safe_load((PRESETS / "all.yaml").read_text())["features"]
    return {
        name: {
            **options,
            "extractor": f"bench.one_decode:{nulls[options['extractor']].__name__}",
            "weights": "random:0",
        }
        for name, options in preset.items()
    }


def extraction_config(features: Mapping[str, Any]) -> Config:
    """Return the configuration of an extraction with these features and one decode worker."""
    return Config.model_validate({"features": features, "run": {"decode_workers": 1, "device": "cpu"}})


def decode_cpu(videos: list[Path], config: Config) -> float:
    """Return the CPU seconds of a child that decodes what the features need of each video, its start included."""
    features = ready_features(config).values()
    policies = {
        json.dumps(feature.policy.spec(), sort_keys=True) for feature in features if feature.extractor.input == "frames"
    }
    audio = AudioRequest() if any(feature.extractor.input == "audio" for feature in features) else None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with MediaProcess() as media:
        for path in videos:
            for _ in media.decode(DecodeRequest(str(path), tuple(map(json.loads, sorted(policies))), audio)):
                pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def median_ratio(seconds: Mapping[str, list[float]], names: Sequence[str]) -> float:
    """Return the median over runs of the ratio of ``all`` to the sum of the named extractions of the same run."""
    sums = [sum(run) for run in zip(*(seconds[name] for name in names), strict=True)]
    return float(statistics.median(all_s / jobs_s for all_s, jobs_s in zip(seconds["all"], sums, strict=True)))


def main() -> int:
    """Measure and print; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=3, help="clips per extraction")
    parser.add_argument("--runs", type=int, default=3, help="runs of each extraction; medians are reported")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    features = null_features()
    extractions = {
        "all": extraction_config(features),
        **{name: extraction_config({name: options}) for name, options in features.items()},
    }
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in extractions} for clock in ("decode", "wall")
    }
    with tempfile.TemporaryDirectory() as folder:
        videos = copies(Path(folder) / "videos", arguments.clips, make_clip(60))
        paths = sorted(videos.iterdir())
        whole_extraction(videos, Path(folder) / "warm", extractions["all"], "local", limit=1)
        for run in range(arguments.runs):
            for name, config in extractions.items():
                seconds["decode"][name].append(decode_cpu(paths, config))
                seconds["wall"][name].append(whole_extraction(videos, Path(folder) / f"{name}{run}", config, "local"))
    result: dict[str, Any] = {"clips": arguments.clips, "runs": arguments.runs}
    for clock, target in (("decode", TARGET_DECODE), ("wall", TARGET_WALL)):
        result[clock] = {
            "seconds": {name: statistics.median(runs) for name, runs in seconds[clock].items()},
            "all_seconds": seconds[clock],
            "ratio": median_ratio(seconds[clock], TOWERS),
            "target": target,
            "ratio_to_each": median_ratio(seconds[clock], list(features)),
        }
    table = Table(title=f"One decode for all towers: {arguments.clips} clips of 60 s, median of {arguments.runs}")
    for column in ("", "decode, CPU s", "wall, s"):
        table.add_column(column, justify="right" if column else "left")
    for name in extractions:
        table.add_row(name, *(f"{result[clock]['seconds'][name]:.2f}" for clock in seconds))
    for title, ratio in (
        ("all / one extraction per tower (3)", "ratio"),
        ("all / one extraction per feature", "ratio_to_each"),
    ):
        table.add_row(title, *(f"{result[clock][ratio]:.2f}" for clock in seconds))
    table.add_row("target for the 3 towers", *(f"≤ {result[clock]['target']}" for clock in seconds))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["decode"]["ratio"] > TARGET_DECODE or result["wall"]["ratio"] > TARGET_WALL else 0


if __name__ == "__main__":
    sys.exit(main())
