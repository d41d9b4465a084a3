"""Train CRA or CoQo from a store. Run the same command again to continue a run that was stopped.

python jobs/train.py cra --store out/store --out out/cra

On several GPUs of one machine: torchrun --nproc-per-node 4 jobs/train.py …; on a Ray cluster: --ray-workers 4.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

import settings
from jobs._cli import AsJson, Command, ConfigFile, Overrides, emit, job, signal_code
from trainers import METHODS, PRESETS, MethodSettings, TrainRequest, TrainResult, find_method
from trainers.folder import write_results
from trainers.resume import choose_version

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
    ray_workers: Annotated[int | None, typer.Option(min=1, help="Train with Ray Train on N workers.")] = None,
    as_json: AsJson = False,
) -> None:
    method = find_method(method_name)
    overrides = [*(set_ or ()), *([f"loop.seed={seed}"] if seed is not None else ())]
    raw, origin = settings.read(PRESETS, None if config else preset or method_name, config, overrides)
    chosen: MethodSettings = settings.validate(method.settings, raw, origin)
    folder = out or Path("out") / method_name
    pinned = choose_version(store, folder, version)
    is_first = os.environ.get("RANK", "0") == "0"  # under torchrun one rank speaks for all
    if is_first and pinned.note is not None:
        print(pinned.note, file=sys.stderr)
    request = TrainRequest(
        method=method.name,
        store=str(store.absolute()),
        version=pinned.version,
        out=str(folder.absolute()),
        settings=chosen.model_dump(mode="json"),
    )
    result = _train(request, ray_workers, chosen.loop.device)
    code = signal_code(result.stopped_by) if result.stopped_by else 0
    if is_first:
        summary = {**result.to_json(), "exit_code": code}
        write_results(folder, summary)
        if as_json:
            emit(summary)
        else:
            _show(result)
    raise typer.Exit(code)


def _train(request: TrainRequest, ray_workers: int | None, device: str) -> TrainResult:
    """Train in this process or on Ray; only now import torch, which takes seconds."""
    if ray_workers is not None:
        from trainers.launch_ray import launch

        return launch(request, ray_workers, device)
    from trainers.run import run

    return run(request)


def _show(result: TrainResult) -> None:
    if result.stopped_by:
        print(f"stopped by {result.stopped_by} after step {result.steps}; run the same command to continue")
        return
    print(f"{result.steps} steps; best epoch {result.best_epoch}")
    for split, metrics in result.metrics.items():
        print(f"{split}: " + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
    for file in result.files:
        print(file)


if __name__ == "__main__":
    app()
