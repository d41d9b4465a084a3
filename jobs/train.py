"""Train CRA, CoQo or FrozenBiLM from a store. Run the same command again to continue a run that was stopped.

python jobs/train.py cra --store out/store --out out/cra

With --check it trains nothing, and names everything that keeps the run from starting.
On several GPUs of one machine: torchrun --nproc-per-node 4 jobs/train.py …; on a Ray cluster: --ray-workers 4.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

import settings
from jobs._cli import (
    AsJson,
    Command,
    ConfigFile,
    Overrides,
    ShowConfig,
    ShowSchema,
    emit,
    job,
    show_settings,
    signal_code,
)
from jobs._tables import show_tables
from settings.messages import plural, printable
from settings.ray_address import check_ray_address
from stores.sharing import is_address
from trainers import METHODS, PRESETS, MethodSettings, TrainingError, TrainRequest, TrainResult, find_method
from trainers.folder import BEST, RESULTS, write_results
from trainers.resume import choose_version

app = job(None)


@app.command(cls=Command, help=__doc__)
def main(
    method_name: Annotated[str, typer.Argument(metavar="METHOD", help=f"{' or '.join(METHODS)}.")],
    store: Annotated[
        str, typer.Option(metavar="DIR|URL", help="The store to train from, or the address of a shared one (s3://…).")
    ],
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
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Train on N workers of Ray, at RAY_ADDRESS or here.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Name everything that keeps the run from starting; train nothing.")
    ] = False,
    as_json: AsJson = False,
    show_config: ShowConfig = False,
    show_schema: ShowSchema = False,
) -> None:
    method = find_method(method_name or "")
    overrides = [*(set_ or ()), *([f"loop.seed={seed}"] if seed is not None else ())]

    def read_settings() -> MethodSettings:
        raw, origin = settings.read(PRESETS, None if config else preset or method_name, config, overrides)
        chosen: MethodSettings = settings.validate(method.settings, raw, origin)
        return chosen

    show_settings(show_config, show_schema, method.settings, read_settings)
    chosen = read_settings()
    folder = out or Path("out") / method_name
    pinned = choose_version(store, folder, version)
    is_first = os.environ.get("RANK", "0") == "0"  # under torchrun one rank speaks for all
    if is_first and pinned.note is not None:
        print(pinned.note, file=sys.stderr)
    request = TrainRequest(
        method=method.name,
        store=store if is_address(store) else str(Path(store).absolute()),
        version=pinned.version,
        out=str(folder.absolute()),
        settings=chosen.model_dump(mode="json"),
    )
    if check:
        raise typer.Exit(_check(request, is_first, as_json))
    result = _train(request, ray_workers, chosen.loop.device)
    code = signal_code(result.stopped_by) if result.stopped_by else 0
    if is_first:
        summary = {**result.to_json(), "exit_code": code}
        write_results(folder, summary)
        if as_json:
            emit(summary)
        else:
            _show(result, folder)
    raise typer.Exit(code)


def _train(request: TrainRequest, ray_workers: int | None, device: str) -> TrainResult:
    """Train in this process or on Ray; only now import torch, which takes seconds."""
    if ray_workers is not None:
        check_ray_address()  # importing Ray takes seconds
        from trainers.launch_ray import launch

        return launch(request, ray_workers, device)
    from trainers.run import run

    return run(request)


def _check(request: TrainRequest, is_first: bool, as_json: bool) -> int:
    """Print the obstacles of a run, one line each, and return the exit code."""
    from trainers.run import check

    ready = check(request)
    code = 2 if ready.obstacles else 0
    if not is_first:
        return code
    if as_json:
        emit({"obstacles": list(ready.obstacles), "steps_per_epoch": ready.steps, "exit_code": code})
        return code
    for line in ready.obstacles:
        print(printable(line))
    if code:
        raise TrainingError(f"{plural(len(ready.obstacles), 'obstacle')}; nothing was trained")
    print(f"ready to train: {plural(ready.steps, 'step')} per epoch")
    return code


def _show(result: TrainResult, folder: Path) -> None:
    """Print the evaluator's tables of every split, and where the files of the run are."""
    from trainers.predictions import predictions_file, read_predictions
    from trainers.progress import shown_metrics
    from trainers.report.tables import score_tables

    if result.stopped_by:
        print(f"stopped by {result.stopped_by} after step {result.steps}; run the same command to continue")
        return
    print(f"{plural(result.steps, 'step')}; the weights of epoch {result.best_epoch} are kept")
    for split, metrics in result.metrics.items():
        rows = predictions_file(Path(result.out), split)
        if str(rows) not in result.files:  # a method of one's own may keep no rows
            print(f"\n{split}: {shown_metrics(metrics)}")
        elif tables := score_tables(read_predictions(Path(result.out), split)):
            print(f"\n{split}:")
            show_tables(tables)
        else:
            print(f"\n{split}: its answers are hidden, so it has predictions and no score")
    kept = f"{plural(len(result.files), 'file')}, listed in {RESULTS}"
    print(f"\n{folder}: {Path(BEST).name} and predictions; {kept}")
    print(f"next: python jobs/report.py {shlex.quote(str(folder))}")


if __name__ == "__main__":
    app()
