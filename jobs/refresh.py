"""Bring every stage of one dataset up to date: videos, questions, embeddings, dictionaries.

python jobs/refresh.py DATASET.yaml
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import typer

from pipeline.errors import UsageError
from pipeline.refresh import load_dataset, refresh
from settings import SettingsError
from stores.errors import StoreError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Executor(StrEnum):
    AUTO = "auto"
    LOCAL = "local"
    RAY = "ray"


@app.command(help=__doc__)
def main(
    dataset: Annotated[Path, typer.Argument(help="The dataset file; its relative paths count from its folder.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value; repeatable.")
    ] = None,
    executor: Annotated[Executor, typer.Option(help="auto: ray in a submitted Ray job, else local.")] = Executor.AUTO,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done; do nothing.")] = False,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit 0 even if rows are missing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summaries as one JSON object on stdout.")] = False,
) -> None:
    try:
        result = refresh(load_dataset(dataset, set_ or ()), executor.value, plan, allow_failures)
    except (SettingsError, UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps({"exit_code": result.exit_code, "stages": result.summary}))
    raise typer.Exit(result.exit_code)


if __name__ == "__main__":
    app()
