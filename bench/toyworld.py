"""Measure what CRA and CoQo gain on the toy world, over their baselines and without each of their parts.

    python bench/toyworld.py [NAMES …] [--seeds 10-14] [--dir DIR] [--workers 2] [--json PATH] [--figure PATH]

For each seed, a world is filmed and its store is built; then every variant is trained on it through ``jobs/train.py``
with that seed. Finished runs are not repeated, so the same command continues where it was stopped. The folder of a
world is named by the code of the toy world, the folder of a run by its settings, so results never mix.

Protocol: worlds 0, 1 and 2 were for choosing. World, features and settings were chosen with all splits of world 0 in
view. Each method then got the better of two learning rates, by its mean validation accuracy on the three worlds
(``tune-cra``, ``tune-coqo``); a variant without some part or input uses the rate of the whole. Worlds 10 to 14 are for
reporting. Tables give mean and standard deviation over worlds, and mean differences from another variant, paired by
world, with 95 % intervals (Student's t over the worlds, not corrected for the number of comparisons).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import settings
from settings.messages import available, nearest
from trainers import PRESETS, find_method

console = Console(highlight=False)

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
    ),
    "cra": Experiment(
        "cra",
        REPORTED,
        {"Temp[CLIP]": (*TEMP_CLIP, "loop.lr=1.5e-3"), "Temp[CLIP] NG": (*NG, "loop.lr=3e-3"), "CRA": ()},
        GROUNDING,
        ("IoP@.5 ood", "Acc@GQA ood"),
        {"CRA": "Temp[CLIP]"},
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
    ),
    "coqo-plug-in": Experiment(
        "coqo",
        REPORTED[:3],
        {"HCRN": HCRN, "HCRN with QGT": (*HCRN_QGT, "loop.lr=1e-3")},
        ANSWERS,
        ("all",),
        {"HCRN with QGT": "HCRN"},
    ),
    "coqo-questions": Experiment(
        "coqo",
        REPORTED[:3],
        {str(count): (f"data.max_questions={count}",) for count in (1, 2, 4)} | {"all (7.7)": ()},
        ANSWERS,
    ),
    "coqo-tokens": Experiment(
        "coqo",
        REPORTED[:3],
        {str(count): () if count == 4 else (f"model.qgt.tokens={count}",) for count in (0, 4, 16)},
        ANSWERS,
    ),
}


def command(*words: object) -> None:
    """Run one of our commands on one thread; show its errors and exit if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def world_folder(folder: Path, seed: int) -> Path:
    """Return the folder of a world, named by its seed and the code that makes it."""
    sources = [*sorted((ROOT / "examples").rglob("*.py")), ROOT / "pipeline/presets/toyworld.yaml"]
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return folder / f"world-{seed}-{code[:8]}"


def make_world(world: Path, seed: int, workers: int) -> None:
    """Film a world and build its store, unless that is done."""
    marker = world / "made"
    if not marker.exists():
        command("-m", "examples.toyworld", "--seed", seed, "--out", world, "--workers", workers)
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
    console.print(f"world {seed}: {method} {' '.join(overrides)}", style="dim")


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


def collect(folder: Path, experiment: Experiment, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the figures of every variant by world, and its differences from the variant it is compared with."""
    rows: dict[str, Any] = {}
    for name, overrides in experiment.variants.items():
        runs = [run_folder(world_folder(folder, seed), experiment.method, overrides, seed) for seed in seeds]
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


def show(name: str, collected: Mapping[str, Any]) -> None:
    """Print the figures of an experiment as a table, then its differences as another."""
    worlds = f"worlds {', '.join(map(str, collected['seeds']))}"
    figures = Table(title=f"{name}: % ({worlds})")
    differences = Table(title=f"{name}: differences in % ({worlds})")
    rows: Mapping[str, Any] = collected["rows"]
    for heading in ("variant", "parameters", *next(iter(rows.values()))["worlds"]):
        figures.add_column(heading, justify="left" if heading == "variant" else "right")
    for variant, row in rows.items():
        figures.add_row(variant, f"{row['parameters']:,}", *(spread(values) for values in row["worlds"].values()))
    console.print(figures)
    compared = {variant: row for variant, row in rows.items() if "against" in row}
    if compared:
        for heading in ("variant", "against", *next(iter(compared.values()))["differences"]):
            differences.add_column(heading, justify="left" if heading in ("variant", "against") else "right")
        for variant, row in compared.items():
            cells = [f"{mean:+.1f}" + (f" ± {half:.1f}" if half else "") for mean, half in row["differences"].values()]
            differences.add_row(variant, row["against"], *cells)
        console.print(differences)


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


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Experiments to run: {', '.join(EXPERIMENTS)} (default: all).")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Worlds, as 10-14 or 0,1 (default: the experiment's).")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Where worlds and runs are kept.")] = Path("out/bench-toyworld"),
    workers: Annotated[int, typer.Option(min=1, help="Runs at the same time, with one thread each.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw the plots of CoQo here (PNG).")] = None,
) -> None:
    """Film the worlds, train every variant that has no results, and print the tables."""
    chosen = names or list(EXPERIMENTS)
    for name in chosen:
        if name not in EXPERIMENTS:
            raise typer.BadParameter(
                f"no experiment is named {name!r}{nearest(name, EXPERIMENTS)} ({available(EXPERIMENTS)})"
            )
    folder = folder.absolute()
    used = {name: parse_seeds(seeds) if seeds else list(EXPERIMENTS[name].seeds) for name in chosen}
    worlds = {seed: world_folder(folder, seed) for seed in sorted(set(chain.from_iterable(used.values())))}
    for seed, world in worlds.items():
        make_world(world, seed, workers)
    runs = {
        run_folder(worlds[seed], EXPERIMENTS[name].method, overrides, seed): (name, overrides, seed)
        for name in chosen
        for seed in used[name]
        for overrides in EXPERIMENTS[name].variants.values()
    }
    with ThreadPoolExecutor(workers) as pool:
        trainings = [
            pool.submit(train, run, worlds[seed], EXPERIMENTS[name].method, overrides, seed)
            for run, (name, overrides, seed) in runs.items()
        ]
        for training in trainings:
            training.result()
    experiments = {name: collect(folder, EXPERIMENTS[name], used[name]) for name in chosen}
    for name, collected in experiments.items():
        show(name, collected)
    if figure is not None:
        draw(experiments, figure)
    if json_path is not None:
        json_path.write_text(json.dumps(experiments, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
