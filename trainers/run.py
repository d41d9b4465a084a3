"""One training run, from settings to scored predictions: what ``jobs/train.py`` and Ray Train call."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from stores import Store
from trainers import checkpoint
from trainers.config import LoopConfig
from trainers.distributed import Ranks, join, leave
from trainers.errors import TrainingError
from trainers.folder import BEST, write_results
from trainers.loop import evaluate, train
from trainers.methods import find_method
from trainers.progress import Progress
from trainers.results import TrainRequest, TrainResult
from trainers.task import Task


def run(request: TrainRequest) -> TrainResult:
    """Train, or continue training; then score every split with the best checkpoint.

    Rank 0 writes ``results.json`` beside the checkpoints. The results of other ranks have no metrics and no files.

    Raises
    ------
    TrainingError
        If there is no such method, the store lacks what it needs, the folder holds another run, a loss is not finite,
        or a batch is too large for the device.
    """
    method = find_method(request.method)
    settings = method.settings.model_validate(request.settings)
    loop: LoopConfig = settings.loop
    out = Path(request.out)
    ranks = join(loop.device)
    try:
        with Store.open(request.store, request.version) as store:
            task = method.build(settings, store, ranks)
            outcome = train(task, loop, out, ranks, Progress())
            scores = _score(task, loop, out, ranks) if ranks.is_first and not outcome.stopped_by else _Scores({}, ())
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
        ranks.barrier()
        return result
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{reason} Make the batch smaller (data.batch…), or use loop.precision=bfloat16") from error
    finally:
        leave()


@dataclass(frozen=True, slots=True)
class _Scores:
    """Metrics by split, and the files that hold the weights and their predictions."""

    metrics: dict[str, dict[str, float]]
    files: tuple[str, ...]


def _score(task: Task, loop: LoopConfig, out: Path, ranks: Ranks) -> _Scores:
    """Score every split with the best checkpoint, and write its predictions beside it."""
    checkpoint.load_best(out / BEST, task.model)
    metrics: dict[str, dict[str, float]] = {}
    files = [str(out / BEST)]
    for split in task.splits():
        evaluation = evaluate(task, split, loop, ranks)
        metrics[split] = dict(evaluation.metrics)
        for stem, value in evaluation.predictions.items():
            path = out / f"{stem}_{split}.json"
            path.write_text(json.dumps(value) + "\n")
            files.append(str(path))
    return _Scores(metrics, tuple(files))
