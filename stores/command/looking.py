"""The verbs that look at a store: ``inspect``, ``report``, ``compare``."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..describe import (
    DictionaryDescription,
    DictionaryKind,
    StoreDescription,
    VideoRow,
    count_questions,
    coverage_lines,
    describe_dictionary,
    describe_key,
    describe_store,
    facts_of,
    find_dictionary,
    find_origins,
    rows_of,
)
from ..exchange import StoreRows, open_other
from ..exchange import compare as compare_rows
from ..format import MediaDamage, RoundingError
from ..store import Store
from ..wording import first_few, plural, printable
from .base import AsJson, Directory, emit, make_console

console = make_console()
SHOWN_SECONDS = 60
"""Seconds of steps that ``inspect DIR KEY`` prints of a row."""


def inspect(
    directory: Directory,
    key: Annotated[str | None, typer.Argument(help="Show everything known about this video key.")] = None,
    dictionary: Annotated[
        DictionaryKind | None, typer.Option(help="Show the clusters of this dictionary with their nearest members.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="With --dictionary: which one, DATASET/SPLIT[/FEATURE], if there are several of the kind."),
    ] = None,
    cluster: Annotated[int | None, typer.Option(help="With --dictionary: show this cluster only.")] = None,
    nearest: Annotated[
        int | None, typer.Option(min=1, help="With --dictionary: members shown per cluster (default: 5).")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Look at this version (default: the latest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show features, tables and missing rows, or everything known about one video key or a dictionary."""
    if dictionary is None:
        for option, value in (("--name", name), ("--cluster", cluster), ("--nearest", nearest)):
            if value is not None:
                raise typer.BadParameter("goes with --dictionary", param_hint=option)
    elif key is not None:
        raise typer.BadParameter("does not go with --dictionary; name one of the two", param_hint="KEY")
    with Store.open(directory, version, lease=False) as store:
        if dictionary is not None:
            found = find_dictionary(store, dictionary, name)
            clusters = describe_dictionary(store, found, cluster, 5 if nearest is None else nearest)
            if as_json:
                emit(clusters)
            else:
                _show_dictionary(clusters)
        elif key is not None:
            if as_json:
                emit(describe_key(store, key))
            else:
                _show_key(store, key)
        else:
            contents = describe_store(store)
            if as_json:
                emit(contents)
            else:
                _show_store(contents)


def _show_store(value: StoreDescription) -> None:
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
        if (damage := MediaDamage(**feature["media_damage"])).any:
            console.print(f"sources of {name}: {damage}", markup=False)
    for line in coverage_lines(value["coverage"]):
        console.print(f"coverage: {line}", markup=False)
    for name, rows in value["tables"].items():
        console.print(f"table {name}: {rows} rows", markup=False)
    for name, changes in value["stale"].items():
        console.print(f"table {name} is stale: {', '.join(changes)}; run jobs/cluster.py in the checkout", markup=False)
    counts = Counter((failure["feature"], failure["class"]) for failure in value["failures"])
    for (name, failure_class), count in sorted(counts.items()):
        console.print(f"missing: {name}: {count} {failure_class}", markup=False)
    for failure in value["failures"]:
        console.print(f"  {failure['video_id']!r}: {failure['class']}: {failure['message']}", markup=False)


def _show_key(store: Store, key: str) -> None:
    """Show what a person asks of a video: facts, which features have its row, at which seconds its frames are."""
    described = describe_key(store, key)
    rows = {row.feature: row for row in rows_of(store, key)}
    console.print(f"{key!r} in {store.path}, version {store.version}", markup=False)
    origins = find_origins(store, [key]).get(key, [])
    failed_from = [failure["uri"] for failure in described["failures"] if failure["uri"]]
    for subject, value in facts_of([*rows.values()], origins, count_questions(store, [key]).get(key, 0), failed_from):
        console.print(f"  {subject + ':':11}{printable(value)}", markup=False)
    table = Table()
    for column in ("feature", "row", "valid steps", "damaged"):
        table.add_column(column, justify="right" if column in ("valid steps", "damaged") else "left")
    failed = {failure["feature"]: failure for failure in described["failures"]}
    for name in sorted({*store.features, *failed}):
        if name in rows:
            row = rows[name]
            shape = f"{'×'.join(map(str, row.shape))} {row.dtype}"
            table.add_row(name, shape, f"{row.valid.sum()} of {len(row.valid)}", str(row.damaged.sum()))
        else:
            table.add_row(name, f"failed as {failed[name]['class']}" if name in failed else "none")
    console.print(table)
    for seconds, names in _seconds_by_features(rows.values()).items():
        console.print(f"seconds of {', '.join(names)}: {seconds}", markup=False)
    for failure in described["failures"]:
        attempts = plural(failure["attempts"], "attempt")
        console.print(
            f"{failure['feature']}: {failure['class']} after {attempts}: {printable(failure['message'])}", markup=False
        )


def _seconds_by_features(rows: Iterable[VideoRow]) -> dict[str, list[str]]:
    """Return the seconds of the valid steps of rows, as text, with the features that have them."""
    found: dict[str, list[str]] = {}
    for row in rows:
        seconds = [f"{second:.2f}" for second in row.times[row.valid].tolist()]
        known = not any(math.isnan(second) for second in row.times)
        found.setdefault(first_few(seconds, SHOWN_SECONDS) if known else "not known", []).append(row.feature)
    return found


def _show_dictionary(value: DictionaryDescription) -> None:
    spec = value["spec"]
    shape = "×".join(map(str, spec["shape"]))
    console.print(
        f"{value['dictionary']} dictionary of {spec['dataset']}/{spec['split']}, version {value['version']}: "
        f"k={spec['k']} of {shape}, {value['members']} members, "
        f"{sum(cluster['empty'] for cluster in value['clusters'])} empty clusters",
        markup=False,
    )
    for change in value["stale"]:
        console.print(f"stale: {change}", markup=False)
    for cluster in value["clusters"]:
        state = "empty" if cluster["empty"] else f"{cluster['count']} members"
        console.print(f"cluster {cluster['cluster']}: {state}", markup=False)
        for member in cluster["nearest"]:
            if "video_id" in member:
                shown = f"{member['video_id']!r} at {member['time_s']:.2f} s (step {member['step']})"
            else:
                shown = f"{member['question_id']}: {member['question']} → {member['answer']}"
            console.print(f"  {member['distance']:.4f}  {printable(shown)}", markup=False)


def report(
    directory: Directory,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder for the pages, or a file ending in .html for the first of them, with the others in a folder "
            "of the same name beside it (default: report.html in the store)."
        ),
    ] = None,
    version: Annotated[int | None, typer.Option(help="Look at this version (default: the latest).")] = None,
    videos: Annotated[
        int | None,
        typer.Option(min=0, help="Videos that get a page of their own, evenly spaced over the keys (default: 48)."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Give pages to these videos instead; may be repeated.")
    ] = None,
    decode: Annotated[
        bool, typer.Option(help="Show frames and sound, decoded anew from videos that are still as they were.")
    ] = True,
) -> None:
    """Write pages for a browser: how much of what is wanted is there, how it was made, what failed, what it shows."""
    if only and videos is not None:
        raise typer.BadParameter("does not go with --only; name one of the two", param_hint="--videos")
    from ..pages import Options, write_pages  # only here: templates take a while to import

    chosen = Options(only=tuple(dict.fromkeys(only or ())), decode=decode)
    if videos is not None:
        chosen = dataclasses.replace(chosen, videos=videos)
    with Store.open(directory, version, lease=False) as store:
        print(write_pages(store, out, chosen))


def compare(
    directory: Directory,
    other: Annotated[Path, typer.Argument(help="Another store, an HDF5 file, or a folder of .h5 or .npy files.")],
    feature: Annotated[str, typer.Option(help="The feature (name or name@digest).")],
    other_feature: Annotated[
        str | None, typer.Option(help="The feature's name in the other store, or the HDF5 dataset.")
    ] = None,
    atol: Annotated[
        float, typer.Option(min=0, help="Largest absolute difference that still matches; 0 compares bits.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Compare a feature row by row. Exit code 3 if a common row differs, or if there is none."""
    with Store.open(directory) as store:
        result = compare_rows(StoreRows(store, feature), open_other(other, feature, other_feature), atol)
    if as_json:
        emit({"ok": result.ok, **dataclasses.asdict(result)})
    else:
        console.print(
            f"{result.common} common rows: {result.identical} identical, {result.differing} differ; "
            f"max abs {result.max_abs:.3g}, mean abs {result.mean_abs:.3g}, "
            f"cosine min {result.min_cosine:.6f}, mean {result.mean_cosine:.6f}",
            markup=False,
        )
        for keys, place in ((result.only_here, directory), (result.only_there, other)):
            if keys:
                console.print(
                    f"only in {place}: {len(keys)} keys: {first_few([repr(key) for key in keys], 10)}", markup=False
                )
        for row in result.other_shape:
            console.print(f"differs: {row.key!r}: {row.here} here, {row.there} there", markup=False)
        for key in result.not_finite:
            console.print(f"differs: {key!r}: NaN or infinite values on one side", markup=False)
        for worst in result.worst:
            console.print(
                f"differs: {worst.key!r}: max abs {worst.max_abs:.3g}, cosine min {worst.min_cosine:.6f}", markup=False
            )
    raise typer.Exit(0 if result.ok else 3)
