"""Measure what one decode for all towers saves: the preset ``all`` against single-feature extractions over 60 s clips.

    python bench/one_decode.py [--clips 3] [--runs 3] [--quick] [--json PATH]

The towers are null models behind the real preparation of frames and sound, so that only decoding and preparing count.
``all`` computes five features in one pass: CLIP on 32 frames and on 60 segments, Swin-B, Swin-L and VGGish. It is
compared with three extractions, one per tower (CLIP on 32 frames, Swin-B, VGGish), and with one per feature. All of
them are our own: a single-feature extraction skips what it does not need, and the one for sound decodes no picture.

Decoding is measured in CPU seconds of the decoding child process; whole extractions (plan, decode, prepare, shards,
commits) with one decode worker in seconds by the wall.
"""

from __future__ import annotations

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

from bench.decode import USES, make_clip
from bench.overhead import copies, whole_extraction
from bench.report import Column, Report, Table, Target, bench_parser, prose
from extractors.base import Json, Model, OutputSpec
from extractors.clip import Clip
from extractors.swin import Swin
from extractors.vggish import Vggish
from pipeline.extract import PRESETS, Config, ready_features
from pipeline.media import AudioRequest, DecodeRequest, MediaProcess

TOWERS = ("clip", "swin_b", "vggish")
TARGET_DECODE, TARGET_WALL = 0.5, 0.6
NOTE = """What one pass for all pays is libavcodec on the frames that others refer to. The extractions for CLIP and for
Swin pay that as well, the one for VGGish does not: it decodes no picture. So even if CLIP's frames and the sound came
free, the ratio to three towers would not be far below its target. The start of a child, once for all and once for each
extraction, is in the figures; without it the ratio is larger."""


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


def measure(clips: int, runs: int, film: int) -> dict[str, Any]:
    """Measure all extractions in turn; return medians, all seconds and ratios by clock."""
    features = null_features()
    extractions = {
        "all": extraction_config(features),
        **{name: extraction_config({name: options}) for name, options in features.items()},
    }
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in extractions} for clock in ("decode", "wall")
    }
    with tempfile.TemporaryDirectory() as folder:
        videos = copies(Path(folder) / "videos", clips, make_clip(film))
        paths = sorted(videos.iterdir())
        whole_extraction(videos, Path(folder) / "warm", extractions["all"], "local", limit=1)
        for run in range(runs):
            for name, config in extractions.items():
                seconds["decode"][name].append(decode_cpu(paths, config))
                seconds["wall"][name].append(whole_extraction(videos, Path(folder) / f"{name}{run}", config, "local"))
    return {
        clock: {
            "seconds": {name: statistics.median(values) for name, values in by_name.items()},
            "all_seconds": by_name,
            "ratio": median_ratio(by_name, TOWERS),
            "ratio_to_each": median_ratio(by_name, list(features)),
        }
        for clock, by_name in seconds.items()
    }


def main() -> int:
    """Measure and report; return 1 if a target is missed."""
    parser = bench_parser(__doc__, clips=1, runs=1, seconds=3)
    parser.add_argument("--clips", type=int, default=3, help="clips per extraction")
    parser.add_argument("--runs", type=int, default=3, help="runs of each extraction; medians are reported")
    parser.add_argument("--seconds", type=int, default=60, help="length of a clip")
    arguments = parser.parse_args()
    found = measure(arguments.clips, arguments.runs, arguments.seconds)
    decode, wall = found["decode"], found["wall"]
    title = f"{arguments.clips} clips of {arguments.seconds} s, median of {arguments.runs}"
    rows = [(name, decode["seconds"][name], wall["seconds"][name]) for name in decode["seconds"]]
    ratios = [
        ("all, to one extraction per tower (3)", decode["ratio"], wall["ratio"]),
        ("all, to one extraction per feature (5)", decode["ratio_to_each"], wall["ratio_to_each"]),
    ]
    return Report(
        title="One decode for all towers",
        about=prose(__doc__),
        tables=[
            Table(title, ["extraction", Column("decode, CPU s", ".2f"), Column("whole, s", ".2f")], rows),
            Table("ratios", ["", Column("decode", ".2f"), Column("whole", ".2f")], ratios),
        ],
        targets=[
            Target("decode, to three towers", decode["ratio"], TARGET_DECODE),
            Target("whole extraction, to three towers", wall["ratio"], TARGET_WALL),
        ],
        notes=[NOTE],
        figures={"clips": arguments.clips, "runs": arguments.runs, "seconds": arguments.seconds, **found},
        uses=USES,
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
