"""Extract features: videos in, verified feature shards out; run it again and only what changed is computed.

python jobs/extract.py SOURCE --store DIR --preset demo
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import typer

from pipeline.config import load_config, preset_names
from pipeline.errors import UsageError
from pipeline.plan import Options
from pipeline.report import Reporter
from pipeline.run import Request, run
from stores.errors import StoreError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Executor(StrEnum):
    AUTO = "auto"
    LOCAL = "local"
    RAY = "ray"


class Key(StrEnum):
    STEM = "stem"
    RELPATH = "relpath"


@app.command(help=f"{__doc__}\nPresets: {', '.join(preset_names())}.")
def extract(
    source: Annotated[
        str,
        typer.Argument(help="A directory, a glob, or a csv/jsonl/parquet table with video_id, uri[, start_s, end_s]."),
    ],
    store: Annotated[str, typer.Option(help="The store directory; made if it does not exist.")],
    preset: Annotated[
        str | None, typer.Option(help="A packaged configuration (demo if neither this nor --config).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML configuration file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value; repeatable.")
    ] = None,
    executor: Annotated[Executor, typer.Option(help="auto: ray in a submitted Ray job, else local.")] = Executor.AUTO,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be done, why and at what cost; do nothing.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Compute at most N videos.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Only this video key; repeatable.")] = None,
    key: Annotated[Key | None, typer.Option(help="How files get their keys (default: stem).")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed rows again, permanent ones too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compute wanted rows even if they are stored.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop rows of videos that are no longer in SOURCE.")] = False,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit 0 even if rows are missing.")] = False,
    decode_workers: Annotated[int | None, typer.Option(min=1, help="Decode workers (default: from the CPUs).")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to use (default: all visible).")] = None,
    memory: Annotated[float | None, typer.Option(min=0.5, help="Memory to plan for, in GiB.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")] = False,
) -> None:
    overrides = list(set_ or ())
    for name, value in (
        ("source.key", key),
        ("run.decode_workers", decode_workers),
        ("run.gpus", gpus),
        ("run.memory_gb", memory),
    ):
        if value is not None:
            overrides.append(f"{name}={value}")
    try:
        request = Request(
            source=source,
            store=store,
            config=load_config(preset, config, overrides),
            executor=executor.value,
            plan_only=plan,
            allow_failures=allow_failures,
            options=Options(retry_failed, force, prune, frozenset(only or ()), limit),
        )
        result = run(request, Reporter())
    except (UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps({"exit_code": result.exit_code, **result.summary}))
    raise typer.Exit(result.exit_code)


if __name__ == "__main__":
    app()
