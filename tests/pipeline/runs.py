"""Running whole jobs in tests, with the torch-free extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.config import Config, load_config
from pipeline.plan import Options
from pipeline.report import Reporter
from pipeline.run import Request, Result, run
from stores import Store

RGB = """
features:
  rgb: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}, micro_batch: 4}
media: {deadline_s: 20}
"""


def rgb_config(folder: Path, *overrides: str, text: str = RGB) -> Config:
    """The configuration of most tests: tiny rows, no torch."""
    file = folder / "rgb.yaml"
    file.write_text(text)
    return load_config(file=file, overrides=overrides)


def extract(source: Path | str, store: Path, config: Config, executor: Any = "local", **options: Any) -> Result:
    """One silent run. Keywords are those of `Options`, or ``plan_only`` and ``allow_failures``."""
    flags = {name: options.pop(name) for name in ("plan_only", "allow_failures") if name in options}
    request = Request(str(source), str(store), config, executor, options=Options(**options), **flags)
    return run(request, Reporter(Console(quiet=True, stderr=True)))


def digests(store: Path, feature: str = "rgb") -> dict[str, str]:
    """Row digest by key: equal stores have equal ones."""
    with Store.open(store) as opened:
        return {key: opened.digest(feature, key) for key in opened.keys(feature)}


def reasons(result: Result, feature: str = "rgb") -> dict[str, int]:
    counts: dict[str, int] = result.summary["reasons"][feature]
    return counts
