"""Parse questions: annotations in, one table of questions and their graphs out; only new texts are parsed.

python jobs/parse.py ANNOTATIONS --format nextgqa --split val --store DIR --stanza-dir MODELS
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
from pipeline.parsing import ParseRequest, run_parse
from pipeline.parsing_config import load_parse_config
from settings import SettingsError
from stores.errors import StoreError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Executor(StrEnum):
    AUTO = "auto"
    LOCAL = "local"
    RAY = "ray"


class Format(StrEnum):
    NEXTGQA = "nextgqa"
    STAR = "star"
    MUSIC_AVQA = "music_avqa"
    TABLE = "table"


@app.command(help=__doc__)
def parse(
    annotations: Annotated[
        str, typer.Argument(help="The annotation file, or a folder that holds it under its official name.")
    ],
    format_: Annotated[Format, typer.Option("--format", help="What kind of file it is.")],
    split: Annotated[str, typer.Option(help="The split, as train, val or test.")],
    store: Annotated[str, typer.Option(help="The store directory; made if it does not exist.")],
    dataset: Annotated[
        str | None, typer.Option(help="The dataset's name in the store (default: the format's).")
    ] = None,
    stanza_dir: Annotated[
        Path | None, typer.Option(help="Folder of Stanza's models (default: Stanza's own, downloaded if missing).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML configuration file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value; repeatable.")
    ] = None,
    executor: Annotated[Executor, typer.Option(help="auto: ray in a submitted Ray job, else local.")] = Executor.AUTO,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done; do nothing.")] = False,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit 0 even if rows are refused.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")] = False,
) -> None:
    try:
        request = ParseRequest(
            annotations=annotations,
            format=format_.value,
            split=split,
            store=store,
            config=load_parse_config(config, set_ or (), stanza_dir),
            dataset=dataset,
            executor=executor.value,
            plan_only=plan,
            allow_failures=allow_failures,
        )
        result = run_parse(request)
    except (SettingsError, UsageError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps({"exit_code": result.exit_code, **result.summary}))
    raise typer.Exit(result.exit_code)


if __name__ == "__main__":
    app()
