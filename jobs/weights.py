"""Bring a preset's weights to a machine without network: `fetch` where there is one, `verify` where there is none.

python jobs/weights.py fetch cra-nextgqa --dir weights
python jobs/weights.py verify cra-nextgqa --dir weights
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

sys.path[0] = str(Path(__file__).resolve().parents[1])

import typer

from extractors.base import ExtractorError
from pipeline.config import Config, load_config
from pipeline.errors import ConfigError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
Preset = Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset, e.g. cra-nextgqa.")]
Directory = Annotated[Path, typer.Option("--dir", help="Directory of the weights and their weights.json.")]


@app.command()
def fetch(preset: Preset, directory: Directory) -> None:
    """Download the hub weights of a preset as safetensors and list them in DIR/weights.json."""
    some = False
    for name, feature in _config(preset).features.items():
        try:
            fetched = feature.build().fetch(directory)
        except ExtractorError as error:
            _fail(f"features.{name}: {error}")
        if fetched is not None:
            some = True
            path = (directory / fetched.file).resolve()
            print(f"{name}: {fetched.model} {fetched.tag}, sha256 {fetched.sha256}")
            print(f"  use it with --set features.{name}.weights={path}")
    if not some:
        print(f"preset {preset}: nothing to fetch")


@app.command()
def verify(preset: Preset, directory: Directory) -> None:
    """Check digests against DIR/weights.json and load every file strictly."""
    some = False
    for name, feature in _config(preset).features.items():
        try:
            verified = feature.build().verify(directory)
        except ExtractorError as error:
            _fail(f"features.{name}: {error}")
        if verified is not None:
            some = True
            print(f"{name}: {verified.file} is intact and fits {verified.model}")
    if not some:
        print(f"preset {preset}: nothing to verify")


def _config(preset: str) -> Config:
    try:
        return load_config(preset=preset)
    except ConfigError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    app()
