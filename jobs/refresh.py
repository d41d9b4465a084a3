"""Bring every stage of one dataset up to date: videos, questions, embeddings, dictionaries.

python jobs/refresh.py DATASET.yaml
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
    emit,
    exit_code,
    job,
    show_settings,
    terminal_of,
)
from pipeline.extract import PlanOptions
from pipeline.refresh import Dataset, load_dataset, refresh
from pipeline.shared import UsageError
from stores.command import say_error

app = job(None)


@app.command(cls=StageCommand, help=__doc__)
def main(
    dataset: Annotated[Path, typer.Argument(help="The dataset file; its relative paths count from its folder.")],
    set_: Overrides = None,
    executor: Executor = "auto",
    plan: PlanOnly = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Drop rows of videos, and questions of splits, that left the source or the file."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Go on if more than half of a split's stored questions would go.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse files whose name, ids or questions are those of another split.")
    ] = False,
    no_compact: Annotated[
        bool, typer.Option("--no-compact", help="Leave small shards as they are, whatever the dataset file says.")
    ] = False,
    limit: Limit = None,
    only: Only = None,
    retry_failed: RetryFailed = False,
    decode_workers: DecodeWorkers = None,
    gpus: Gpus = None,
    memory: Memory = None,
    allow_code: AllowCode = False,
    allow_failures: AllowFailures = False,
    as_json: AsJson = False,
    show_config: ShowConfig = False,
    show_schema: ShowSchema = False,
) -> None:
    def settings() -> Dataset:
        if dataset is None:
            raise UsageError("--show-config: name the dataset file")
        machine = {"run.decode_workers": decode_workers, "run.gpus": gpus, "run.memory_gb": memory}
        loaded = load_dataset(dataset, set_ or (), allow_code)
        return loaded.with_overrides([f"{name}={value}" for name, value in machine.items() if value is not None])

    show_settings(show_config, show_schema, Dataset, settings)
    result = refresh(
        settings(),
        executor,
        plan,
        prune,
        replace,
        strict,
        not no_compact,
        allow_code,
        terminal=terminal_of(plan, as_json),
        options=PlanOptions(retry_failed, prune=prune, only=frozenset(only or ()), limit=limit),
    )
    code = 2 if result.failed else exit_code(result, allow_failures)
    if as_json:
        emit({"exit_code": code, "stages": result.summary()})
    if result.failed:
        name, reason = next(iter(result.failed.items()))
        others = ", ".join(list(result.failed)[1:])
        more = f" (also failed or not run: {others})" if others else ""
        say_error(f"{name}: {reason}{more}; what was committed is safe, run the same command to continue")
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
