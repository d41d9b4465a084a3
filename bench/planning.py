"""Measure what a second run costs if few files have changed, or none: one stat per file, no hash, no torch.

The store gets its rows without decoding (a second run never reads a value), through the same writer, index and commit
as a real run; then ``jobs/extract.py`` runs in fresh processes on files of a local disk whose directory entries are in
the page cache. A change rewrites some files; a plan of it is compared with a plan of the unchanged files.

    python bench/planning.py [--files 100000] [--features 1] [--changed 100] [--runs 3]
    python bench/planning.py --files 1000000 --features 3 [--keep DIR]     (about ten minutes, most of them to fill)

``--keep DIR`` leaves files and store in DIR, and uses those that are there.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import numpy as np

from bench.filling import fill
from bench.processes import run
from bench.report import Column, Report, Table, Target, bench_parser, prose
from pipeline.extract import load_config, read_source, ready_features
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key, hash_content, source_status
from stores.changes import Changes, SourceRecord
from stores.commit import commit, create_store, write_spec
from stores.format import Row

FEATURE = "  rgb{0}: {{extractor: rgb_grid, grid: {0}, sampling: {{policy: uniform, n: 1}}}}\n"
TARGETS = {(100_000, 1): (1.8, 0.3), (1_000_000, 3): (10.0, 1.5)}
"""By files and features: most seconds and GB of a run over unchanged files."""
CHANGE_S = 1.0
"""Most seconds that a change may add."""


@dataclass(frozen=True, slots=True)
class Made:
    """Files with a store of their rows."""

    videos: Path
    store: Path
    config: Path

    def run(self, *options: str) -> dict[str, Any]:
        """Run the job in a fresh process; return wall seconds, peak memory in GB and its summary."""
        words = ["jobs/extract.py", str(self.videos), "--store", str(self.store), "--config", str(self.config)]
        ran = run([*words, "--json", *options], ROOT)
        summary = json.loads(ran.output.splitlines()[-1])
        return {"wall_s": ran.wall_s, "peak_gb": ran.peak_gb, "summary": summary}

    @contextmanager
    def changed(self, count: int) -> Iterator[None]:
        """Rewrite some files, at most one of each folder, and give them their content back."""
        files = [min(folder.iterdir()) for folder in sorted(self.videos.iterdir())][:count]
        before = [path.read_bytes() for path in files]
        for path in files:
            path.write_text(f"changed {path.name}\n")
        try:
            yield
        finally:
            for path, data in zip(files, before, strict=True):
                path.write_bytes(data)


def make(folder: Path, files: int, features: int) -> Made:
    """Make the files and a store with one row per file and feature, unless they are there."""
    made = Made(folder / "videos", folder / "store", folder / "rgb.yaml")
    if made.config.exists():
        return made
    for index in range(files):
        path = made.videos / f"{index % 100:02d}" / f"v{index:07d}.mp4"
        if index < 100:
            path.parent.mkdir(parents=True)
        path.write_text(f"{index}\n")
    draft = folder / "draft.yaml"
    draft.write_text("features:\n" + "".join(FEATURE.format(number) for number in range(1, features + 1)))
    wanted = list(ready_features(load_config(file=draft)).values())
    create_store(made.store)
    for feature in wanted:
        write_spec(made.store, feature.spec)
    items = read_source(str(made.videos)).items
    sources = [_record(Path(item.uri)) for item in items]
    commit(made.store, Changes(sources=sources, current={feature.name: feature.spec_digest for feature in wanted}))

    def rows(number: int, feature: Feature) -> Iterator[Row]:
        step = np.zeros((1, number * number * 3), np.float16)
        for item, source in zip(items, sources, strict=True):
            cache = cache_key(source.content_id, None, None, feature.spec_digest)
            yield Row(item.key, cache, step, np.zeros(1), np.ones(1, bool), 1.0)

    named = {(feature.name, feature.spec_digest): rows(number, feature) for number, feature in enumerate(wanted, 1)}
    fill(made.store, named)
    draft.rename(made.config)  # last: with a configuration, all of it is there
    return made


def _record(path: Path) -> SourceRecord:
    return SourceRecord(str(path), *source_status(path, None), hash_content(path))


def main() -> int:
    """Measure and report."""
    parser = bench_parser(__doc__, files=2000, features=2, runs=1, changed=5)
    parser.add_argument("--files", type=int, default=100_000, help="files of the source")
    parser.add_argument("--features", type=int, default=1, help="features of the store")
    parser.add_argument("--changed", type=int, default=100, help="files that change, at most one of each folder")
    parser.add_argument("--runs", type=int, default=3, help="runs of each kind; the median time is reported")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave files and store here, and use what is there")
    arguments = parser.parse_args()
    files, features = arguments.files, arguments.features
    with tempfile.TemporaryDirectory() as folder:
        made = make(arguments.keep or Path(folder), files, features)
        made.run()  # warms the cache, and hashes what an earlier bench touched
        runs = {"nothing to do": [made.run() for _ in range(arguments.runs)]}
        runs["plan, nothing changed"] = [made.run("--plan") for _ in range(arguments.runs)]
        with made.changed(arguments.changed):
            runs[f"plan, {arguments.changed} files changed"] = [made.run("--plan") for _ in range(arguments.runs)]
    for (kind, found), to_compute in zip(runs.items(), (0, 0, arguments.changed * features), strict=True):
        for each in found:
            summary = each.pop("summary")
            if summary["wanted"] != files * features or summary["wanted"] - summary["stored"] != to_compute:
                raise SystemExit(f"{kind}: {summary['stored']} of {summary['wanted']} rows are stored")
    walls = {kind: statistics.median(each["wall_s"] for each in found) for kind, found in runs.items()}
    peaks = {kind: max(each["peak_gb"] for each in found) for kind, found in runs.items()}
    second, plain, changed = walls
    targets = [Target(f"what {arguments.changed} changes add", walls[changed] - walls[plain], CHANGE_S, unit="s")]
    if (files, features) in TARGETS:
        seconds, gigabytes = TARGETS[files, features]
        targets[:0] = [
            Target("nothing to do: wall time", walls[second], seconds, unit="s"),
            Target("nothing to do: peak memory", peaks[second], gigabytes, unit="GB"),
        ]
    return Report(
        title=f"A second run over {files:,} files with {features} feature{'s' * (features > 1)}",
        about=prose(__doc__),
        tables=[
            Table(
                f"wall time, process start included: median of {arguments.runs}",
                ["run", Column("wall s", ".2f"), Column("peak GB", ".2f")],
                [(kind, walls[kind], peaks[kind]) for kind in runs],
            )
        ],
        targets=targets,
        figures={"files": files, "features": features, "runs": runs},
        uses=("pyarrow",),
    ).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())
