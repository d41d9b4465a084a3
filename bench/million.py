"""Measure a store of a million videos: how soon it opens, how it reads, and what looking after it costs.

    python bench/million.py [--keys 1000000] [--features 3] [--keep DIR] [--only NAME …]

The store gets rows of one step of three float16 values without decoding, through the same writer and commits as a real
run: 4096 rows per shard and commit, keys in random order, so every segment of the index spans all keys. Its
``questions`` table has one question for each key. Everything is then measured in fresh processes: ``rows``,
``questions`` and ``check`` from Python, where the imports do not count, and the commands, where they do. ``gc`` only
says what it would remove: once with the usual grace, where it keeps every version, and once without, where it keeps
one. ``report`` writes the pages beside the store; its videos do not exist, so nothing is decoded.

``--keep DIR`` leaves the store in DIR, and uses the one that is there. A million keys of three features take about ten
minutes to make and 1.1 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import numpy as np
import pyarrow as pa

from bench.filling import fill
from bench.processes import peak_gb, run
from bench.report import Column, Report, Table, Target, bench_parser, prose
from parsers.annotations import QUESTIONS
from stores import Store
from stores.changes import Changes
from stores.commit import commit, create_store, write_spec, write_table
from stores.format import Row

READ = 64  # rows of one ``read``
READS = 50
REPORT = "report"
COMMANDS = {
    "verify": ["verify"],
    "gc": ["gc", "--dry-run"],
    "gc-all": ["gc", "--dry-run", "--grace-days", "0"],
    "compact": ["compact", "--plan"],
    "repair": ["repair"],
    "inspect": ["inspect"],
    "history": ["history"],
}
COMMAND_S, COMMAND_GB = 20.0, 2.0
"""Most seconds and GB of a command, and below of the rest, for a million keys of three features."""
REPORT_S, REPORT_MB = 60.0, 50.0
"""Most seconds that the pages of ``report`` take, and most MB on the disk."""
OPEN_S, READ_MS, QUESTIONS_S, QUESTIONS_GB = 0.3, 2.0, 5.0, 1.0


def key_of(number: int) -> str:
    """Return a video key."""
    return f"v{number:07d}"


def row_of(number: int) -> Row:
    """Return the row of a video key."""
    step = np.full((1, 3), number % 1000, np.float16)
    return Row(key_of(number), number.to_bytes(32, "big"), step, np.zeros(1), np.ones(1, bool), 1.0)


def make(root: Path, keys: int, features: int) -> None:
    """Make the store: rows of every feature, then one question for each key."""
    create_store(root)
    order = np.random.default_rng(0).permutation(keys)
    for name in (f"f{number}" for number in range(features)):
        spec = {"extractor": name, "steps": 1, "step_shape": [3], "dtype": "float16"}
        fill(root, {(name, write_spec(root, spec)): map(row_of, order.tolist())})
    part = write_table(root, "questions", {"made": "by a bench"}, questions(keys), "bench/train")
    commit(root, Changes(tables={"questions": {"bench/train": part}}))


def questions(keys: int) -> pa.Table:
    """Return one question for each key, in another order than the keys."""
    videos = np.random.default_rng(1).permutation(keys).tolist()
    objects = [f"the {colour} {thing}" for colour in ("red", "old", "small") for thing in ("car", "dog", "ball", "cup")]
    columns = {
        "question_id": [f"q{row}" for row in range(keys)],
        "video_id": [key_of(video) for video in videos],
        "dataset": ["bench"] * keys,
        "split": ["train"] * keys,
        "row": range(keys),
        "question": [f"why did the man in scene {video} look at {objects[video % 12]}" for video in videos],
        "options": [[f"{objects[(video + place) % 12]} {video % 997}" for place in range(5)] for video in videos],
        "answer": [f"{objects[video % 12]} {video % 997}" for video in videos],
        "answer_index": [0] * keys,
        "type": ["CW"] * keys,
        "spans": [[[1.0, 2.5]]] * keys,
        "duration": [30.0] * keys,
    }
    arrays = [pa.array(columns.get(field.name, [None] * keys), field.type) for field in QUESTIONS]
    return pa.table(arrays, names=QUESTIONS.names)


def measure_rows(root: Path) -> dict[str, float]:
    """Open the store and read a first row; then read batches of rows, and copy the same bytes."""
    started = time.perf_counter()
    store = Store.open(root)
    name = next(iter(store.features))
    store.row(name, key_of(0))
    opened = time.perf_counter() - started
    rng = np.random.default_rng(2)
    count = store.features[name].rows
    batches = [[key_of(number) for number in rng.integers(0, count, READ).tolist()] for _ in range(READS)]
    for shard in sorted({*store.places(name, [key for batch in batches for key in batch]).shards}):
        store.shard(name, shard)  # warm: open and in the page cache
    store.read(name, batches.pop())
    taken, copied = [], []
    for batch in batches:
        started = time.perf_counter()
        got = store.read(name, batch)
        taken.append(time.perf_counter() - started)
        out = np.empty_like(got)
        started = time.perf_counter()
        np.copyto(out, got)
        copied.append(time.perf_counter() - started)
    return {"wall_s": opened, "read_ms": float(np.median(taken) - np.median(copied)) * 1e3}


def measure_questions(root: Path) -> dict[str, float]:
    """Open a dataset over all questions and gather one batch."""
    from stores.loading import QuestionDataset

    with Store.open(root, lease=False) as store:
        names = list(store.features)
    started, before = time.perf_counter(), peak_gb()
    dataset = QuestionDataset(root, "train", names)
    opened = time.perf_counter() - started
    batch = dataset.__getitems__(range(READ))
    assert batch.features[names[0]].shape == (READ, 1, 3)
    return {"wall_s": opened, "peak_gb": peak_gb() - before}


def measure_check(root: Path) -> dict[str, float]:
    """Check that every question's video has its rows."""
    from stores.loading import check

    started, before = time.perf_counter(), peak_gb()
    store = Store.open(root, lease=False)
    assert not check(store, list(store.features), "train").findings
    return {"wall_s": time.perf_counter() - started, "peak_gb": peak_gb() - before}


MEASURES: dict[str, Callable[[Path], dict[str, float]]] = {
    "rows": measure_rows,
    "questions": measure_questions,
    "check": measure_check,
}


def run_measure(root: Path, name: str) -> dict[str, float]:
    """Measure from Python in a fresh process."""
    command = [sys.executable, __file__, "--measure", name, "--keep", str(root)]
    figures: dict[str, float] = json.loads(subprocess.check_output(command, cwd=ROOT, text=True))
    return figures


def run_command(root: Path, name: str) -> dict[str, float]:
    """Run a command in a fresh process; return its wall time and peak memory."""
    verb, *options = COMMANDS[name]
    ran = run(["-m", "stores", verb, str(root), *options, "--json"], ROOT)
    return {"wall_s": ran.wall_s, "peak_gb": ran.peak_gb}


def run_report(root: Path) -> dict[str, float]:
    """Write the pages in a fresh process; return its wall time, its peak memory and the size of the pages in MB."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pages"
        ran = run(["-m", "stores", "report", str(root), "--out", str(out)], ROOT)
        size = sum(path.stat().st_size for path in out.iterdir())
    return {"wall_s": ran.wall_s, "peak_gb": ran.peak_gb, "mb": size / 1e6}


def measure_one(root: Path, name: str) -> dict[str, float]:
    """Measure one of ``MEASURES``, ``COMMANDS`` and ``report``."""
    if name == REPORT:
        return run_report(root)
    return run_measure(root, name) if name in MEASURES else run_command(root, name)


def targets(figures: dict[str, dict[str, float]]) -> list[Target]:
    """Return what the figures are held to."""
    wanted = []
    if rows := figures.get("rows"):
        wanted += [
            Target("open the store and read a first row", rows["wall_s"], OPEN_S, unit="s"),
            Target(f"read {READ} random rows, beyond copying them", rows["read_ms"], READ_MS, unit="ms"),
        ]
    if opened := figures.get("questions"):
        wanted += [
            Target("open a QuestionDataset", opened["wall_s"], QUESTIONS_S, unit="s"),
            Target("the same: peak memory beyond the imports", opened["peak_gb"], QUESTIONS_GB, unit="GB"),
        ]
    for name in COMMANDS:
        if name in figures:
            wanted += [
                Target(f"{name}: wall time", figures[name]["wall_s"], COMMAND_S, unit="s"),
                Target(f"{name}: peak memory", figures[name]["peak_gb"], COMMAND_GB, unit="GB"),
            ]
    if pages := figures.get(REPORT):
        wanted += [
            Target("report: wall time", pages["wall_s"], REPORT_S, unit="s"),
            Target("report: peak memory", pages["peak_gb"], COMMAND_GB, unit="GB"),
            Target("report: size of the pages", pages["mb"], REPORT_MB, unit="MB"),
        ]
    return wanted


def main() -> int:
    """Make the store, measure and report."""
    parser = bench_parser(__doc__, keys=5000, features=2)
    parser.add_argument("--keys", type=int, default=1_000_000, help="video keys, and questions")
    parser.add_argument("--features", type=int, default=3, help="features with a row for every key")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder of the store, made if it is not there")
    parser.add_argument("--only", nargs="+", choices=[*MEASURES, *COMMANDS, REPORT], help="measure these alone")
    parser.add_argument("--measure", choices=list(MEASURES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(MEASURES[arguments.measure](arguments.keep)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = (arguments.keep or Path(folder) / "store").absolute()
        if not root.exists():
            make(root, arguments.keys, arguments.features)
        figures = {name: measure_one(root, name) for name in arguments.only or [*MEASURES, *COMMANDS, REPORT]}
    full = (arguments.keys, arguments.features) == (1_000_000, 3)
    return Report(
        title=f"A store of {arguments.keys:,} videos with {arguments.features} features",
        about=prose(__doc__),
        tables=[
            Table(
                "each in a fresh process",
                ["", Column("wall s", ".2f"), Column("peak GB", ".2f")],
                [(name, figure["wall_s"], figure.get("peak_gb")) for name, figure in figures.items()],
            )
        ],
        targets=targets(figures) if full else (),
        figures={"keys": arguments.keys, "features": arguments.features, **figures},
        uses=("pyarrow", "h5py", "torch"),
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
