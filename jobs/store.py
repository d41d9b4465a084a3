"""Look at a store, check it, mend it, clean it up."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import typer
from rich.console import Console
from rich.table import Table

from stores import Store
from stores.card import write_card
from stores.errors import StoreError
from stores.gc import GRACE_SECONDS, collect
from stores.inspect import describe_key, describe_store
from stores.verify import repair as repair_store
from stores.verify import summary as verification_summary
from stores.verify import verify as verify_store

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

Directory = Annotated[Path, typer.Argument(help="The store directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@contextmanager
def _errors() -> Iterator[None]:
    """One line and exit code 2 for what a user must change."""
    try:
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
    version: Annotated[int | None, typer.Option(help="Look at this version (default: the latest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show features, tables and missing rows, or all that is known of one video key."""
    with _errors(), Store.open(directory, version, lease=False) as store:
        value = describe_store(store) if key is None else describe_key(store, key)
    if as_json:
        _emit(value)
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
            "random" if feature["random_weights"] else "trained",
        )
    console.print(table)
    for name, rows in value["tables"].items():
        console.print(f"table {name}: {rows} rows", markup=False)
    counts = Counter((failure["feature"], failure["class"]) for failure in value["failures"])
    for (name, kind), count in sorted(counts.items()):
        console.print(f"missing: {name}: {count} {kind}", markup=False)
    for failure in value["failures"]:
        console.print(f"  {failure['video_id']!r}: {failure['class']}: {failure['message']}", markup=False)


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


if __name__ == "__main__":
    app()
