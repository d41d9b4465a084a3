"""Cluster the training split into a confounder dictionary. Run it again, and only a dictionary that changed is made.

Strings that a run has embedded before it was stopped are kept. The fit runs on one thread and reads frames where they
lie: its memory holds a few numbers for each frame, and not the frames.

python jobs/cluster.py --store DIR --kind linguistic
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

from jobs._cli import (
    AllowCode,
    AllowFailures,
    AsJson,
    ConfigFile,
    Overrides,
    PlanOnly,
    ShowConfig,
    ShowSchema,
    StageCommand,
    finish,
    job,
    show_settings,
    terminal_of,
)
from pipeline.cluster import ClusterConfig, ClusterRequest, cluster, load_cluster_config
from pipeline.shared import ExecutorName
from stores.describe import DictionaryKind

app = job(None)


@app.command(cls=StageCommand, help=__doc__)
def main(
    store: Annotated[str, typer.Option(help="The store directory.", show_default=False)],
    kind: Annotated[
        DictionaryKind,
        typer.Option(
            help="What to cluster: question graphs (linguistic) or video frames (visual).", show_default=False
        ),
    ],
    feature: Annotated[
        str | None,
        typer.Option(help="visual: the feature to cluster (default: the only one with one vector per step)."),
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Number of clusters (default: 512).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed of k-means (default: 43).")] = None,
    split: Annotated[str, typer.Option(help="The split whose questions count.")] = "train",
    dataset: Annotated[str | None, typer.Option(help="The dataset (default: the only one in the store).")] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    executor: Annotated[ExecutorName, typer.Option(help="Without effect: clustering runs in this process.")] = "auto",
    plan: PlanOnly = False,
    allow_code: AllowCode = False,
    allow_failures: AllowFailures = False,
    as_json: AsJson = False,
    show_config: ShowConfig = False,
    show_schema: ShowSchema = False,
) -> None:
    short = {"kmeans.k": k, "kmeans.seed": seed}
    overrides = [*(set_ or ()), *(f"{name}={value}" for name, value in short.items() if value is not None)]

    def settings() -> ClusterConfig:
        return load_cluster_config(config, overrides, allow_code)

    show_settings(show_config, show_schema, ClusterConfig, settings)
    terminal = terminal_of(plan, as_json)
    if executor == "ray":
        terminal.line("k-means is one fit over all members: it runs in this process, whatever the executor")
    request = ClusterRequest(
        store=store,
        kind=kind,
        config=settings(),
        feature=feature,
        dataset=dataset,
        split=split,
        executor=executor,
        plan_only=plan,
    )
    finish(cluster(request, terminal), allow_failures, as_json)


if __name__ == "__main__":
    app()
