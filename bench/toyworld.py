"""What CRA and CoQo gain on the toy world, over their baselines and without each of their parts.

    python bench/toyworld.py [NAMES …] [--seeds 10-14] [--dir DIR] [--workers 2] [--json PATH] [--figure PATH]

For each seed a world is filmed and its store made, then every variant is trained on it through ``jobs/train.py`` with
that seed. A run whose results are there is not repeated, so the command goes on where it was stopped; worlds and runs
are kept by the code of the toy world and the settings that they come from.

Protocol: worlds 0, 1 and 2 were for choosing. World, features and settings were chosen with all splits of world 0 in
view; then one of two learning rates for each method by its mean validation answers on the three worlds (``tune-cra``,
``tune-coqo``; what lacks a part or an input has the rate of the whole). Worlds 10 to 14 are for reporting. Tables give
mean and standard deviation over worlds, and mean differences from another variant, world by world, with 95 % intervals
(Student's t over the worlds, not corrected for how many there are).
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
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from scipy import stats

sys.path[0] = str(Path(__file__).resolve().parents[1])

import settings
from trainers.config import PRESETS
from trainers.run import method as method_of

ROOT = Path(__file__).resolve().parents[1]
console = Console(highlight=False)

NOTHING = ("model.gsg=false", "model.front=false", "model.back=false", "loss.align=0")
# Each has the better of its two rates; CRA and CoQo have theirs in their presets. Temp[CLIP] is wide enough for as many
# parameters as CRA has.
TEMP_CLIP = ("model.method=temp_clip", "model.dim=96")
NG = (*TEMP_CLIP, "model.proposal=gaussian")
SINGLE = ("data.collective=false",)
ONE = ("data.max_questions=1",)
AVST = (*SINGLE, "model.method=avst")
# The smallest hierarchy that HCRN allows: 16 steps fill 5 clips of 5 frames.
HCRN = ("model.method=hcrn", "model.hcrn.clips=5", "model.hcrn.frames=5")
HCRN_QGT = (*HCRN, "model.hcrn.qgt=true")


def rates(variants: Mapping[str, tuple[str, ...]], *tried: str) -> dict[str, tuple[str, ...]]:
    """Each variant at each learning rate."""
    return {f"{name}, lr {rate}": (*changes, f"loop.lr={rate}") for name, changes in variants.items() for rate in tried}


@dataclass(frozen=True)
class Experiment:
    """Variants of one method: names to overrides of its preset ``<method>-toyworld``.

    Attributes
    ----------
    metrics : what is shown: heading to (split, metric).
    compared : headings whose differences are shown.
    against : the variant that a variant is compared with.
    """

    method: str
    seeds: tuple[int, ...]
    variants: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, tuple[str, str]]
    compared: tuple[str, ...] = ()
    against: Mapping[str, str] = field(default_factory=dict)


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
        rates({"CRA": (), "Temp[CLIP]": TEMP_CLIP, "Temp[CLIP] NG": NG}, "1.5e-3", "3e-3"),
        {"Acc@VQA val": ("val", "acc_vqa")},
    ),
    "tune-coqo": Experiment(
        "coqo",
        TUNING,
        rates(
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
    """Run one of our commands on one thread, its output kept for when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def world_folder(folder: Path, seed: int) -> Path:
    """Where a world is: by its seed and the code that makes it."""
    sources = [*sorted((ROOT / "examples").rglob("*.py")), ROOT / "pipeline/presets/toyworld.yaml"]
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return folder / f"world-{seed}-{code[:8]}"


def make_world(world: Path, seed: int, workers: int) -> None:
    """Film a world and make its store, unless it is there."""
    done = world / "made"
    if not done.exists():
        command("-m", "examples.toyworld", "--seed", seed, "--out", world, "--workers", workers)
        command("jobs/refresh.py", world / "dataset.yaml", "--executor", "local")
        done.touch()


def run_folder(world: Path, method: str, overrides: Sequence[str], seed: int) -> Path:
    """Where a run is: by its settings, so that experiments share runs."""
    raw, origin = settings.read(PRESETS, f"{method}-toyworld", None, [*overrides, f"loop.seed={seed}"])
    chosen = settings.validate(method_of(method).Settings, raw, origin).model_dump_json()
    return world / "runs" / f"{method}-{hashlib.sha256(chosen.encode()).hexdigest()[:12]}"


def results(folder: Path) -> dict[str, dict[str, float]] | None:
    """Metrics by split of a finished run; None of another."""
    path = folder / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found.get("metrics")


def train(folder: Path, world: Path, method: str, overrides: Sequence[str], seed: int) -> None:
    """Train one variant, unless its results are there."""
    if results(folder) is not None:
        return
    words = ["jobs/train.py", method, "--preset", f"{method}-toyworld", "--store", world / "store", "--out", folder]
    changed = [*overrides, "loop.threads=1", "loop.tensorboard=false", "loop.device=cpu"]
    command(*words, "--seed", seed, *(word for change in changed for word in ("--set", change)))
    console.print(f"world {seed}: {method} {' '.join(overrides)}", style="dim")


def parameters(folder: Path) -> int:
    """How many numbers were trained; what features are divided by was not."""
    with safe_open(folder / "best.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith(("scale.", "scales.")))


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half of the 95 % interval of Student's t; None for one world."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, None
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return mean, float(stats.t.ppf(0.975, len(differences) - 1)) * error


def collect(folder: Path, experiment: Experiment, seeds: Sequence[int]) -> dict[str, Any]:
    """Figures of every variant, world by world, and its differences from the variant that it is compared with."""
    rows: dict[str, Any] = {}
    for name, overrides in experiment.variants.items():
        runs = [run_folder(world_folder(folder, seed), experiment.method, overrides, seed) for seed in seeds]
        metrics = [results(run) or {} for run in runs]
        rows[name] = {
            "overrides": list(overrides),
            "parameters": parameters(runs[0]),
            "worlds": {
                heading: [float(each[split][metric]) for each in metrics]
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


def show(name: str, found: Mapping[str, Any]) -> None:
    """Tables on the terminal: figures, then differences."""
    title = f"{name}: worlds {', '.join(map(str, found['seeds']))}, %"
    figures, differences = Table(title=title), Table(title=f"{title}, differences")
    rows: Mapping[str, Any] = found["rows"]
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
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


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
    used = {name: parse_seeds(seeds) if seeds else list(EXPERIMENTS[name].seeds) for name in chosen}
    worlds = {seed: world_folder(folder, seed) for seed in sorted({seed for each in used.values() for seed in each})}
    for seed, world in worlds.items():
        make_world(world, seed, workers)
    runs = {
        run_folder(worlds[seed], EXPERIMENTS[name].method, overrides, seed): (name, overrides, seed)
        for name in chosen
        for seed in used[name]
        for overrides in EXPERIMENTS[name].variants.values()
    }
    with ThreadPoolExecutor(workers) as pool:
        waiting = [
            pool.submit(train, run, worlds[seed], EXPERIMENTS[name].method, overrides, seed)
            for run, (name, overrides, seed) in runs.items()
        ]
        for each in waiting:
            each.result()
    found = {name: collect(folder, EXPERIMENTS[name], used[name]) for name in chosen}
    for name, each in found.items():
        show(name, each)
    if figure is not None:
        draw(found, figure)
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
