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
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

from bench import trials
from bench.report import Report, bench_parser, prose
from bench.trials import Experiment, Place, Places, command, parse_seeds, tables
from examples.toyworld.kinds import DEFAULT
from settings.messages import available, nearest

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


def world_folder(folder: Path, seed: int, videos: int | None = None, kind: str = DEFAULT) -> Path:
    """Return the folder of a world: its seed, the code that makes it, and its kind and size if they are others."""
    sources = [*sorted((ROOT / "examples").rglob("*.py")), ROOT / "pipeline/presets/toyworld.yaml"]
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    others = (kind if kind != DEFAULT else "", str(videos or ""))
    return folder / "-".join(("world", str(seed), code[:8], *filter(None, others)))


def make_world(world: Path, seed: int, workers: int, videos: int | None = None, kind: str = DEFAULT) -> None:
    """Film a world and build its store, unless that is done."""
    marker = world / "made"
    if not marker.exists():
        size = ("--videos", videos) if videos else ()
        command("-m", "examples.toyworld", "--seed", seed, "--out", world, "--workers", workers, "--kind", kind, *size)
        command("jobs/refresh.py", world / "dataset.yaml", "--executor", "local")
        marker.touch()


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
        for heading in next(iter(rows.values()))["trials"]:
            points = [row["trials"][heading] for row in rows.values()]
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


def places(worlds: Mapping[int, Path], preset: str = "") -> Places:
    """Return where a method is trained on the world of a seed, by its own preset for the toy world if none is given."""
    machine = (*Place.machine, "loop.device=cpu")
    return lambda method, seed: Place(
        worlds[seed] / "store", preset or f"{method}-toyworld", worlds[seed] / "runs", machine
    )


def make_worlds(
    folder: Path, seeds: Iterable[int], workers: int, videos: int | None = None, kind: str = DEFAULT
) -> dict[int, Path]:
    """Make the worlds of seeds, unless that is done; return their folders."""
    worlds = {seed: world_folder(folder, seed, videos, kind) for seed in sorted(set(seeds))}
    for seed, world in worlds.items():
        make_world(world, seed, workers, videos, kind)
    return worlds


def run(names: Sequence[str], asked: Sequence[int] | None, folder: Path, workers: int, small: Small) -> dict[str, Any]:
    """Film the worlds, train every variant that has no results, and return the figures by experiment."""
    experiments = {name: small.experiment(EXPERIMENTS[name]) for name in names}
    seeds = {name: list(asked or experiment.seeds) for name, experiment in experiments.items()}
    worlds = make_worlds(folder, chain.from_iterable(seeds.values()), workers, small.videos)
    return trials.run(experiments, seeds, places(worlds), workers)


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
        tables=[table for name, collected in found.items() for table in tables(EXPERIMENTS[name], collected, "worlds")],
        notes=NOTES,
        figures=found,
        uses=("torch", "numpy", "av"),
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
