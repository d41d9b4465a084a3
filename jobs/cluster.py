"""Cluster the training split into a confounder dictionary; run it again and only a changed one is computed.

python jobs/cluster.py --store DIR --kind linguistic
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import typer

from pipeline.clustering import ClusterRequest, cluster, load_cluster_config
from pipeline.errors import UsageError
from pipeline.report import Reporter
from stores.errors import StoreError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Kind(StrEnum):
    LINGUISTIC = "linguistic"
    VISUAL = "visual"


class Executor(StrEnum):
    AUTO = "auto"
    LOCAL = "local"
    RAY = "ray"


@app.command(help=__doc__)
def main(
    store: Annotated[str, typer.Option(help="The store directory.")],
    kind: Annotated[Kind, typer.Option(help="Of the questions' graphs, or of the videos' frames.")],
    feature: Annotated[
        str | None, typer.Option(help="visual: the feature (default: the only one with one vector a step).")
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Clusters (default: 512).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of k-means (default: 43).")] = None,
    split: Annotated[str, typer.Option(help="The split whose questions count.")] = "train",
    dataset: Annotated[str | None, typer.Option(help="The dataset (default: the only one there is).")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with encoder, kmeans and run.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value; repeatable.")
    ] = None,
    executor: Annotated[Executor, typer.Option(help="k-means is one fit: it runs in this process.")] = Executor.AUTO,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done and why; do nothing.")] = False,
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="Exit 0 even if graphs or rows are missing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")] = False,
) -> None:
    overrides = list(set_ or ())
    overrides += [f"kmeans.{name}={value}" for name, value in (("k", k), ("seed", seed)) if value is not None]
    reporter = Reporter()
    try:
        request = ClusterRequest(
            store=store,
            kind=kind.value,
            config=load_cluster_config(config, overrides),
            feature=feature,
            dataset=dataset,
            split=split,
            plan_only=plan,
            allow_failures=allow_failures,
        )
        if executor is Executor.RAY:
            reporter.line("k-means is one fit over all members: it runs in this process, whatever the executor")
        result = cluster(request, reporter)
    except (UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps({"exit_code": result.exit_code, **result.summary}))
    raise typer.Exit(result.exit_code)


if __name__ == "__main__":
    app()
