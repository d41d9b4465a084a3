"""The verbs that exchange feature files with other tools: ``export`` and ``import``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..describe import write_card
from ..errors import ExchangeError
from ..exchange import (
    DICTIONARIES,
    TARGETS,
    Export,
    ExportOptions,
    export,
    export_dictionaries,
    import_files,
    read_keys,
)
from ..store import Store
from ..wording import available, first_few, plural
from .bars import Bars
from .base import AsJson, Directory, emit, make_console

_CHOICES = sorted([*TARGETS, DICTIONARIES])

console = make_console()


def export_feature(
    directory: Directory,
    to: Annotated[str, typer.Option(help=f"Layout: {', '.join(_CHOICES)}.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    feature: Annotated[
        str | None, typer.Option(help=f"The feature (name or name@digest); required unless --to is {DICTIONARIES}.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Video ids of a split (.csv, .json, or one per line); repeatable."),
    ] = None,
    version: Annotated[int | None, typer.Option(help="Export this version (default: the latest).")] = None,
    dataset_name: Annotated[str | None, typer.Option(help="nextgqa: the HDF5 dataset (default: CLIPL_I).")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="nextgqa: cra (SPLIT.h5, default) or nextgqa (DATASET_SPLIT.h5). "
            "music_avqa: thwc (default) or tchw, the axes of maps; the published networks read tchw."
        ),
    ] = None,
    dictionary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"{DICTIONARIES}: which one, DATASET/SPLIT[/FEATURE], if there are several of a kind; repeatable.",
        ),
    ] = None,
    published_times: Annotated[
        bool, typer.Option("--published-times", help="nextgqa: write the times that the published recipe states.")
    ] = False,
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="Exit 0 even if rows or files are missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a feature or the dictionaries as the files that published trainers read.

    Exit code 3 if wanted rows are missing, or a file that a published trainer needs could not be written.
    """
    options = ExportOptions(dataset_name, layout, published_times)
    if to == DICTIONARIES:
        if feature is not None or split or options != ExportOptions():
            raise ExchangeError(
                f"--to {to}: takes neither --feature, --split, --dataset-name, --layout nor --published-times"
            )
        complete = _export_dictionaries(directory, out, version, dictionary or (), as_json)
        raise typer.Exit(0 if complete or allow_failures else 3)
    if dictionary:
        raise ExchangeError(f"--to {to}: --dictionary goes with --to {DICTIONARIES}")
    if to not in TARGETS:
        raise ExchangeError(f"--to {to!r}: unknown ({available(_CHOICES)})")
    if feature is None:
        raise ExchangeError(f"--to {to}: needs a feature; name it with --feature")
    splits = dict(_split(text) for text in split or ())
    with Store.open(directory, version) as store, Bars() as bars:
        result = export(store, feature, to, out, splits, options, bars.stage)
    if as_json:
        emit(dataclasses.asdict(result))
    else:
        _show_export(result, out)
    raise typer.Exit(3 if result.missing and not allow_failures else 0)


def _export_dictionaries(directory: Path, out: Path, version: int | None, names: Sequence[str], as_json: bool) -> bool:
    """Export and show it; return whether every file was written."""
    with Store.open(directory, version) as store:
        result = export_dictionaries(store, out, names)
    if as_json:
        emit(dataclasses.asdict(result))
        return not result.left_out
    for name, clusters in result.files.items():
        console.print(f"{out / name}: {clusters} clusters", markup=False)
    for name, reason in result.left_out.items():
        console.print(f"missing: {name}: {reason}", markup=False)
    for kind in result.random_weights:
        console.print(f"warning: the {kind} dictionary was made with random weights", markup=False)
    for kind, changes in result.stale.items():
        console.print(f"warning: the {kind} dictionary is stale ({first_few(changes)})", markup=False)
    return not result.left_out


def _split(text: str) -> tuple[str, list[str]]:
    name, separator, file = text.partition("=")
    if not (name and separator and file):
        raise ExchangeError(f"--split {text!r}: must be NAME=FILE")
    return name, read_keys(Path(file))


def _show_export(result: Export, out: Path) -> None:
    for name, rows in result.files.items():
        console.print(f"{out / name}: {rows} rows", markup=False)
    if result.layout == "thwc":
        console.print("maps are [T, H, W, C]; the published networks read [T, C, H, W]: --layout tchw", markup=False)
    if result.padded:
        console.print(f"{result.padded} rows have steps that are padding", markup=False)
    if result.renamed:
        console.print(f"{result.renamed} keys cannot be file names; index.csv lists their files", markup=False)
    if result.times_unknown:
        console.print(f"times unknown, not in frame2time: {len(result.times_unknown)} rows", markup=False)
    for missing in result.missing:
        console.print(f"missing: {missing.split}: {missing.key!r}: {missing.reason}", markup=False)


def import_feature(
    directory: Directory,
    source: Annotated[list[Path], typer.Argument(help="HDF5 files, or a folder of .h5 or .npy files.")],
    feature: Annotated[str, typer.Option(help="The feature's name in the store.")],
    format: Annotated[
        str | None, typer.Option(help="nextgqa (HDF5) or npy (default: whichever the files are).")
    ] = None,
    dataset_name: Annotated[str | None, typer.Option(help="The feature dataset of the HDF5 files.")] = None,
    times: Annotated[
        list[Path] | None,
        typer.Option(
            help="Times of the rows as frame2time JSON {id: [seconds]}; repeatable (default: frame2time_SPLIT.json "
            "beside the files)."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Let the feature hold these files alone, and retire the other rows it has."),
    ] = False,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit 0 even if rows are missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store feature files of another tool, identified by their digest. Exit code 3 if rows contain NaN.

    Files of other videos are added to those that were imported before.
    """
    with Bars() as bars:
        result = import_files(directory, source, feature, format, dataset_name, times, replace, bars.stage)
    write_card(directory)
    if as_json:
        emit(dataclasses.asdict(result))
    else:
        console.print(
            f"version {result.version}: {result.rows} rows of {feature} from external:{result.external[:8]}, "
            f"{result.added} of them new"
            + (f", beside {result.kept} imported before" if result.kept else "")
            + (f"; retired {plural(result.retired, 'row')}" if result.retired else ""),
            markup=False,
        )
        if result.times:
            console.print(f"times from {', '.join(result.times)}", markup=False)
        if result.times_unfit:
            console.print(
                f"{plural(result.times_unfit, 'row')} have other numbers of steps than of times beside the files",
                markup=False,
            )
        if result.times_unknown:
            console.print(
                f"times unknown: {plural(result.times_unknown, 'row')}; name their frame2time files with --times, or "
                "training refuses them",
                markup=False,
            )
        for key, reason in result.failed.items():
            console.print(f"missing: {key!r}: {reason}", markup=False)
    raise typer.Exit(3 if result.failed and not allow_failures else 0)
