"""Train CRA or CoQo from a store. Run the same command again and it goes on where it was stopped.

python jobs/train.py cra --store out/store --out out/cra

Several GPUs of one machine: torchrun --nproc-per-node 4 jobs/train.py …; a Ray cluster: --ray-workers 4.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import torch
import typer

import settings
from stores import Store
from stores.errors import StoreError
from stores.manifest import newest_version
from trainers.checkpoint import LAST
from trainers.config import PRESETS
from trainers.loop import SETTINGS
from trainers.run import METHODS, Request, method, run
from trainers.task import TrainingError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, no_args_is_help=True)


@app.command()
def main(
    method_name: Annotated[str, typer.Argument(metavar="METHOD", help=f"{' or '.join(METHODS)}.")],
    store: Annotated[Path, typer.Option(help="The store to train from.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: out/METHOD).")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings by name (default: METHOD); see trainers/presets.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings from a YAML file.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one setting.")] = None,
    version: Annotated[
        int | None, typer.Option(help="Version of the store (default: the run's, else the latest).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Short for --set loop.seed=N.")] = None,
    ray_workers: Annotated[int | None, typer.Option(min=1, help="Train through Ray Train on so many workers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")] = False,
) -> None:
    overrides = [*(set_ or ()), *([f"loop.seed={seed}"] if seed is not None else ())]
    warnings.showwarning = lambda message, *where, **more: print(f"warning: {message}", file=sys.stderr)
    try:
        if method_name not in METHODS:
            raise settings.SettingsError(f"method {method_name!r}: unknown; there is {', '.join(METHODS)}")
        raw, origin = settings.read(PRESETS, None if config else preset or method_name, config, overrides)
        chosen = settings.validate(method(method_name).Settings, raw, origin)
        folder = out or Path("out") / method_name
        begun = _version_of(folder) if version is None else None
        with Store.open(store, version or begun, lease=False) as opened:
            pinned = opened.version
        speaks = os.environ.get("RANK", "0") == "0"  # under torchrun one rank speaks
        if speaks and begun is not None and begun != newest_version(store):
            print(f"{folder}: begun on version {begun} of the store, and goes on with it", file=sys.stderr)
        request = Request(
            method=method_name,
            store=str(store.absolute()),
            version=pinned,
            out=str(folder.absolute()),
            settings=chosen.model_dump(mode="json"),
        )
        if ray_workers is None:
            summary = run(request)
        else:
            from trainers.launch_ray import launch  # only here: Ray takes seconds to import

            summary = launch(request, ray_workers, chosen.loop.device)
    except (settings.SettingsError, StoreError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"error: {reason} Make the batch smaller (data.batch…), or use loop.precision=bfloat16", file=sys.stderr)
        raise typer.Exit(2) from None
    if speaks:
        _show(summary, as_json)
    raise typer.Exit(summary["exit_code"])


def _version_of(run: Path) -> int | None:
    """The version of the store that a run was begun on; None where there is nothing to go on with."""
    if not (run / LAST).exists():
        return None
    try:
        return int(json.loads((run / SETTINGS).read_text())["task"]["store_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{run / SETTINGS}: not a run's settings; name another --out") from error


def _show(summary: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    if summary["stopped_by"]:
        print(f"stopped by {summary['stopped_by']} after step {summary['steps']}; run the same command to go on")
        return
    metrics = summary["metrics"]
    assert isinstance(metrics, dict)
    print(f"{summary['steps']} steps; best epoch {summary['best_epoch']}")
    for split, values in metrics.items():
        print(f"{split}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
    files = summary["files"]
    assert isinstance(files, list)
    for file in files:
        print(file)


if __name__ == "__main__":
    app()
