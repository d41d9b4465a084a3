"""Train CRA or CoQo from a store. Run the same command again and it goes on where it was stopped.

python jobs/train.py cra --store out/store --out out/cra

Several GPUs of one machine: torchrun --nproc-per-node 4 jobs/train.py …; a Ray cluster: --ray-workers 4.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

import settings
from jobs._cli import AsJson, Command, ConfigFile, Overrides, emit, job
from settings.messages import available, nearest
from stores import Store
from stores.format import newest_version
from trainers.config import PRESETS
from trainers.errors import TrainingError

METHODS = ("coqo", "cra")

app = job(None)


@app.command(cls=Command, help=__doc__)
def main(
    method_name: Annotated[str, typer.Argument(metavar="METHOD", help=f"{' or '.join(METHODS)}.")],
    store: Annotated[Path, typer.Option(help="The store to train from.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: out/METHOD).")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings by name (default: METHOD); see trainers/presets.")
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    version: Annotated[
        int | None, typer.Option(help="Version of the store (default: the run's, else the latest).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Short for --set loop.seed=N.")] = None,
    ray_workers: Annotated[int | None, typer.Option(min=1, help="Train through Ray Train on so many workers.")] = None,
    as_json: AsJson = False,
) -> None:
    overrides = [*(set_ or ()), *([f"loop.seed={seed}"] if seed is not None else ())]
    if method_name not in METHODS:
        raise settings.SettingsError(
            f"method {method_name!r}: unknown; {available(METHODS)}{nearest(method_name, METHODS)}"
        )
    import torch  # only here: it takes seconds to import

    from trainers.run import Request, method, run

    raw, origin = settings.read(PRESETS, None if config else preset or method_name, config, overrides)
    chosen = settings.validate(method(method_name).Settings, raw, origin)
    folder = out or Path("out") / method_name
    begun = _version_of(folder) if version is None else None
    with Store.open(store, version or begun, lease=False) as opened:
        pinned = opened.version
    speaks = os.environ.get("RANK", "0") == "0"  # under torchrun one rank speaks
    if speaks and begun is not None and begun != newest_version(store):
        print(f"{folder}: resuming on store version {begun}, the version this run started from", file=sys.stderr)
    request = Request(
        method=method_name,
        store=str(store.absolute()),
        version=pinned,
        out=str(folder.absolute()),
        settings=chosen.model_dump(mode="json"),
    )
    try:
        if ray_workers is None:
            summary = run(request)
        else:
            from trainers.launch_ray import launch  # only here: so does Ray

            summary = launch(request, ray_workers, chosen.loop.device)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{reason} Make the batch smaller (data.batch…), or use loop.precision=bfloat16") from error
    if speaks:
        _show(summary, as_json)
    raise typer.Exit(summary["exit_code"])


def _version_of(run: Path) -> int | None:
    """The version of the store that a run was begun on; None where there is nothing to go on with."""
    from trainers.checkpoint import LAST
    from trainers.loop import SETTINGS

    if not (run / LAST).exists():
        return None
    try:
        return int(json.loads((run / SETTINGS).read_text())["task"]["store_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{run / SETTINGS}: not a run's settings; name another --out") from error


def _show(summary: dict[str, object], as_json: bool) -> None:
    if as_json:
        emit(summary)
        return
    if summary["stopped_by"]:
        print(f"stopped by {summary['stopped_by']} after step {summary['steps']}; run the same command to continue")
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
