"""Measure what CRA and CoQo gain on the toy world, over their baselines and without each of their parts.

    python bench/toyworld.py [NAMES …] [--seeds 10-14] [--dir DIR] [--workers 2] [--json PATH] [--figure PATH]
    python bench/toyworld.py --quick        one experiment of one epoch on a tiny world

For each seed, a world is filmed and its store is built; then every variant is trained on it through ``jobs/train.py``
with that seed, on one CPU thread. Finished runs are not repeated, so the same command continues where it was stopped.
The folder of a world is named by the code of the toy world, the folder of a run by its settings, so results never mix.

Protocol: worlds 0, 1 and 2 were for choosing. World, features and settings were chosen with all splits of world 0 in
view. Each method then got the better of two learning rates, by its mean validation accuracy on the three worlds
(``tune-cra``, ``tune-coqo``); a variant without some part or input uses the rate of the whole. Worlds 10 to 14 are for
reporting, those of parts, inputs and hosts 10 to 12. Tables give mean and standard deviation over worlds in %, and mean
differences from another variant in percentage points, paired by world, with 95 % intervals (Student's t over the
worlds, not corrected for the number of comparisons). CRA is compared with baselines of as many parameters.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import safe_open
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import settings
from bench.report import Cell, Column, Report, Table, bench_parser, prose
from settings.messages import available, nearest
from trainers import PRESETS, find_method

NOTES = (
    """What made the difference when settings were chosen: ``data.standardise``, features that say what is seen at which
    height wherever it stands across (``hue_hog`` with ``form: rows``), no dropout in the text encoder and a small
    weight of CMA; with the paper's, the whole of CRA answered far fewer questions of world 0's ``test_ood``.""",
    """A first kind of band videos gave the sound away by the jumps, a second asked for kinds of shapes, which no model
    learned from so few questions. Neither is reported.""",
)

NOTHING = ("model.gsg=false", "model.front=false", "model.back=false", "loss.align=0")
# Each variant below uses the better of its two learning rates; those of CRA and CoQo are in their presets. Temp[CLIP]
# is wide enough to have as many parameters as CRA.
TEMP_CLIP = ("model.method=temp_clip", "model.dim=96")
NG = (*TEMP_CLIP, "model.proposal=gaussian")
SINGLE = ("data.collective=false",)
ONE = ("data.max_questions=1",)
AVST = (*SINGLE, "model.method=avst")
# This is the smallest hierarchy that HCRN allows: 16 steps fill 5 clips of 5 frames.
HCRN = ("model.method=hcrn", "model.hcrn.clips=5", "model.hcrn.frames=5")
HCRN_QGT = (*HCRN, "model.hcrn.qgt=true")


def at_rates(variants: Mapping[str, tuple[str, ...]], *rates: str) -> dict[str, tuple[str, ...]]:
    """Return each variant at each learning rate."""
    return {
        f"{name}, lr {rate}": (*overrides, f"loop.lr={rate}") for name, overrides in variants.items() for rate in rates
    }


@dataclass(frozen=True)
class Experiment:
    """Variants of one method, trained on the same worlds."""

    method: str
    seeds: tuple[int, ...]
    """Worlds it runs on by default; the seed of a world is also that of its runs."""
    variants: Mapping[str, tuple[str, ...]]
    """Name of a variant to its overrides of the preset ``<method>-toyworld``."""
    metrics: Mapping[str, tuple[str, str]]
    """Heading of a column to the split and metric that it shows."""
    compared: tuple[str, ...] = ()
    """Headings whose differences are shown."""
    against: Mapping[str, str] = field(default_factory=dict)
    """Name of a variant to that of the variant it is compared with."""
    title: str = ""
    """What the table shows."""
    note: str = ""
    """What is seen in it."""


@dataclass(frozen=True)
class Small:
    """How a run is made smaller than what is reported; the defaults change nothing."""

    videos: int | None = None
    """Videos of a world, roughly."""
    epochs: int | None = None
    """Epochs of every training."""

    def experiment(self, experiment: Experiment) -> Experiment:
        """Return an experiment of so many epochs."""
        if self.epochs is None:
            return experiment
        shorter = (f"loop.epochs={self.epochs}",)
        variants = {name: (*overrides, *shorter) for name, overrides in experiment.variants.items()}
        return replace(experiment, variants=variants)


TUNING, REPORTED = (0, 1, 2), (10, 11, 12, 13, 14)
GROUNDING = {
    "Acc@VQA": ("test", "acc_vqa"),
    "Acc@VQA ood": ("test_ood", "acc_vqa"),
    "mIoU ood": ("test_ood", "miou"),
    "IoP@.5 ood": ("test_ood", "iop_50"),
    "Acc@GQA ood": ("test_ood", "acc_gqa"),
}
ANSWERS = {name: ("test", name) for name in ("Audio", "Visual", "Audio-Visual")} | {"all": ("test", "overall")}
EXPERIMENTS = {
    "tune-cra": Experiment(
        "cra",
        TUNING,
        at_rates({"CRA": (), "Temp[CLIP]": TEMP_CLIP, "Temp[CLIP] NG": NG}, "1.5e-3", "3e-3"),
        {"Acc@VQA val": ("val", "acc_vqa")},
        title="learning rates of CRA, on validation questions",
    ),
    "tune-coqo": Experiment(
        "coqo",
        TUNING,
        at_rates(
            {"CoQo": (), "one question": ONE, "single questions": SINGLE, "AVST": AVST}
            | {"HCRN": HCRN, "HCRN with QGT": HCRN_QGT},
            "1e-3",
            "2e-3",
        ),
        {"all, val": ("val", "overall")},
        title="learning rates of CoQo, on validation questions",
    ),
    "cra": Experiment(
        "cra",
        REPORTED,
        {"Temp[CLIP]": (*TEMP_CLIP, "loop.lr=1.5e-3"), "Temp[CLIP] NG": (*NG, "loop.lr=3e-3"), "CRA": ()},
        GROUNDING,
        ("IoP@.5 ood", "Acc@GQA ood"),
        {"CRA": "Temp[CLIP]"},
        title="CRA against its baselines",
    ),
    "cra-parts": Experiment(
        "cra",
        REPORTED[:3],
        {
            "CRA's network, no module": NOTHING,
            "+ GSG": (*NOTHING, "model.gsg=true"),
            "+ CMA": (*NOTHING, "loss.align=0.1"),
            "+ ECI, front door": (*NOTHING, "model.front=true"),
            "CRA without GSG and back door": ("model.gsg=false", "model.back=false"),
            "CRA without CMA": ("loss.align=0",),
            "CRA without ECI": ("model.front=false", "model.back=false"),
            "CRA": (),
        },
        GROUNDING,
        ("IoP@.5 ood", "Acc@GQA ood"),
        {
            **dict.fromkeys(("+ GSG", "+ CMA", "+ ECI, front door"), "CRA's network, no module"),
            **dict.fromkeys(("CRA without GSG and back door", "CRA without CMA", "CRA without ECI"), "CRA"),
        },
        title="CRA's modules",
        note=(
            "The back door acts on the query of GSG, so it cannot be without GSG. GSG carries the result; CMA and "
            "ECI change nothing that three worlds could show."
        ),
    ),
    "coqo": Experiment(
        "coqo",
        REPORTED,
        {
            "one question of a video in a step": ONE,
            "single questions, as many in a step": (*SINGLE, "loop.lr=1e-3"),
            "CoQo": (),
        },
        ANSWERS,
        ("all",),
        dict.fromkeys(("one question of a video in a step", "single questions, as many in a step"), "CoQo"),
        title="CoQo against single questions",
        note=(
            "'One question of a video in a step' reads the same videos in the same steps as CoQo, and learns from "
            "one of their questions each; 'single questions, as many in a step' reads a video for each question "
            "of a step. Collective training does not answer better than single questions when both see as many "
            "questions in a step and in all; it takes about half the time."
        ),
    ),
    "coqo-inputs": Experiment(
        "coqo",
        REPORTED[:3],
        {
            "question only": ("model.inputs=question",),
            "audio only": ("model.inputs=audio",),
            "video only": ("model.inputs=visual",),
            "AVST": AVST,
            "CoQo": (),
        },
        ANSWERS,
        ("all",),
        dict.fromkeys(("question only", "audio only", "video only", "AVST"), "CoQo"),
        title="what CoQo perceives, and AVST",
        note="AVST, with half of CoQo's parameters, is within what three worlds can tell.",
    ),
    "coqo-plug-in": Experiment(
        "coqo",
        REPORTED[:3],
        {"HCRN": HCRN, "HCRN with QGT": (*HCRN_QGT, "loop.lr=1e-3")},
        ANSWERS,
        ("all",),
        {"HCRN with QGT": "HCRN"},
        title="HCRN as a host of QGT",
        note=(
            "Collective training, with and without QGT before HCRN's relation units. The plug-in neither helps "
            "nor hurts here, on flat scenes and by what three worlds can tell."
        ),
    ),
    "coqo-questions": Experiment(
        "coqo",
        REPORTED[:3],
        {str(count): (f"data.max_questions={count}",) for count in (1, 2, 4)} | {"all (7.7)": ()},
        ANSWERS,
        title="questions of a video in a step",
        note="The same videos and steps. More questions of a video in a step help up to all of them.",
    ),
    "coqo-tokens": Experiment(
        "coqo",
        REPORTED[:3],
        {str(count): () if count == 4 else (f"model.qgt.tokens={count}",) for count in (0, 4, 16)},
        ANSWERS,
        title="learnable tokens",
        note="Without learnable tokens CoQo is worse; many are hardly better than four.",
    ),
}


def command(*words: object) -> None:
    """Run one of our commands on one thread; show its errors and exit if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def world_folder(folder: Path, seed: int, videos: int | None = None) -> Path:
    """Return the folder of a world, named by its seed, the code that makes it and its size if that is another."""
    sources = [*sorted((ROOT / "examples").rglob("*.py")), ROOT / "pipeline/presets/toyworld.yaml"]
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return folder / (f"world-{seed}-{code[:8]}" + (f"-{videos}" if videos else ""))


def make_world(world: Path, seed: int, workers: int, videos: int | None = None) -> None:
    """Film a world and build its store, unless that is done."""
    marker = world / "made"
    if not marker.exists():
        size = ("--videos", videos) if videos else ()
        command("-m", "examples.toyworld", "--seed", seed, "--out", world, "--workers", workers, *size)
        command("jobs/refresh.py", world / "dataset.yaml", "--executor", "local")
        marker.touch()


def run_folder(world: Path, method: str, overrides: Sequence[str], seed: int) -> Path:
    """Return the folder of a run, named by its settings, so that experiments share runs."""
    raw, origin = settings.read(PRESETS, f"{method}-toyworld", None, [*overrides, f"loop.seed={seed}"])
    chosen = settings.validate(find_method(method).settings, raw, origin).model_dump_json()
    return world / "runs" / f"{method}-{hashlib.sha256(chosen.encode()).hexdigest()[:12]}"


def results(folder: Path) -> dict[str, dict[str, float]] | None:
    """Return the metrics of a finished run by split, or None if it has not finished."""
    path = folder / "results.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content.get("metrics")


def train(folder: Path, world: Path, method: str, overrides: Sequence[str], seed: int) -> None:
    """Train one variant, unless it has results."""
    if results(folder) is not None:
        return
    words = ["jobs/train.py", method, "--preset", f"{method}-toyworld", "--store", world / "store", "--out", folder]
    all_overrides = [*overrides, "loop.threads=1", "loop.tensorboard=false", "loop.device=cpu"]
    command(*words, "--seed", seed, *(word for override in all_overrides for word in ("--set", override)))
    print(f"world {seed}: {method} {' '.join(overrides)}", flush=True)


def parameters(folder: Path) -> int:
    """Return the number of trained parameters; the scales that features are divided by are not trained."""
    with safe_open(folder / "best.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith(("scale.", "scales.")))


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its 95 % interval (Student's t); None in its place for one world."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, None
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return mean, float(stats.t.ppf(0.975, len(differences) - 1)) * error


def collect(worlds: Mapping[int, Path], experiment: Experiment, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the figures of every variant by world, and its differences from the variant it is compared with."""
    rows: dict[str, Any] = {}
    for name, overrides in experiment.variants.items():
        runs = [run_folder(worlds[seed], experiment.method, overrides, seed) for seed in seeds]
        metrics = [results(run) or {} for run in runs]
        rows[name] = {
            "overrides": list(overrides),
            "parameters": parameters(runs[0]),
            "worlds": {
                heading: [float(by_split[split][metric]) for by_split in metrics]
                for heading, (split, metric) in experiment.metrics.items()
            },
        }
    for name, other in experiment.against.items():
        own, others = rows[name]["worlds"], rows[other]["worlds"]
        rows[name]["against"] = other
        rows[name]["differences"] = {
            heading: interval([a - b for a, b in zip(own[heading], others[heading], strict=True)])
            for heading in experiment.compared
        }
    return {"seeds": list(seeds), "rows": rows}


def tables(experiment: Experiment, collected: Mapping[str, Any]) -> list[Table]:
    """Return the figures of an experiment as a table, then its differences as another."""
    worlds = f"worlds {', '.join(map(str, collected['seeds']))}"
    rows: Mapping[str, Any] = collected["rows"]
    figures: list[list[Cell]] = [
        [variant, row["parameters"], *(spread(values) for values in row["worlds"].values())]
        for variant, row in rows.items()
    ]
    columns: list[Column | str] = ["variant", Column("parameters"), *map(Column, experiment.metrics)]
    differences: list[list[Cell]] = [
        [
            variant,
            row["against"],
            *(f"{mean:+.1f}" + (f" ± {half:.1f}" if half else "") for mean, half in row["differences"].values()),
        ]
        for variant, row in rows.items()
        if "against" in row
    ]
    compared: list[Column | str] = ["variant", "against", *map(Column, experiment.compared)]
    if not differences:
        return [Table(f"{experiment.title}, % ({worlds})", columns, figures, experiment.note)]
    return [
        Table(f"{experiment.title}, % ({worlds})", columns, figures),
        Table(f"{experiment.title}: differences, points", compared, differences, experiment.note),
    ]


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation as text."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def draw(experiments: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Plot CoQo's accuracy by the number of questions trained together and by the number of learnable tokens."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {"coqo-questions": "questions of a video in a step", "coqo-tokens": "learnable tokens m"}
    shown = [name for name in panels if name in experiments]
    figure, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.2), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], shown, strict=True):
        rows = experiments[name]["rows"]
        for heading in next(iter(rows.values()))["worlds"]:
            points = [row["worlds"][heading] for row in rows.values()]
            means = [statistics.mean(scores) for scores in points]
            errors = [statistics.stdev(scores) if len(scores) > 1 else 0.0 for scores in points]
            width = 2.4 if heading == "all" else 1.2
            axis.errorbar(range(len(means)), means, errors, marker="o", capsize=3, linewidth=width, label=heading)
        axis.set_xticks(range(len(rows)), list(rows))
        axis.set_xlabel(panels[name])
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("test accuracy, %")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that ``10-14`` or ``0,1,2`` stands for."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]


def run(names: Sequence[str], asked: Sequence[int] | None, folder: Path, workers: int, small: Small) -> dict[str, Any]:
    """Film the worlds, train every variant that has no results, and return the figures by experiment."""
    experiments = {name: small.experiment(EXPERIMENTS[name]) for name in names}
    seeds = {name: list(asked or experiment.seeds) for name, experiment in experiments.items()}
    every = sorted(set(chain.from_iterable(seeds.values())))
    worlds = {seed: world_folder(folder, seed, small.videos) for seed in every}
    for seed, world in worlds.items():
        make_world(world, seed, workers, small.videos)
    runs = {
        run_folder(worlds[seed], experiment.method, overrides, seed): (experiment.method, overrides, seed)
        for name, experiment in experiments.items()
        for seed in seeds[name]
        for overrides in experiment.variants.values()
    }
    with ThreadPoolExecutor(workers) as pool:
        trainings = [
            pool.submit(train, run, worlds[seed], method, overrides, seed)
            for run, (method, overrides, seed) in runs.items()
        ]
        for training in trainings:
            training.result()
    return {name: collect(worlds, experiment, seeds[name]) for name, experiment in experiments.items()}


def main() -> int:
    """Film, train and report."""
    parser = bench_parser(__doc__, names=["coqo"], seeds=[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"experiments ({available(EXPERIMENTS)}; default: all)"
    )
    parser.add_argument("--seeds", type=parse_seeds, help="worlds, as 10-14 or 0,1 (default: the experiment's)")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("out/bench-toyworld"),
        help="where worlds and runs are kept",
    )
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, with one thread each")
    parser.add_argument("--figure", type=Path, help="also draw the plots of CoQo here (PNG)")
    arguments = parser.parse_args()
    names = arguments.names or (["coqo-plug-in"] if arguments.quick else list(EXPERIMENTS))
    for name in names:
        if name not in EXPERIMENTS:
            parser.error(f"no experiment is named {name!r}{nearest(name, EXPERIMENTS)} ({available(EXPERIMENTS)})")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if arguments.quick else arguments.dir.absolute()
        small = Small(40, 1) if arguments.quick else Small()
        found = run(names, arguments.seeds, folder, arguments.workers, small)
    if arguments.figure is not None:
        draw(found, arguments.figure)
    return Report(
        title="CRA and CoQo on the toy world",
        about=prose(__doc__),
        tables=[table for name, collected in found.items() for table in tables(EXPERIMENTS[name], collected)],
        notes=NOTES,
        figures=found,
        uses=("torch", "numpy", "av"),
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
