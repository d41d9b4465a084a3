"""The verbs about versions: ``history``, ``diff``, ``rollback``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from .. import upkeep
from ..describe import diff as difference_of
from ..describe import history as describe_history
from ..describe import write_card
from ..store import Store
from .base import AsJson, Directory, emit, make_console

_SHOWN = 6  # changes of a version on a terminal

console = make_console()


def history(
    directory: Directory,
    last: Annotated[int | None, typer.Option(min=1, help="Show the last N versions only.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the versions: when and by which command each was published, and what it added or removed."""
    Store.open(directory, lease=False).close()
    versions = describe_history(directory.absolute())[-(last or 0) :]
    if as_json:
        emit({"versions": [dataclasses.asdict(version) for version in versions]})
        return
    for version in versions:
        console.print(f"{version.version}  {version.created_at}  {version.command or '(a program)'}", markup=False)
        for change in version.changes[:_SHOWN]:
            console.print(f"    {change}", markup=False)
        if (more := len(version.changes) - _SHOWN) > 0:
            console.print(f"    and {more} more", markup=False)


def diff(
    directory: Directory,
    before: Annotated[int, typer.Argument(metavar="A", help="A version.")],
    after: Annotated[int | None, typer.Argument(metavar="B", help="Another one (default: the latest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which rows, questions and tables differ between two versions, and why."""
    with Store.open(directory, before) as old, Store.open(directory, after) as new:
        found = difference_of(old, new)
    if as_json:
        emit(dataclasses.asdict(found))
        return
    for line in found.lines():
        console.print(line, markup=False)
    if not found:
        console.print(f"versions {found.before} and {found.after} hold the same", markup=False)


def rollback(
    directory: Directory,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The version to go back to.")],
    as_json: AsJson = False,
) -> None:
    """Publish an old version as a new one. Nothing is copied, and the versions between them stay."""
    with Store.open(directory, lease=False) as store:
        latest = store.version
    published = upkeep.rollback(directory, version)
    write_card(directory)
    if as_json:
        emit({"version": published.version, "holds": version, "published": published.version > latest})
    elif published.version > latest:
        console.print(f"version {published.version} holds what version {version} holds", markup=False)
    else:
        console.print(f"nothing to do: version {latest} holds what version {version} holds", markup=False)
