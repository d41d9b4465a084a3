"""One training run, from settings to scored predictions: what ``jobs/train.py`` and Ray Train call."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stores import Store
from stores.format import StorePath, layout
from trainers import checkpoint
from trainers.config import MethodSettings
from trainers.distributed import Ranks, join, leave
from trainers.errors import TrainingError
from trainers.folder import BEST, LAST, remove_staged, replace_file, write_results
from trainers.loggers import Loggers, require_packages
from trainers.loop import TOO_FEW, Outcome, evaluate, settings_of, train
from trainers.methods import Method, find_method
from trainers.obstacles import Obstacles, ObstaclesError
from trainers.owner import owning, refuse_owned
from trainers.predictions import SplitPredictions, predictions_file, read_predictions, write_predictions
from trainers.progress import Progress
from trainers.results import TrainRequest, TrainResult
from trainers.resume import read_settings, require_method, require_same_run, require_same_start
from trainers.task import Task


@dataclass(frozen=True, slots=True)
class Launched:
    """What a launcher that is not torchrun gives one rank.

    Attributes
    ----------
    gpu
        The GPU of this process; None takes that of the number of the local rank.
    say
        Takes what rank 0 tells people, line by line; None prints it on stderr.
    stop
        A list to which signals are added; None takes those that this process gets.
    """

    gpu: torch.device | None = None
    say: Callable[[str], None] | None = None
    stop: list[signal.Signals] | None = None


def run(request: TrainRequest, launched: Launched = Launched()) -> TrainResult:  # it is frozen
    """Train, or continue training; then score every split with the best checkpoint.

    Rank 0 writes ``results.json`` beside the checkpoints. The results of other ranks have no metrics and no files.

    Parameters
    ----------
    request
        What to train.
    launched
        What a launcher gives this process.

    Raises
    ------
    TrainingError
        If there is no such method, the store lacks what it needs, a run is going on in the folder, it holds another
        run or its disk fails, a loss is not finite, or a batch is too large for the device.
    """
    method = find_method(request.method)
    settings = method.settings.model_validate(request.settings)
    out = Path(request.out)
    ranks = join(settings.loop.device, launched.gpu)
    try:
        with _owned(out, ranks):
            return _run(request, method, settings, ranks, launched)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{reason} Make the batch smaller (data.batch…), or use loop.precision=bfloat16") from error
    except OSError as error:
        if not _is_below(error.filename, out):
            raise
        raise TrainingError(
            f"{error.filename}: {error.strerror}; the run's files are whole: once the disk can be written, the same "
            "command continues the run"
        ) from error
    finally:
        leave()


@dataclass(frozen=True, slots=True)
class Readiness:
    """What ``check`` has found.

    Attributes
    ----------
    obstacles
        What keeps the run from starting, one line each.
    steps
        Optimiser steps of an epoch; 0 if there are obstacles.
    """

    obstacles: tuple[str, ...] = ()
    steps: int = 0


def check(request: TrainRequest) -> Readiness:
    """Find everything that keeps a run from starting; train nothing and write nothing.

    Raises
    ------
    TrainingError, StoreError
        If there is no such method, device or version of the store.
    """
    method = find_method(request.method)
    settings = method.settings.model_validate(request.settings)
    out = Path(request.out)
    ranks = join(settings.loop.device)
    obstacles = Obstacles()
    steps = 0
    try:
        with obstacles.part():
            refuse_owned(out)
        with obstacles.part():
            require_method(out, request.method)
        with obstacles.part():
            require_packages(settings.loop.chosen_loggers)
        with obstacles.part(), Store.open(request.store, request.version, lease=False) as store:
            task = _build(method, settings, store, ranks)
            steps = task.steps_per_epoch()
            if steps < 1:
                raise TrainingError(TOO_FEW)
            before = read_settings(out)
            if before is not None:
                same = require_same_run if (out / LAST).exists() else require_same_start
                same(out, before, settings_of(task, settings.loop, ranks, _identity(store)))
        obstacles.require()
    except ObstaclesError as error:
        return Readiness(error.lines)
    finally:
        leave()
    return Readiness(steps=steps)


def _build(method: Method[Any], settings: MethodSettings, store: Store, ranks: Ranks) -> Task:
    """Make the task; tell of all obstacles if it cannot be made."""
    obstacles = Obstacles()
    with obstacles.part():
        return method.build(settings, store, ranks)
    for part in method.parts(settings, store):
        with obstacles.part():
            part()
    raise obstacles.error()


@contextmanager
def _owned(out: Path, ranks: Ranks) -> Iterator[None]:
    """Own the folder of the run on the first rank, and remove what a killed owner left half written.

    Raises
    ------
    TrainingError, OSError
        If it cannot be owned: on every rank, so that none waits for the first one.
    """
    with ExitStack() as stack:
        failure: Exception | None = None
        if ranks.is_first:
            try:
                stack.enter_context(owning(out))
                remove_staged(out)
            except (TrainingError, OSError) as error:
                failure = error
        heard = ranks.hear(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        if heard is not None:
            raise TrainingError(heard)
        yield


def _is_below(file: object, folder: Path) -> bool:
    return isinstance(file, str) and folder in (Path(file), *Path(file).parents)


def _run(
    request: TrainRequest, method: Method[Any], settings: MethodSettings, ranks: Ranks, launched: Launched
) -> TrainResult:
    """Train and score in a folder that this run owns."""
    out, loop = Path(request.out), settings.loop
    require_method(out, request.method)
    require_packages(loop.chosen_loggers)
    progress = Progress(loop.progress_s, say=launched.say)
    with Store.open(request.store, request.version) as store:
        task = _build(method, settings, store, ranks)
        with Loggers(out, loop.chosen_loggers if ranks.is_first else ()) as loggers:
            outcome = train(task, loop, out, ranks, progress, _identity(store), launched.stop, loggers)
            return _finished(request, settings, task, outcome, ranks, loggers)


def _finished(
    request: TrainRequest, settings: MethodSettings, task: Task, outcome: Outcome, ranks: Ranks, loggers: Loggers
) -> TrainResult:
    """Score what was trained, and tell of it, on the first rank; the others wait."""
    out = Path(request.out)
    scores = _score(task, settings, out, ranks) if ranks.is_first and not outcome.stopped_by else _Scores({}, ())
    result = TrainResult(
        method=request.method,
        store=request.store,
        store_version=request.version,
        out=request.out,
        steps=outcome.steps,
        best_epoch=outcome.best_epoch,
        metrics=scores.metrics,
        files=scores.files,
        stopped_by=outcome.stopped_by.name if outcome.stopped_by else None,
    )
    if ranks.is_first:
        write_results(out, result.to_json())
        for split, metrics in scores.metrics.items():
            loggers.scalars(outcome.steps, {f"best/{split}/{name}": value for name, value in metrics.items()})
        if not outcome.stopped_by:
            _log_panels(out, settings.loop.panels, outcome.steps, loggers)
            loggers.finish()
    ranks.barrier()
    return result


def _log_panels(out: Path, most: int, step: int, loggers: Loggers) -> None:
    """Give the loggers the panels of the worst questions; what cannot be drawn is a warning, the run is finished."""
    if not most:
        return
    from trainers.panels import open_run
    from trainers.report.worst import panels_of, worst_first

    finished = open_run(out)
    for split in finished.splits:
        if not predictions_file(out, split).exists():
            continue
        rows = worst_first(read_predictions(out, split).rows, most)
        for number, panel in enumerate(panels_of(finished, split, rows), 1):
            if panel.picture is not None:
                loggers.image(step, f"panels/{split}/{number}", panel.picture, panel.row.question)
            if panel.note:
                warnings.warn(f"panel of {panel.row.question_id}: {panel.note}", stacklevel=2)


def _identity(store: Store) -> dict[str, str]:
    """Return what tells a version of a store from that of any other: its manifest, which is written once."""
    manifest = StorePath.of(store.path) / layout.VERSIONS / layout.version_file(store.version)
    return {"path": os.path.realpath(store.path), "manifest": hashlib.sha256(manifest.read_bytes()).hexdigest()}


@dataclass(frozen=True, slots=True)
class _Scores:
    """Metrics by split, and the files that hold the weights and their predictions."""

    metrics: dict[str, dict[str, float]]
    files: tuple[str, ...]


def _score(task: Task, settings: MethodSettings, out: Path, ranks: Ranks) -> _Scores:
    """Score every split with the best checkpoint, and write its predictions beside it."""
    checkpoint.load_best(out / BEST, task.model)
    metrics: dict[str, dict[str, float]] = {}
    files = [str(out / BEST)]
    for split in task.splits():
        evaluation = evaluate(task, split, settings.loop, ranks)
        metrics[split] = dict(evaluation.metrics)
        for stem, value in evaluation.predictions.items():
            path = out / f"{stem}_{split}.json"
            replace_file(path, (json.dumps(value) + "\n").encode())
            files.append(str(path))
        if evaluation.questions:
            rows = SplitPredictions(settings.dataset, split, tuple(evaluation.questions))
            files.append(str(write_predictions(out, rows)))
    return _Scores(metrics, tuple(files))
