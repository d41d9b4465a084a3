"""Bring a preset's weights to a machine without network: ``fetch`` where there is one, ``verify`` where there is none.

python jobs/weights.py fetch cra-nextgqa --dir weights

python jobs/weights.py verify cra-nextgqa --dir weights
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

from extractors import Extractor, ExtractorError
from jobs._cli import Command, job
from pipeline.extract import load_config

app = job(__doc__)
Preset = Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset, such as cra-nextgqa.")]
Directory = Annotated[
    Path, typer.Option("--dir", help="Directory of the weights and their weights.json.", show_default=False)
]


@app.command(cls=Command)
def fetch(preset: Preset, directory: Directory) -> None:
    """Download the hub weights of a preset as safetensors and list them in DIR/weights.json."""
    some = False
    for name, extractor in _extractors(preset):
        with _named(name):
            fetched = extractor.fetch(directory)
        if fetched is not None:
            some = True
            path = (directory / fetched.file).resolve()
            print(f"{name}: {fetched.model} {fetched.tag}, sha256 {fetched.sha256}")
            print(f"  use it with --set features.{name}.{fetched.option}={path}")
    if not some:
        print(f"preset {preset}: nothing to fetch")


@app.command(cls=Command)
def verify(preset: Preset, directory: Directory) -> None:
    """Check digests against DIR/weights.json and load every file strictly."""
    some = False
    for name, extractor in _extractors(preset):
        with _named(name):
            verified = extractor.verify(directory)
        if verified is not None:
            some = True
            print(f"{name}: {verified.file} is intact and fits {verified.model}")
    if not some:
        print(f"preset {preset}: nothing to verify")


def _extractors(preset: str) -> Iterator[tuple[str, Extractor]]:
    for name, feature in load_config(preset=preset).features.items():
        yield name, feature.build()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which feature an error is about."""
    try:
        yield
    except ExtractorError as error:
        raise ExtractorError(f"features.{name}: {error}") from error


if __name__ == "__main__":
    app()
