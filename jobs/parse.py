"""Parse questions: annotations in, one table of questions and their graphs out. Only new texts are parsed, on all CPUs.

python jobs/parse.py ANNOTATIONS --format nextgqa --split val --store DIR --stanza-dir MODELS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

from jobs._cli import (
    AllowFailures,
    AsJson,
    ConfigFile,
    Executor,
    Overrides,
    PlanOnly,
    ShowConfig,
    ShowSchema,
    StageCommand,
    StoreFolder,
    finish,
    job,
    show_settings,
    terminal_of,
)
from parsers.annotations import FORMATS
from pipeline.parse import ParseConfig, ParseRequest, load_parse_config, parse

app = job(None)


@app.command(cls=StageCommand, help=__doc__)
def main(
    annotations: Annotated[
        list[str],
        typer.Argument(
            help="The annotation file, or a folder that holds it under its official name; or all files of the split."
        ),
    ],
    format_: Annotated[
        str, typer.Option("--format", help=f"The format of the file: {', '.join(FORMATS)}.", show_default=False)
    ],
    split: Annotated[str, typer.Option(help="The split, such as train, val or test.", show_default=False)],
    store: StoreFolder,
    dataset: Annotated[
        str | None, typer.Option(help="The dataset's name in the store (default: the format's).")
    ] = None,
    stanza_dir: Annotated[
        Path | None, typer.Option(help="Folder of Stanza's models (default: Stanza's own, downloaded if missing).")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Go on if more than half of the split's stored questions would go.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a file whose name, ids or questions are those of another split.")
    ] = False,
    drop_columns: Annotated[
        bool, typer.Option("--drop-columns", help="Read a NExT-GQA csv as a table, without its own columns.")
    ] = False,
    config: ConfigFile = None,
    set_: Overrides = None,
    executor: Executor = "auto",
    plan: PlanOnly = False,
    allow_failures: AllowFailures = False,
    as_json: AsJson = False,
    show_config: ShowConfig = False,
    show_schema: ShowSchema = False,
) -> None:
    def settings() -> ParseConfig:
        return load_parse_config(config, set_ or (), stanza_dir)

    show_settings(show_config, show_schema, ParseConfig, settings)
    request = ParseRequest(
        annotations=annotations,
        format=format_,
        split=split,
        store=store,
        config=settings(),
        dataset=dataset,
        executor=executor,
        plan_only=plan,
        replace=replace,
        strict=strict,
        drop_columns=drop_columns,
    )
    finish(parse(request, terminal_of(plan, as_json)), allow_failures, as_json)


if __name__ == "__main__":
    app()
