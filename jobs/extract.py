"""Extract features: videos in, verified feature shards out. Run it again, and only what changed is computed.

python jobs/extract.py SOURCE --store DIR --preset demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

from jobs._cli import (
    AllowCode,
    AllowFailures,
    AsJson,
    ConfigFile,
    DecodeWorkers,
    Executor,
    Gpus,
    Limit,
    Memory,
    Only,
    Overrides,
    PlanOnly,
    RetryFailed,
    ShowConfig,
    ShowSchema,
    StageCommand,
    StoreFolder,
    finish,
    job,
    show_settings,
    terminal_of,
)
from pipeline.extract import Config, ExtractRequest, PlanOptions, extract, load_config, preset_names

app = job(None)


@app.command(cls=StageCommand, help=f"{__doc__}\n\nPresets: {', '.join(preset_names())}.")
def main(
    source: Annotated[
        str,
        typer.Argument(help="A directory, a glob, or a csv/jsonl/parquet table with video_id, uri[, start_s, end_s]."),
    ],
    store: StoreFolder,
    preset: Annotated[
        str | None, typer.Option(help="A configuration by name (demo if neither this nor --config is given).")
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    executor: Executor = "auto",
    plan: PlanOnly = False,
    limit: Limit = None,
    only: Only = None,
    key: Annotated[
        Literal["stem", "relpath"] | None, typer.Option(help="How files get their keys (default: stem).")
    ] = None,
    source_root: Annotated[
        str | None, typer.Option(metavar="DIR", help="Refuse files that do not lie in DIR, links resolved.")
    ] = None,
    retry_failed: RetryFailed = False,
    force: Annotated[bool, typer.Option("--force", help="Compute wanted rows even if they are stored.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop rows of videos that are no longer in SOURCE.")] = False,
    allow_code: AllowCode = False,
    allow_failures: AllowFailures = False,
    decode_workers: DecodeWorkers = None,
    gpus: Gpus = None,
    wait_for_cpus: Annotated[
        int | None, typer.Option(min=0, help="On Ray: wait until the cluster has N CPUs.", metavar="N")
    ] = None,
    wait_for_gpus: Annotated[
        int | None, typer.Option(min=0, help="On Ray: wait until the cluster has N GPUs.", metavar="N")
    ] = None,
    memory: Memory = None,
    as_json: AsJson = False,
    show_config: ShowConfig = False,
    show_schema: ShowSchema = False,
) -> None:
    short = {
        "source.key": key,
        "source.root": source_root and json.dumps(str(Path(source_root).absolute())),
        "run.decode_workers": decode_workers,
        "run.gpus": gpus,
        "run.memory_gb": memory,
        "run.wait_for_cpus": wait_for_cpus,
        "run.wait_for_gpus": wait_for_gpus,
    }
    overrides = [*(set_ or ()), *(f"{name}={value}" for name, value in short.items() if value is not None)]

    def settings() -> Config:
        return load_config(preset, config, overrides, allow_code)

    show_settings(show_config, show_schema, Config, settings)
    request = ExtractRequest(
        source=source,
        store=store,
        config=settings(),
        executor=executor,
        plan_only=plan,
        options=PlanOptions(retry_failed, force, prune, frozenset(only or ()), limit),
    )
    finish(extract(request, terminal_of(plan, as_json)), allow_failures, as_json)


if __name__ == "__main__":
    app()
