"""The verbs that keep a store sound: ``verify``, ``repair``, ``gc``, ``compact``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from .. import upkeep
from ..describe import write_card
from ..format import SHARD_MB, SHARD_ROWS
from ..upkeep import GRACE_SECONDS
from ..wording import first_few
from .bars import Bars
from .base import AsJson, Directory, emit, make_console

console = make_console()


def verify(
    directory: Directory,
    deep: Annotated[bool, typer.Option("--deep", help="Also hash whole files and check headers.")] = False,
    version: Annotated[int | None, typer.Option(help="Check this version (default: the latest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every row with its digest. Exit code 3 if anything is damaged."""
    with Bars() as bars:
        result = upkeep.verify(directory, deep, version, bars.stage)
    if as_json:
        emit(upkeep.summary(result))
    else:
        for problem in result.problems:
            console.print(f"damaged: {problem}", markup=False)
        state = (
            "sound"
            if result.ok
            else f"{len(result.problems)} problems; run `reelstore repair {directory}` to fix what can be fixed"
        )
        console.print(
            f"version {result.version}: {result.rows} rows in {result.shards} shards, {result.bytes / 1e6:.1f} MB: "
            f"{state}",
            markup=False,
        )
        if result.media_damage.any:
            console.print(f"sources: {result.media_damage}", markup=False)
    raise typer.Exit(0 if result.ok else 3)


def repair(directory: Directory, as_json: AsJson = False) -> None:
    """Adopt finished shards that a crash left behind, and drop rows whose bytes are lost."""
    outcome = upkeep.repair(directory)
    write_card(directory)
    if as_json:
        emit(dataclasses.asdict(outcome))
        return
    console.print(
        f"version {outcome.version}: adopted {outcome.adopted_rows} rows in {outcome.adopted_shards} shards, "
        f"rewrote {outcome.salvaged_rows} sound rows of damaged shards",
        markup=False,
    )
    if outcome.rebuilt_identity:
        console.print("wrote store.json anew", markup=False)
    if lost := [version for version in outcome.damaged_versions if version > outcome.continued_from]:
        console.print(
            f"damaged: version {', '.join(map(str, lost))}; went on from version {outcome.continued_from}. Tables and "
            "failures that were added since are not listed any more: run jobs/parse.py and jobs/cluster.py again",
            markup=False,
        )
    for name, keys in outcome.dropped_rows.items():
        console.print(f"dropped {len(keys)} rows of {name}: {first_few([repr(key) for key in keys], 10)}", markup=False)
    for spec in outcome.lost_specs:
        console.print(f"dropped all rows of {spec}: its spec is lost", markup=False)
    for table in outcome.dropped_tables:
        console.print(f"dropped the table {table}", markup=False)
    if outcome.dropped_rows or outcome.lost_specs:
        console.print("run jobs/extract.py in the checkout to compute rows again, or import them again", markup=False)
    if outcome.dropped_tables:
        console.print("run jobs/parse.py or jobs/cluster.py in the checkout to make tables again", markup=False)


def gc(
    directory: Directory,
    grace_days: Annotated[
        float, typer.Option(min=0, help="Keep versions and files younger than this; use 0 only if nothing writes.")
    ] = GRACE_SECONDS / 86400,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old versions, retired specs, leftovers of crashes, and all files that no kept version names."""
    outcome = upkeep.collect(directory, grace_days * 86400, dry_run)
    if as_json:
        emit(dataclasses.asdict(outcome))
        return
    verb = "would remove" if dry_run else "removed"
    console.print(
        f"{verb} {len(outcome.versions)} versions, {len(outcome.files)} files, {outcome.bytes / 1e6:.1f} MB"
        + (f"; retired {', '.join(outcome.retired_specs)}" if outcome.retired_specs else "")
        + (f"; kept for leases: {outcome.kept_for_leases}" if outcome.kept_for_leases else ""),
        markup=False,
    )


def compact(
    directory: Directory,
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Size of a full shard in MB.")] = SHARD_MB,
    shard_rows: Annotated[int, typer.Option(min=2, help="Number of rows of a full shard.")] = SHARD_ROWS,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be merged, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge small shards into full ones. Older versions stay readable until gc removes them."""
    with Bars() as bars:
        outcome = upkeep.compact(directory, shard_mb, shard_rows, plan_only=plan, progress=bars.stage)
    if as_json:
        emit(dataclasses.asdict(outcome))
        return
    if plan and outcome.rows:
        console.print(
            f"would merge {outcome.rows} rows of {outcome.shards_before} shards ({outcome.bytes_before / 1e6:.1f} MB) "
            f"into {outcome.shards_after}",
            markup=False,
        )
        return
    console.print(
        f"version {outcome.version}: {outcome.rows} rows of {outcome.shards_before} shards "
        f"({outcome.bytes_before / 1e6:.1f} MB) are in {outcome.shards_after} ({outcome.bytes_after / 1e6:.1f} MB)"
        if outcome.rows
        else f"nothing to do: version {outcome.version} has no shards worth merging",
        markup=False,
    )
