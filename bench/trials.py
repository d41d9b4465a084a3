"""Train variants of a method on stores, and set their scores side by side: for ``toyworld`` and ``ablations``.

A trial is one training: a variant, on one store, with one seed. Its folder is named by its settings, so a trial is
never repeated, and a run that was stopped continues. Differences between variants are paired by trial.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from scipy import stats

import settings
from bench.report import Cell, Column, Table
from trainers import PRESETS, find_method

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Experiment:
    """Variants of one method, trained on the same stores with the same seeds."""

    method: str
    seeds: tuple[int, ...]
    """The seeds of its trials by default."""
    variants: Mapping[str, tuple[str, ...]]
    """Name of a variant to its overrides of the preset."""
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
    whole_split: str = ""
    """A split all of whose metrics are shown, each under its own name, besides ``metrics``."""

    def columns(self, found: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[str, str]]:
        """Return the columns for metrics that a trial found, by split."""
        whole = {name: (self.whole_split, name) for name in found.get(self.whole_split, {})}
        return {**self.metrics, **whole}


@dataclass(frozen=True)
class Place:
    """Where trials are made.

    Attributes
    ----------
    store
        The store to train on.
    preset
        The preset of the method that variants override.
    folder
        Holds the folders of the trials.
    machine
        Overrides that say how to run and change no result; they are not in the names of folders.
    """

    store: Path
    preset: str
    folder: Path
    machine: tuple[str, ...] = ("loop.threads=1", "loop.tensorboard=false")


Places = Callable[[str, int], Place]
"""Returns where a method is trained with a seed."""


def command(*words: object) -> None:
    """Run one of our commands on one thread; show its errors and exit if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def trial_folder(place: Place, method: str, overrides: Sequence[str], seed: int) -> Path:
    """Return the folder of a trial, named by its settings, so that experiments share trials."""
    raw, origin = settings.read(PRESETS, place.preset, None, [*overrides, f"loop.seed={seed}"])
    chosen = settings.validate(find_method(method).settings, raw, origin).model_dump_json()
    return place.folder / f"{method}-{hashlib.sha256(chosen.encode()).hexdigest()[:12]}"


def results(folder: Path) -> dict[str, dict[str, float]] | None:
    """Return the metrics of a finished trial by split, or None if it has not finished."""
    path = folder / "results.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content.get("metrics")


def train(folder: Path, place: Place, method: str, overrides: Sequence[str], seed: int) -> None:
    """Train one variant, unless it has results."""
    if results(folder) is not None:
        return
    words = ["jobs/train.py", method, "--preset", place.preset, "--store", place.store, "--out", folder]
    both = (*overrides, *place.machine)
    command(*words, "--seed", seed, *(word for override in both for word in ("--set", override)))
    print(f"seed {seed}: {method} {' '.join(overrides)}", flush=True)


def run(
    experiments: Mapping[str, Experiment], seeds: Mapping[str, Sequence[int]], places: Places, workers: int
) -> dict[str, Any]:
    """Train every variant that has no results.

    Parameters
    ----------
    experiments
        Experiments by name.
    seeds
        The seeds of each.
    places
        Returns the place of each.
    workers
        Trainings at the same time.

    Returns
    -------
    The figures of each experiment, as ``collect`` gives them.
    """
    trials = {
        trial_folder(places(experiment.method, seed), experiment.method, overrides, seed): (
            experiment.method,
            overrides,
            seed,
        )
        for name, experiment in experiments.items()
        for seed in seeds[name]
        for overrides in experiment.variants.values()
    }
    with ThreadPoolExecutor(workers) as pool:
        trainings = [
            pool.submit(train, folder, places(method, seed), method, overrides, seed)
            for folder, (method, overrides, seed) in trials.items()
        ]
        for training in trainings:
            training.result()
    return {name: collect(places, experiment, seeds[name]) for name, experiment in experiments.items()}


def parameters(folder: Path) -> int:
    """Return the number of trained parameters; the scales that features are divided by are not trained."""
    with safe_open(folder / "best.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith(("scale.", "scales.")))


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its 95 % interval (Student's t); None in its place for one trial."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, None
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return mean, float(stats.t.ppf(0.975, len(differences) - 1)) * error


def collect(places: Places, experiment: Experiment, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the figures of every variant by trial, and its differences from the variant it is compared with."""
    rows: dict[str, Any] = {}
    for name, overrides in experiment.variants.items():
        folders = [trial_folder(places(experiment.method, seed), experiment.method, overrides, seed) for seed in seeds]
        metrics = [results(folder) or {} for folder in folders]
        rows[name] = {
            "overrides": list(overrides),
            "parameters": parameters(folders[0]),
            "trials": {
                heading: [float(by_split[split][metric]) for by_split in metrics]
                for heading, (split, metric) in experiment.columns(metrics[0]).items()
            },
        }
    for name, other in experiment.against.items():
        own, others = rows[name]["trials"], rows[other]["trials"]
        rows[name]["against"] = other
        rows[name]["differences"] = {
            heading: interval([a - b for a, b in zip(own[heading], others[heading], strict=True)])
            for heading in experiment.compared
        }
    return {"seeds": list(seeds), "rows": rows}


def tables(experiment: Experiment, collected: Mapping[str, Any], unit: str) -> list[Table]:
    """Return the figures of an experiment as a table, then its differences as another; ``unit`` names what differs."""
    seeds = f"{unit} {', '.join(map(str, collected['seeds']))}"
    rows: Mapping[str, Any] = collected["rows"]
    figures: list[list[Cell]] = [
        [variant, row["parameters"], *(spread(values) for values in row["trials"].values())]
        for variant, row in rows.items()
    ]
    columns: list[Column | str] = ["variant", Column("parameters"), *map(Column, next(iter(rows.values()))["trials"])]
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
        return [Table(f"{experiment.title}, % ({seeds})", columns, figures, experiment.note)]
    return [
        Table(f"{experiment.title}, % ({seeds})", columns, figures),
        Table(f"{experiment.title}: differences, points", compared, differences, experiment.note),
    ]


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation as text."""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that ``10-14`` or ``0,1,2`` stands for."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]
