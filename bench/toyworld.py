"""What CRA and CoQo gain on the toy world, over their baselines and without each of their parts.

    python bench/toyworld.py [NAMES …] [--seeds 10-14] [--dir DIR] [--workers 2] [--json PATH] [--figure PATH]

For each seed a world is filmed and its store made, then every variant is trained on it through ``jobs/train.py`` with
that seed. A run whose results are there is not repeated, so the command goes on where it was stopped.

Protocol: worlds 0, 1 and 2 were for choosing (``tune-cra``, ``tune-coqo``: two learning rates for each method, picked
by validation answers alone; never by a test split). Worlds 10 to 14 were run once, after that. Tables give mean and
standard deviation over worlds, and the mean difference from the reference, world by world, with its 95 % interval
(Student's t over the worlds).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
console = Console(highlight=False)

NOTHING = ("model.gsg=false", "model.front=false", "model.back=false", "loss.align=0")
# Wide enough for as many parameters as CRA has.
TEMP_CLIP = ("model.method=temp_clip", "model.dim=96")
SINGLE = ("data.collective=false",)


@dataclass(frozen=True)
class Experiment:
    """Variants of one method: names to overrides of its preset ``<method>-toyworld``.

    Attributes
    ----------
    metrics : what is shown: heading to (split, metric).
    reference : the variant that others are compared with, by the last metric.
    """

    method: str
    seeds: tuple[int, ...]
    variants: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[str, str]]
    reference: str


TUNING, REPORTED = (0, 1, 2), (10, 11, 12, 13, 14)
GROUNDING = {
    "Acc@VQA": ("test", "acc_vqa"),
    "Acc@VQA ood": ("test_ood", "acc_vqa"),
    "IoP@.5 ood": ("test_ood", "iop_50"),
    "mIoU ood": ("test_ood", "miou"),
    "Acc@GQA ood": ("test_ood", "acc_gqa"),
}
ANSWERS = {name: ("test", name) for name in ("Audio", "Visual", "Audio-Visual")} | {"all": ("test", "overall")}
EXPERIMENTS = {
    "tune-cra": Experiment(
        "cra",
        TUNING,
        {
            "CRA, lr 1.5e-3": ("loop.lr=1.5e-3",),
            "CRA, lr 3e-3": ("loop.lr=3e-3",),
            "Temp[CLIP], lr 1.5e-3": (*TEMP_CLIP, "loop.lr=1.5e-3"),
            "Temp[CLIP], lr 3e-3": (*TEMP_CLIP, "loop.lr=3e-3"),
        },
        {"Acc@VQA val": ("val", "acc_vqa")},
        "CRA, lr 1.5e-3",
    ),
    "tune-coqo": Experiment(
        "coqo",
        TUNING,
        {
            "CoQo, lr 1e-3": ("loop.lr=1e-3",),
            "CoQo, lr 2e-3": ("loop.lr=2e-3",),
            "single questions, lr 1e-3": (*SINGLE, "loop.lr=1e-3"),
            "single questions, lr 2e-3": (*SINGLE, "loop.lr=2e-3"),
            "AVST, lr 1e-3": (*SINGLE, "model.method=avst", "loop.lr=1e-3"),
            "AVST, lr 2e-3": (*SINGLE, "model.method=avst", "loop.lr=2e-3"),
        },
        {"all, val": ("val", "overall")},
        "CoQo, lr 1e-3",
    ),
    "cra": Experiment(
        "cra",
        REPORTED,
        {
            "Temp[CLIP]": TEMP_CLIP,
            "CRA's network, no module": NOTHING,
            "+ GSG": (*NOTHING, "model.gsg=true"),
            "+ CMA": (*NOTHING, "loss.align=0.1"),
            "+ ECI": (*NOTHING, "model.front=true"),  # its back-door adjusts the query of GSG
            "CRA without GSG": ("model.gsg=false", "model.back=false"),
            "CRA without CMA": ("loss.align=0",),
            "CRA without ECI": ("model.front=false", "model.back=false"),
            "CRA": (),
        },
        GROUNDING,
        "Temp[CLIP]",
    ),
    "coqo": Experiment(
        "coqo",
        REPORTED,
        {
            "question only": ("model.inputs=question",),
            "audio only": ("model.inputs=audio",),
            "video only": ("model.inputs=visual",),
            "AVST": (*SINGLE, "model.method=avst"),
            "CoQo, single questions": SINGLE,
            "CoQo": (),
        },
        ANSWERS,
        "CoQo, single questions",
    ),
    "coqo-questions": Experiment(
        "coqo",
        REPORTED[:3],
        {**{str(count): (f"data.max_questions={count}",) for count in (1, 2, 4)}, "all": ()},
        ANSWERS,
        "1",
    ),
    "coqo-tokens": Experiment(
        "coqo",
        REPORTED[:3],
        {str(count): () if count == 4 else (f"model.qgt.tokens={count}",) for count in (0, 1, 4, 16)},
        ANSWERS,
        "0",
    ),
}


def command(*words: object) -> None:
    """Run one of our commands on one thread, its output kept for when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def make_world(folder: Path, seed: int, workers: int) -> None:
    """Film world ``seed`` and make its store, unless it is there."""
    done = folder / "made"
    if not done.exists():
        command("-m", "examples.toyworld", "--seed", seed, "--out", folder, "--workers", workers)
        command("jobs/refresh.py", folder / "dataset.yaml", "--executor", "local")
        done.touch()


def run_folder(world: Path, method: str, overrides: Sequence[str]) -> Path:
    """Where a run is: by what is trained, so that experiments share runs."""
    return world / "runs" / "+".join([method, *(each.replace("=", "-") for each in overrides)])


def train(world: Path, method: str, overrides: Sequence[str], seed: int) -> None:
    """Train one variant, unless its results are there."""
    folder = run_folder(world, method, overrides)
    if (folder / "results.json").exists():
        return
    words = ["jobs/train.py", method, "--preset", f"{method}-toyworld", "--store", world / "store", "--out", folder]
    changed = [*overrides, "loop.threads=1", "loop.tensorboard=false", "loop.device=cpu"]
    command(*words, "--seed", seed, *(word for change in changed for word in ("--set", change)))
    console.print(f"world {seed}: {folder.name}", style="dim")


def parameters(folder: Path) -> int:
    """How many numbers were trained; what features are divided by was not."""
    with safe_open(folder / "best.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    sizes = []
    for name, shape in shapes.items():
        size = 1
        for length in shape:
            size *= length
        sizes.append(0 if name.startswith(("scale.", "scales.")) else size)
    return sum(sizes)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval of Student's t."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, float("nan")
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return mean, float(stats.t.ppf(0.975, len(differences) - 1)) * error


def collect(folder: Path, experiment: Experiment, seeds: Sequence[int]) -> dict[str, Any]:
    """Figures of every variant, world by world."""
    rows: dict[str, Any] = {}
    for name, overrides in experiment.variants.items():
        runs = [run_folder(folder / str(seed), experiment.method, overrides) for seed in seeds]
        results = [json.loads((run / "results.json").read_text())["metrics"] for run in runs]
        rows[name] = {
            "overrides": list(overrides),
            "parameters": parameters(runs[0]),
            "worlds": {
                heading: [float(result[split][metric]) for result in results]
                for heading, (split, metric) in experiment.metrics.items()
            },
        }
    last = list(experiment.metrics)[-1]
    reference = rows[experiment.reference]["worlds"][last]
    for row in rows.values():
        pairs = zip(row["worlds"][last], reference, strict=True)
        row["difference"] = interval([own - other for own, other in pairs])
    return {"seeds": list(seeds), "reference": experiment.reference, "rows": rows}


def show(name: str, found: Mapping[str, Any]) -> None:
    """One table on the terminal."""
    headings = list(next(iter(found["rows"].values()))["worlds"])
    table = Table(title=f"{name}: worlds {', '.join(map(str, found['seeds']))}, %")
    table.add_column("variant")
    for heading in ("parameters", *headings, f"{headings[-1]} vs {found['reference']}"):
        table.add_column(heading, justify="right")
    for variant, row in found["rows"].items():
        cells = [spread(values) for values in row["worlds"].values()]
        mean, half = row["difference"]
        gained = "" if variant == found["reference"] else f"{mean:+.1f} ± {half:.1f}"
        table.add_row(variant, f"{row['parameters']:,}", *cells, gained)
    console.print(table)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """CoQo's answers by the number of questions trained together, and by the number of tokens R."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {"coqo-questions": "questions of a video in a step", "coqo-tokens": "learnable tokens m"}
    shown = [name for name in panels if name in found]
    figure, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.2), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], shown, strict=True):
        rows = found[name]["rows"]
        for heading in next(iter(rows.values()))["worlds"]:
            values = [row["worlds"][heading] for row in rows.values()]
            means = [statistics.mean(each) for each in values]
            errors = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
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
    """``10-14`` or ``0,1,2``."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Some of {', '.join(EXPERIMENTS)} (default: all).")] = None,
    seeds: Annotated[str | None, typer.Option(help="Worlds, as 10-14 or 0,1 (default: the experiment's).")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Worlds and runs; kept.")] = Path("out/bench-toyworld"),
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, a thread each.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the plots of CoQo there (PNG).")] = None,
) -> None:
    chosen = names or list(EXPERIMENTS)
    if unknown := sorted(set(chosen) - set(EXPERIMENTS)):
        raise typer.BadParameter(f"{unknown[0]!r}; there is {', '.join(EXPERIMENTS)}")
    folder = folder.absolute()
    worlds = {name: parse_seeds(seeds) if seeds else list(EXPERIMENTS[name].seeds) for name in chosen}
    for seed in sorted({seed for each in worlds.values() for seed in each}):
        make_world(folder / str(seed), seed, workers)
    # A dict: experiments share runs.
    runs = {
        run_folder(folder / str(seed), EXPERIMENTS[name].method, overrides): (name, overrides, seed)
        for name in chosen
        for seed in worlds[name]
        for overrides in EXPERIMENTS[name].variants.values()
    }
    with ThreadPoolExecutor(workers) as pool:
        waiting = [
            pool.submit(train, folder / str(seed), EXPERIMENTS[name].method, overrides, seed)
            for name, overrides, seed in runs.values()
        ]
        for each in waiting:
            each.result()
    found = {name: collect(folder, EXPERIMENTS[name], worlds[name]) for name in chosen}
    for name, each in found.items():
        show(name, each)
    if figure is not None:
        draw(found, figure)
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
