"""Runs whole stages in tests, with a torch-free extractor and a torch-free text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs._cli import exit_code
from pipeline.cluster import ClusterConfig, ClusterRequest, cluster
from pipeline.extract import Config, ExtractRequest, PlanOptions, load_config
from pipeline.extract import extract as run_extract
from pipeline.shared import StageResult, Terminal
from stores import Store
from stores.describe import DictionaryKind

RGB = """
features:
  rgb: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}, micro_batch: 4}
media: {deadline_s: 20}
"""
CLUSTERING: dict[str, Any] = {"encoder": {"name": "hashed", "size": 32}, "kmeans": {"k": 6}}


def rgb_config(folder: Path, *overrides: str, text: str = RGB) -> Config:
    """Return the configuration of most tests: tiny rows, no torch."""
    file = folder / "rgb.yaml"
    file.write_text(text)
    return load_config(file=file, overrides=overrides, allow_code=True)


@dataclass(frozen=True)
class Done:
    """What a shell and a script see of a result."""

    exit_code: int
    summary: dict[str, Any]

    @classmethod
    def of(cls, result: StageResult, allow_failures: bool = False) -> Done:
        return cls(exit_code(result, allow_failures), result.summary())


def extract(
    source: Path | str,
    store: Path | str,
    config: Config,
    executor: Any = "local",
    plan_only: bool = False,
    allow_failures: bool = False,
    **options: Any,
) -> Done:
    """Run one extraction silently. Further keywords are those of ``PlanOptions``."""
    request = ExtractRequest(
        source=str(source),
        store=str(store),
        config=config,
        executor=executor,
        plan_only=plan_only,
        options=PlanOptions(**options),
    )
    return Done.of(run_extract(request, Terminal(quiet=True)), allow_failures)


def digests(store: Path, feature: str = "rgb") -> dict[str, str]:
    """Return the row digest by key: equal stores have equal ones."""
    with Store.open(store) as opened:
        return {key: opened.digest(feature, key) for key in opened.keys(feature)}


def make_dictionary(store: Path, kind: DictionaryKind, allow_failures: bool = False, **request: Any) -> Done:
    """Run one clustering. Further keywords are those of ``ClusterRequest``."""
    config = ClusterConfig.model_validate(CLUSTERING)
    return Done.of(cluster(ClusterRequest(store=str(store), kind=kind, config=config, **request)), allow_failures)


def reasons(result: Done, feature: str = "rgb") -> dict[str, int]:
    """Return the number of planned rows by reason."""
    counts: dict[str, int] = result.summary["reasons"][feature]
    return counts
