"""Look at a store, check it, mend it, clean it up; export, import and compare legacy feature files."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import typer
from rich.console import Console
from rich.table import Table

from stores import Store
from stores.card import write_card
from stores.compact import SHARD_MB, SHARD_ROWS, compact
from stores.compare import StoreRows, compare, open_other
from stores.dictionaries import describe_dictionary
from stores.dictionary_export import TARGET as DICTIONARIES
from stores.dictionary_export import export_dictionaries
from stores.errors import StoreError
from stores.gc import GRACE_SECONDS, collect
from stores.inspect import describe_key, describe_store
from stores.legacy import LegacyError
from stores.legacy_export import TARGETS, Export, Options, export, read_keys
from stores.legacy_import import import_legacy
from stores.report import render_report, write_report
from stores.rounding import RoundingError
from stores.verify import repair as repair_store
from stores.verify import summary as verification_summary
from stores.verify import verify as verify_store


class Kind(StrEnum):
    LINGUISTIC = "linguistic"
    VISUAL = "visual"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True, emoji=False)

Directory = Annotated[Path, typer.Argument(help="The store directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@contextmanager
def _errors() -> Iterator[None]:
    """One line for each warning; one line and exit code 2 for what a user must change."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *where, **more: print(f"warning: {message}", file=sys.stderr)
            yield
    except (StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _emit(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))


@app.command()
def inspect(
    directory: Directory,
    key: Annotated[str | None, typer.Argument(help="Tell this video key's story.")] = None,
    dictionary: Annotated[
        Kind | None, typer.Option(help="Show the clusters of this dictionary and their nearest members.")
    ] = None,
    cluster: Annotated[int | None, typer.Option(help="With --dictionary: this cluster only.")] = None,
    nearest: Annotated[int, typer.Option(min=1, help="With --dictionary: members shown of a cluster.")] = 5,
    version: Annotated[int | None, typer.Option(help="Look at this version (default: the latest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show features, tables and missing rows, or all that is known of one video key or of a dictionary."""
    with _errors(), Store.open(directory, version, lease=False) as store:
        if dictionary is not None:
            value = describe_dictionary(store, dictionary.value, cluster, nearest)
        else:
            value = describe_store(store) if key is None else describe_key(store, key)
    if as_json:
        _emit(value)
    elif dictionary is not None:
        _show_dictionary(value)
    elif key is None:
        _show_store(value)
    else:
        console.print_json(data=value)


def _show_store(value: dict[str, Any]) -> None:
    console.print(f"{value['path']}: version {value['version']}", markup=False)
    table = Table()
    for column in ("feature", "rows", "row shape", "dtype", "MB", "shards", "spec", "weights"):
        table.add_column(column, justify="right" if column in ("rows", "MB", "shards") else "left")
    for name, feature in value["features"].items():
        shape = "×".join(map(str, feature["shape"]))
        table.add_row(
            name,
            str(feature["rows"]),
            shape,
            feature["dtype"],
            f"{feature['bytes'] / 1e6:.1f}",
            str(feature["shards"]),
            feature["spec"][:8],
            feature["weights"],
        )
    console.print(table)
    for name, feature in value["features"].items():
        for kind, error in feature["rounding"].items():
            console.print(f"error against float32: {name}: {kind}: {RoundingError(**error)}", markup=False)
    for name, rows in value["tables"].items():
        console.print(f"table {name}: {rows} rows", markup=False)
    for name, members in value["stale"].items():
        console.print(f"table {name} is stale: {', '.join(members)}; run jobs/cluster.py", markup=False)
    counts = Counter((failure["feature"], failure["class"]) for failure in value["failures"])
    for (name, kind), count in sorted(counts.items()):
        console.print(f"missing: {name}: {count} {kind}", markup=False)
    for failure in value["failures"]:
        console.print(f"  {failure['video_id']!r}: {failure['class']}: {failure['message']}", markup=False)


def _show_dictionary(value: dict[str, Any]) -> None:
    spec = value["spec"]
    shape = "×".join(map(str, spec["shape"]))
    console.print(
        f"{value['dictionary']} dictionary of {spec['dataset']}/{spec['split']}, version {value['version']}: "
        f"k={spec['k']} of {shape}, {value['members']} members, "
        f"{sum(each['empty'] for each in value['clusters'])} empty clusters",
        markup=False,
    )
    for change in value["stale"]:
        console.print(f"stale: {change}", markup=False)
    for each in value["clusters"]:
        state = "empty" if each["empty"] else f"{each['count']} members"
        console.print(f"cluster {each['cluster']}: {state}", markup=False)
        for member in each["nearest"]:
            if "video_id" in member:
                told = f"{member['video_id']!r} at {member['time_s']:.2f} s (step {member['step']})"
            else:
                told = f"{member['question_id']}: {member['question']} → {member['answer']}"
            console.print(f"  {member['distance']:.4f}  {_printable(told)}", markup=False)


def _printable(text: str) -> str:
    """Text of a data set on a terminal: control characters are written out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@app.command()
def report(
    directory: Directory,
    out: Annotated[Path | None, typer.Option(help="The file to write (default: report.html in the store).")] = None,
    version: Annotated[int | None, typer.Option(help="Look at this version (default: the latest).")] = None,
) -> None:
    """Write one HTML page: how complete the features are, how they were made, what is missing and why."""
    with _errors(), Store.open(directory, version, lease=False) as store:
        if out is None:
            out = write_report(store)
        else:
            out.write_text(render_report(store), encoding="utf-8")
    print(out)


@app.command()
def verify(
    directory: Directory,
    deep: Annotated[bool, typer.Option("--deep", help="Also hash whole files and re-parse headers.")] = False,
    version: Annotated[int | None, typer.Option(help="Check this version (default: the latest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every row with its digest. Exit code 3 when something is damaged."""
    with _errors():
        result = verify_store(directory, deep, version)
    if as_json:
        _emit(verification_summary(result))
    else:
        for problem in result.problems:
            console.print(f"damaged: {problem}", markup=False)
        state = "sound" if result.ok else f"{len(result.problems)} problems; `store.py repair` mends what can be mended"
        console.print(
            f"version {result.version}: {result.rows} rows in {result.shards} shards, {result.bytes / 1e6:.1f} MB: "
            f"{state}",
            markup=False,
        )
    raise typer.Exit(0 if result.ok else 3)


@app.command()
def repair(directory: Directory, as_json: AsJson = False) -> None:
    """Adopt finished shards that a crash left unnamed, and drop rows whose bytes are gone."""
    with _errors():
        outcome = repair_store(directory)
        write_card(directory)
    if as_json:
        _emit(dataclasses.asdict(outcome))
        return
    console.print(
        f"version {outcome.version}: adopted {outcome.adopted_rows} rows in {outcome.adopted_shards} shards, "
        f"rewrote {outcome.salvaged_rows} sound rows of damaged shards",
        markup=False,
    )
    for name, keys in outcome.dropped_rows.items():
        console.print(f"dropped {len(keys)} rows of {name}: {', '.join(map(repr, keys[:10]))}", markup=False)
    if outcome.dropped_rows:
        console.print("run the extract job again to compute them", markup=False)


@app.command()
def gc(
    directory: Directory,
    grace_days: Annotated[
        float, typer.Option(min=0, help="Keep versions and files younger than this; 0 only if nothing writes.")
    ] = GRACE_SECONDS / 86400,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what no kept version names: old versions, retired specs, leftovers of crashes."""
    with _errors():
        outcome = collect(directory, grace_days * 86400, dry_run)
    if as_json:
        _emit(dataclasses.asdict(outcome))
        return
    verb = "would remove" if dry_run else "removed"
    console.print(
        f"{verb} {len(outcome.versions)} versions, {len(outcome.files)} files, {outcome.bytes / 1e6:.1f} MB"
        + (f"; retired {', '.join(outcome.retired_specs)}" if outcome.retired_specs else "")
        + (f"; kept for leases: {outcome.kept_for_leases}" if outcome.kept_for_leases else ""),
        markup=False,
    )


@app.command("compact")
def compact_store(
    directory: Directory,
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Size of a full shard.")] = SHARD_MB,
    shard_rows: Annotated[int, typer.Option(min=2, help="Rows of a full shard.")] = SHARD_ROWS,
    as_json: AsJson = False,
) -> None:
    """Merge small shards into full ones. Older versions stay readable until gc."""
    with _errors():
        outcome = compact(directory, shard_mb, shard_rows)
    if as_json:
        _emit(dataclasses.asdict(outcome))
        return
    console.print(
        f"version {outcome.version}: {outcome.rows} rows of {outcome.shards_before} shards "
        f"({outcome.bytes_before / 1e6:.1f} MB) are in {outcome.shards_after} ({outcome.bytes_after / 1e6:.1f} MB)"
        if outcome.rows
        else f"nothing to do: version {outcome.version} has no shards worth merging",
        markup=False,
    )


@app.command("export")
def export_feature(
    directory: Directory,
    to: Annotated[str, typer.Option(help=f"Layout: {', '.join(sorted([*TARGETS, DICTIONARIES]))}.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    feature: Annotated[
        str | None, typer.Option(help=f"The feature (name or name@digest); all but {DICTIONARIES} need it.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Video ids of a split (.csv, .json or one a line); repeatable."),
    ] = None,
    version: Annotated[int | None, typer.Option(help="Export this version (default: the latest).")] = None,
    dataset_name: Annotated[str | None, typer.Option(help="nextgqa: the HDF5 dataset (default: CLIPL_I).")] = None,
    layout: Annotated[
        str | None, typer.Option(help="nextgqa: cra (SPLIT.h5, default) or nextgqa (DATASET_SPLIT.h5).")
    ] = None,
    published_times: Annotated[
        bool, typer.Option("--published-times", help="nextgqa: times as the published recipe claims them.")
    ] = False,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit 0 even if rows are missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a feature or the dictionaries as the files that published trainers read.

    Exit code 3 when wanted rows are missing.
    """
    if to == DICTIONARIES:
        _export_dictionaries(directory, out, version, as_json)
        return
    with _errors():
        if feature is None:
            raise LegacyError(f"--to {to}: name the feature with --feature")
        splits = dict(_split(text) for text in split or ())
        with Store.open(directory, version) as store:
            result = export(store, feature, to, out, splits, Options(dataset_name, layout, published_times))
    if as_json:
        _emit(dataclasses.asdict(result))
    else:
        _show_export(result, out)
    raise typer.Exit(3 if result.missing and not allow_failures else 0)


def _export_dictionaries(directory: Path, out: Path, version: int | None, as_json: bool) -> None:
    with _errors(), Store.open(directory, version) as store:
        result = export_dictionaries(store, out)
    if as_json:
        _emit(dataclasses.asdict(result))
        return
    for name, clusters in result.files.items():
        console.print(f"{out / name}: {clusters} clusters", markup=False)
    for name, reason in result.left_out.items():
        console.print(f"not written: {name}: {reason}", markup=False)
    for kind in result.random_weights:
        console.print(f"warning: the {kind} dictionary was made with random weights", markup=False)
    for kind, changes in result.stale.items():
        console.print(f"warning: the {kind} dictionary is stale ({', '.join(changes[:3])})", markup=False)


def _split(text: str) -> tuple[str, list[str]]:
    name, separator, file = text.partition("=")
    if not (name and separator and file):
        raise LegacyError(f"--split {text!r}: must be NAME=FILE")
    return name, read_keys(Path(file))


def _show_export(result: Export, out: Path) -> None:
    for name, rows in result.files.items():
        console.print(f"{out / name}: {rows} rows", markup=False)
    if result.padded:
        console.print(f"{result.padded} rows hold steps that are padding", markup=False)
    if result.renamed:
        console.print(f"{result.renamed} keys are not file names; index.csv says which file is whose", markup=False)
    if result.times_unknown:
        console.print(f"times unknown, not in frame2time: {len(result.times_unknown)} rows", markup=False)
    for missing in result.missing:
        console.print(f"missing: {missing.split}: {missing.key!r}: {missing.reason}", markup=False)


@app.command("import")
def import_feature(
    directory: Directory,
    source: Annotated[list[Path], typer.Argument(help="HDF5 files, or a folder of .h5 or of .npy files.")],
    feature: Annotated[str, typer.Option(help="The feature's name in the store.")],
    format: Annotated[str | None, typer.Option(help="nextgqa (HDF5) or npy (default: by the files).")] = None,
    dataset_name: Annotated[str | None, typer.Option(help="The feature dataset of the HDF5 files.")] = None,
    times: Annotated[
        list[Path] | None, typer.Option(help="frame2time JSON {id: [seconds]} of the rows; repeatable.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Retire extracted rows of the same feature.")] = False,
    allow_failures: Annotated[bool, typer.Option("--allow-failures", help="Exit 0 even if rows are missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store legacy feature files under a spec that is their digest. Exit code 3 when rows hold NaN."""
    with _errors():
        result = import_legacy(directory, source, feature, format, dataset_name, times or (), replace)
        write_card(directory)
    if as_json:
        _emit(dataclasses.asdict(result))
    else:
        console.print(
            f"version {result.version}: {result.rows} rows of {feature} are external:{result.external[:8]}, "
            f"{result.added} of them new",
            markup=False,
        )
        if result.times_unknown:
            console.print(f"times unknown: {result.times_unknown} rows count their steps instead", markup=False)
        for key, reason in result.failed.items():
            console.print(f"missing: {key!r}: {reason}", markup=False)
    raise typer.Exit(3 if result.failed and not allow_failures else 0)


@app.command("compare")
def compare_feature(
    directory: Directory,
    other: Annotated[Path, typer.Argument(help="Another store, an HDF5 file, or a folder of .h5 or .npy files.")],
    feature: Annotated[str, typer.Option(help="The feature (name or name@digest).")],
    other_feature: Annotated[str | None, typer.Option(help="Its name there, or the HDF5 dataset.")] = None,
    atol: Annotated[float, typer.Option(min=0, help="Largest absolute error that still matches; 0: bit by bit.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Compare a feature row by row. Exit code 3 when a row of both differs, or there is none."""
    with _errors(), Store.open(directory) as store:
        result = compare(StoreRows(store, feature), open_other(other, feature, other_feature), atol)
    if as_json:
        _emit({"ok": result.ok, **dataclasses.asdict(result)})
    else:
        console.print(
            f"{result.common} common rows: {result.identical} identical, {result.differing} differ; "
            f"max abs {result.max_abs:.3g}, mean abs {result.mean_abs:.3g}, "
            f"cosine min {result.min_cosine:.6f}, mean {result.mean_cosine:.6f}",
            markup=False,
        )
        for keys, place in ((result.only_here, directory), (result.only_there, other)):
            if keys:
                console.print(f"only in {place}: {len(keys)} keys: {', '.join(map(repr, keys[:10]))}", markup=False)
        for shapes in result.other_shape:
            console.print(f"differs: {shapes['key']!r}: {shapes['here']} here, {shapes['there']} there", markup=False)
        for key in result.not_finite:
            console.print(f"differs: {key!r}: NaN or infinite values on one side", markup=False)
        for row in result.worst:
            console.print(
                f"differs: {row.key!r}: max abs {row.max_abs:.3g}, cosine min {row.min_cosine:.6f}", markup=False
            )
    raise typer.Exit(0 if result.ok else 3)


if __name__ == "__main__":
    app()
