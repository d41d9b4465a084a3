"""The verbs that share stores: ``push`` and ``pull``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ..describe import render_card, write_card
from ..format import Manifest
from ..sharing import Selection, Transfer
from ..sharing import open_place as _open_place
from ..sharing import pull as _pull
from ..sharing import push as _push
from ..store import Store
from ..wording import plural
from .bars import Bars
from .base import AsJson, Directory, emit, make_console

console = make_console()

Address = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="s3://BUCKET/FOLDER, gs://…, hf://datasets/USER/NAME, or a folder.",
        show_default=False,
    ),
]
Features = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Only this feature, under its current spec; repeatable.")
]
Splits = Annotated[
    list[str] | None,
    typer.Option(metavar="DATASET/SPLIT", help="Only the videos and questions of this split; repeatable."),
]


def push(
    directory: Directory,
    url: Address,
    features: Features = None,
    split: Splits = None,
    version: Annotated[int | None, typer.Option(help="Publish this version (default: the latest).")] = None,
    over: Annotated[
        int | None,
        typer.Option(metavar="VERSION", help="Supersede this version of the place, though it is not one of the store."),
    ] = None,
    license: Annotated[
        str, typer.Option(metavar="ID", help="What the card states, as hubs name licenses (cc-by-4.0, …).")
    ] = "unknown",
    as_json: AsJson = False,
) -> None:
    """Publish a version at a place, from where others pull it or open it. Only files that it lacks are sent.

    The manifest comes last, so that nobody sees half a version. A push that was cut off continues when it is repeated.
    What another has published in the meantime is never replaced.
    """
    selection = Selection(tuple(features or ()), tuple(split or ()))
    with Store.open(directory, version) as store, Bars() as bars:

        def card(part: Manifest) -> str:
            return render_card(Store(store.path, part), license)

        place = _open_place(url)
        result = _push(store.path, store.manifest, place, selection, over, card, bars.stage)
    _show(result, place.address, "sent", as_json)


def pull(
    url: Address,
    directory: Directory,
    features: Features = None,
    split: Splits = None,
    version: Annotated[int | None, typer.Option(help="Fetch this version (default: the latest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a version from a place into a store: a new folder, or one that an earlier pull made.

    Only files that are missing are fetched, and each is compared with its digest. A pull that was cut off continues
    when it is repeated.
    """
    selection = Selection(tuple(features or ()), tuple(split or ()))
    with Bars() as bars:
        result = _pull(_open_place(url), directory, selection, version, bars.stage)
    write_card(directory)
    _show(result, str(directory), "fetched", as_json)


def _show(result: Transfer, where: str, verb: str, as_json: bool) -> None:
    if as_json:
        emit(dataclasses.asdict(result))
        return
    state = "is new there" if result.published else "was there"
    console.print(
        f"version {result.version} {state}: {where}: {verb} {plural(result.files, 'file')}, "
        f"{result.bytes / 1e6:.1f} MB; {result.present} were there",
        markup=False,
    )
