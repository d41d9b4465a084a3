"""Measure how long a small FrozenBiLM trains on the toy world, and what it answers beside Temp[CLIP].

    python bench/frozenbilm.py [NAMES …] [--videos 600] [--seed 0] [--dir DIR] [--json PATH]
    python bench/frozenbilm.py --quick          one epoch on a tiny world

One world is filmed and its store is built; then Temp[CLIP] and FrozenBiLM with random weights are trained on it through
``jobs/train.py``, each on one CPU thread, one after another. Seconds are those of the whole command, by the clock and
of the CPU: imports, training, validation after each epoch, and the scores of all splits. Finished runs are not
repeated. One world and one seed say little about the methods: what CRA gains over its baselines is measured by the
bench of the toy world.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

from bench.report import Cell, Column, Report, Table, Target, bench_parser, prose
from bench.toyworld import TEMP_CLIP, make_world, world_folder
from bench.trials import command, parameters, results
from settings.messages import available, nearest

MOST_SECONDS = 300
SMALL = "frozenbilm-small"
COLUMNS = {
    "Acc@VQA": ("test", "acc_vqa"),
    "Acc@VQA ood": ("test_ood", "acc_vqa"),
    "IoP@.5": ("test", "iop_50"),
    "IoP@.5 ood": ("test_ood", "iop_50"),
    "Acc@GQA": ("test", "acc_gqa"),
    "Acc@GQA ood": ("test_ood", "acc_gqa"),
}
"""Heading of a column to the split and metric that it shows."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One training: how it is called in tables, a method, its preset, and what is changed in it."""

    title: str
    method: str
    preset: str
    overrides: tuple[str, ...] = ()


VARIANTS = {
    "temp-clip": Variant("Temp[CLIP]", "cra", "cra-toyworld", TEMP_CLIP),
    "posthoc": Variant("FrozenBiLM, post hoc", "frozenbilm", SMALL, ("model.method=posthoc",)),
    "cra": Variant("CRA on FrozenBiLM", "frozenbilm", SMALL),
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run.

    Attributes
    ----------
    parameters
        Number of trained parameters.
    seconds, cpu_seconds
        How long the command took, and how long the CPU worked for it.
    scores
        Percent by heading.
    """

    parameters: int
    seconds: float
    cpu_seconds: float
    scores: dict[str, float]


def train(variant: Variant, world: Path, seed: int, folder: Path, epochs: int | None) -> Trained:
    """Train a variant, unless it has results, and return what came of it."""
    clock = folder / "seconds"
    if not clock.exists():
        overrides = [*variant.overrides, "loop.threads=1", "loop.tensorboard=false", "loop.device=cpu"]
        overrides += [f"loop.epochs={epochs}"] if epochs else []
        words = ["jobs/train.py", variant.method, "--preset", variant.preset, "--store", world / "store"]
        started, before = time.perf_counter(), _children()
        command(*words, "--out", folder, "--seed", seed, *(word for one in overrides for word in ("--set", one)))
        clock.write_text(f"{time.perf_counter() - started:.1f} {_children() - before:.1f}\n")
    metrics = results(folder) or {}
    scores = {heading: float(metrics[split][metric]) for heading, (split, metric) in COLUMNS.items()}
    seconds, cpu_seconds = map(float, clock.read_text().split())
    return Trained(parameters(folder), seconds, cpu_seconds, scores)


def _children() -> float:
    """Return the CPU seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(found: dict[str, Trained], videos: int, seed: int) -> Table:
    """Return the figures of all variants."""
    columns: Sequence[Column | str] = ["variant", *map(Column, ("parameters", "s", "CPU s")), *map(Column, COLUMNS)]
    rows: list[list[Cell]] = [
        [
            VARIANTS[name].title,
            one.parameters,
            f"{one.seconds:.0f}",
            f"{one.cpu_seconds:.0f}",
            *(f"{score:.1f}" for score in one.scores.values()),
        ]
        for name, one in found.items()
    ]
    return Table(f"a world of {videos} videos (seed {seed}), %", columns, rows)


def main() -> int:
    """Film, train and report."""
    parser = bench_parser(__doc__, videos=44, epochs=1)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to train ({available(VARIANTS)}; default: all)")
    parser.add_argument("--videos", type=int, default=600, help="videos of the world, roughly")
    parser.add_argument("--epochs", type=int, help="epochs of every training (default: the presets')")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and of every training")
    parser.add_argument("--dir", type=Path, default=Path("out/bench-frozenbilm"), help="where world and runs are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes that film the world")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in VARIANTS:
            parser.error(f"no variant is named {name!r}{nearest(name, VARIANTS)} ({available(VARIANTS)})")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if arguments.quick else arguments.dir.absolute()
        world = world_folder(folder, arguments.seed, arguments.videos)
        make_world(world, arguments.seed, arguments.workers, arguments.videos)
        found = {
            name: train(VARIANTS[name], world, arguments.seed, world / "runs" / name, arguments.epochs)
            for name in arguments.names or VARIANTS
        }
    return Report(
        title="A small FrozenBiLM on the toy world",
        about=prose(__doc__),
        tables=[table(found, arguments.videos, arguments.seed)],
        targets=[
            Target(f"training {VARIANTS[name].title}", one.seconds, MOST_SECONDS, unit="s", form=".0f")
            for name, one in found.items()
            if VARIANTS[name].method == "frozenbilm"
        ],
        figures={
            name: {"seconds": one.seconds, "cpu_seconds": one.cpu_seconds, **one.scores} for name, one in found.items()
        },
        uses=("torch", "transformers", "numpy"),
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
