"""Measure what the driver of a Ray run costs by the number of videos: planning, the flow of work, commits, memory.

    python bench/scale.py [--units 10000 100000 1000000] [--quick] [--json PATH] [--plot PATH]

Everything that the driver does is real: the plan, the actors' calls and reports, receipts, the ledger, commits.
Decoders and models are null: they answer at once, with rows of three numbers, which the real writer writes. The files
do not exist; their statuses are made up, each of another size. Every measurement has a fresh process and its own Ray.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import numpy as np

from bench.report import Column, Report, Table, Target, bench_parser, prose
from pipeline.extract import load_config, make_plan, ready_features
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key
from pipeline.extract.ledger import Ledger
from pipeline.extract.plan import Unit
from pipeline.extract.sources import SourceItem, Sources
from pipeline.extract.units import ComputedRow
from pipeline.shared import EventLog, StopSignals
from stores import Store
from stores.commit import SourceRecord, create_store, write_spec
from stores.format import Row, load

CONFIG = "features:\n  rgb: {extractor: rgb_grid, grid: 1, sampling: {policy: uniform, n: 1}}\n"
MILLION = 1_000_000
MOST_START_S = 60.0
MOST_MEMORY_GB = 3.0
MOST_COMMIT_GROWTH = 1.3
NOTES = (
    """The rate of videos is that of null actors, not of the driver alone, which a profile shows waiting for them. A
    commit takes place every two seconds; the first ones have fewer rows than the last.""",
    """Most of what is left of a commit is opening the segments of the index anew, of which a large manifest names more.
    Keeping them mapped was tried: in a loop of commits without Ray their time then hardly grew. But a process that also
    reads, as a refresh does, would hold files open that garbage collection has removed, so it was left out.""",
    """![Seconds and memory of the driver by the number of videos](figures/scale.png)""",
)


class NullDecoder:
    """Answers at once: the unit itself is its frames."""

    def ready(self) -> None:
        """Return at once."""

    def decode(self, units: Sequence[Unit]) -> list[Any]:
        """Return a report, then the units."""
        from pipeline.extract.on_ray.actors import DecodeReport

        return [DecodeReport([], [1] * len(units)), *units]


class NullModel:
    """Answers at once, with rows of three numbers."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature

    def ready(self) -> None:
        """Return at once."""

    def compute(self, *units: Unit) -> list[Any]:
        """Return a report, then a row for each unit."""
        from pipeline.extract.on_ray.actors import ModelReport

        rows = [self._row(unit) for unit in units]
        name = self._feature.name
        report = ModelReport([], Counter({name: len(rows)}), Counter({name: 6 * len(rows)}))
        return [report, rows]

    def _row(self, unit: Unit) -> ComputedRow:
        content_id = f"{unit.size:064x}"
        digest = cache_key(content_id, None, None, self._feature.spec_digest)
        row = Row(unit.keys[0], digest, np.zeros((1, 3), np.float16), np.zeros(1), np.ones(1, bool), 1.0)
        source = SourceRecord(unit.uri, unit.size, unit.stamp, content_id)
        return ComputedRow(self._feature.name, row, (), {"device_type": "cpu"}, source, {})


def items(count: int) -> Sources:
    """Make up videos, each of a size of its own."""
    made = []
    for number in range(count):
        uri = f"/videos/{number % 100:02d}/v{number:07d}.mp4"
        made.append(SourceItem(f"v{number:07d}", uri, status=(1_000_000 + number, f"0:{number}")))
    return Sources.of(made)


def measure(units: int, folder: Path) -> dict[str, float]:
    """Run one extraction of null actors; return seconds, GB and ratios."""
    import ray

    from pipeline.extract.on_ray.actors import WriteActor
    from pipeline.extract.on_ray.flow import Flow
    from pipeline.extract.on_ray.pool import Pool, Recipe
    from pipeline.extract.outcomes import UnitDone
    from pipeline.extract.units import RunContext

    (folder / "rgb.yaml").write_text(CONFIG)
    config = load_config(file=folder / "rgb.yaml")
    features = ready_features(config)
    (feature,) = features.values()
    store = folder / "store"
    create_store(store)
    write_spec(store, feature.spec)
    base_gb = _peak_gb()
    started = time.perf_counter()
    plan = make_plan(store, load(store), items(units), [feature])
    planned_s = time.perf_counter() - started
    assert len(plan.units) == units
    plan_gb = _peak_gb()
    commits: list[float] = []

    class Timed(Ledger):
        def commit(self) -> None:
            before, version = time.perf_counter(), self.__dict__.get("manifest")
            super().commit()
            if version is not None and self.manifest is not version:
                commits.append(time.perf_counter() - before)

    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(
        address="local",  # a cluster of its own, even if another one runs on this machine
        num_cpus=8, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    context = ray.put(RunContext(store, features, config.media, config.limits()))
    recipes = {
        "decode": Recipe(NullDecoder, (), {"num_cpus": 1}),
        "model": Recipe(NullModel, (feature,), {"num_cpus": 0}),
        "write": Recipe(WriteActor, (context, config.run), {"num_cpus": 0}),
    }
    with StopSignals() as signals:
        ledger = Timed(store, load(store), plan, features, EventLog(store), signals)
        pool = Pool(recipes, print)  # type: ignore[arg-type]  # a plain dict of the three kinds
        flow = Flow(plan.units, [feature.name], pool, config.run, "cpu", [], print, signals.critical)
        started = time.perf_counter()
        first_s = 0.0
        for outcome in flow.run():
            ledger.accept(outcome)
            if not first_s and isinstance(outcome, UnitDone) and outcome.units:
                first_s = time.perf_counter() - started
        ledger.commit()
        wall_s = time.perf_counter() - started
        pool.close()
    ray.shutdown()
    with Store.open(store) as opened:
        assert len(opened.keys(feature.name)) == units
    tenth = max(1, len(commits) // 10)
    early, late = statistics.median(commits[:tenth]), statistics.median(commits[-tenth:])
    return {
        "units": units,
        "plan_s": planned_s,
        "first_row_s": first_s,
        "wall_s": wall_s,
        "units_per_s": units / wall_s,
        "start_gb": base_gb,
        "plan_gb": plan_gb,
        "peak_gb": _peak_gb(),
        "commits": len(commits),
        "commit_s": statistics.median(commits),
        "commit_growth": late / early,
    }


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def plot(results: Sequence[dict[str, float]], path: Path) -> None:
    """Draw wall time and memory of the driver over the number of videos."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    counts = [result["units"] for result in results]
    left.loglog(counts, [result["wall_s"] for result in results], "o-", label="flow, rows and commits")
    left.loglog(counts, [result["plan_s"] for result in results], "s-", label="plan")
    left.loglog(counts, [result["first_row_s"] for result in results], "^-", label="plan to first row")
    left.set(xlabel="videos", ylabel="seconds")
    left.legend(frameon=False)
    right.semilogx(counts, [result["peak_gb"] for result in results], "o-", label="peak")
    right.semilogx(counts, [result["plan_gb"] for result in results], "s-", label="peak of the plan")
    right.axhline(MOST_MEMORY_GB, color="0.6", linestyle="--", label="target at 1,000,000")
    right.set(xlabel="videos", ylabel="memory of the driver, GB", ylim=(0, None))
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)


def report(results: Sequence[dict[str, float]]) -> Report:
    """Return the figures as two tables; the run over a million videos is held to the targets."""
    videos = Column("videos", ",.0f")
    times = {"plan_s": "plan", "first_row_s": "first row", "wall_s": "flow"}
    kept = {"plan_gb": "plan, GB", "peak_gb": "peak, GB"}
    commits = {"commits": "commits", "commit_s": "median, s", "commit_growth": "last tenth to first"}

    def rows(*names: str) -> list[list[float]]:
        return [[result["units"], *(result[name] for name in names)] for result in results]

    seconds = [Column(f"{name}, s", ".1f") for name in times.values()]
    memory = [Column(name, ".2f") for name in kept.values()]
    at_a_million = next((result for result in results if result["units"] >= MILLION), {})
    return Report(
        title=f"The driver of a Ray run of {max(result['units'] for result in results):,} videos",
        about=prose(__doc__),
        tables=[
            Table(
                "null decoders and models", [videos, *seconds, Column("videos/s", ",.0f")], rows(*times, "units_per_s")
            ),
            Table(
                "memory of the driver, and commits",
                [videos, *memory, *(Column(name) for name in commits.values())],
                rows(*kept, *commits),
            ),
        ],
        targets=[
            Target("first row of a million", at_a_million.get("first_row_s"), MOST_START_S, unit="s"),
            Target("peak memory at a million", at_a_million.get("peak_gb"), MOST_MEMORY_GB, unit="GB"),
            Target("last tenth of commits to the first", at_a_million.get("commit_growth"), MOST_COMMIT_GROWTH),
        ],
        notes=NOTES,
        figures={"results": results},
        uses=("ray", "pyarrow", "numpy"),
    )


def main() -> int:
    """Measure and report; return 1 if a target is missed."""
    parser = bench_parser(__doc__, units=[500])
    parser.add_argument("--units", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of videos")
    parser.add_argument("--plot", type=Path, help="also draw them here")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments.units[0], Path(folder))))
        return 0
    results = []
    for units in arguments.units:
        command = [sys.executable, __file__, "--one", "--units", str(units)]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    if arguments.plot:
        plot(results, arguments.plot)
    return report(results).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
