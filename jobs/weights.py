"""Bring a preset's weights to a machine without network (``fetch`` and ``verify``), and see what its towers do here.

python jobs/weights.py fetch cra-nextgqa --dir weights

python jobs/weights.py verify cra-nextgqa --dir weights

python jobs/weights.py check cra-nextgqa --media clip.mp4
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

from extractors import Extractor, ExtractorError, UnreachableError
from jobs._cli import AllowCode, AsJson, Command, ConfigFile, Overrides, emit, job
from pipeline.extract import load_config
from pipeline.extract.checking import TEXTS, TowerCheck, check_towers

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
            try:
                fetched = extractor.fetch(directory)
            except UnreachableError as error:
                raise ExtractorError(
                    f"{error.reason}; fetch needs a network: run this command on a machine that has one, and copy "
                    f"{directory} from there to here"
                ) from error
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


@app.command(cls=Command)
def check(
    preset: Annotated[str | None, typer.Argument(metavar="PRESET", help="Name of a preset.")] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    media: Annotated[
        Path | None, typer.Option(metavar="CLIP", help="A video whose frames and sound are computed (default: noise).")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="What CLIP's frames are compared with; repeatable (default: a few scenes).")
    ] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Load each tower of a preset, compute a few steps, and print what a night of extraction would rely on."""
    found = []
    read = load_config(preset, config, set_ or (), allow_code)
    for tower in check_towers(read, media, text or TEXTS):
        found.append(tower)
        print("\n".join(_lines(tower, media)), file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        emit({"towers": [{**asdict(tower), "rounding": tower.rounding.model_dump()} for tower in found]})


def _lines(tower: TowerCheck, media: Path | None) -> Iterator[str]:
    """Describe a tower, one property a line."""
    parameters = "" if tower.parameters is None else f", {tower.parameters / 1e6:.1f} M parameters"
    yield f"{tower.feature} ({tower.spec_digest[:8]}): {_listed(tower.model, left_out=('compute_dtype',))}{parameters}"
    yield f"  weights  {tower.weights_sha256 or 'without a digest: random, or none'}"
    if tower.preprocessing:
        yield f"  prepares {_listed(tower.preprocessing)}"
    yield f"  takes    {list(tower.prepared_shape)} {tower.prepared_dtype} a step"
    yield f"  stores   {list(tower.step_shape)} {tower.dtype} a step: {tower.units}"
    steps = f"{tower.steps} steps of {'noise' if media is None else media.name}"
    yield f"  here     {tower.device}, {tower.compute_dtype}: {tower.steps_per_s:.3g} steps/s over {steps}"
    yield f"           loaded in {tower.load_s:.1f} s"
    error = tower.rounding
    yield f"  error    against float32: cosine at least {error.min_cosine:.7f}, difference at most {error.max_abs:.2g}"
    for number, (text, cosine) in enumerate(tower.nearest):
        yield f"  {'' if number else 'nearest':8} {cosine:+.3f} {text}"


def _listed(values: Mapping[str, object], left_out: tuple[str, ...] = ()) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None and name not in left_out)


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
