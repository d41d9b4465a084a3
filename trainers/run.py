"""One training run, from settings to scored predictions; what ``jobs/train.py`` and Ray Train call."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from stores import Store
from trainers import checkpoint
from trainers.config import LoopConfig
from trainers.distributed import Ranks, join, leave
from trainers.loop import Outcome, evaluate, train
from trainers.reporting import Reporter
from trainers.task import Task

METHODS = ("coqo", "cra")
RESULTS = "results.json"


class MethodSettings(BaseModel):
    """What the settings of every method have in common."""

    loop: LoopConfig


class Method(Protocol):
    """The module ``trainers.<method>.task``."""

    Settings: type[MethodSettings]

    def build(self, settings: Any, store: Store, ranks: Ranks) -> Task:
        """Make the task; raise TrainingError when the store cannot feed it."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """Plain values, so that it travels to a Ray worker.

    Attributes
    ----------
    settings : the validated settings, as JSON.
    version : the store's version to train on.
    """

    method: str
    store: str
    version: int
    out: str
    settings: Mapping[str, Any]


def method(name: str) -> Method:
    """The task module of a method."""
    module: Any = importlib.import_module(f"trainers.{name}.task")
    return module  # type: ignore[no-any-return]


def run(request: Request) -> dict[str, Any]:
    """Train (or go on training), then score every split with the best checkpoint.

    Returns
    -------
    JSON-able: ``steps``, ``best_epoch``, ``metrics`` by split, ``files``; ``stopped_by`` names a signal that ended
    the run early, with ``exit_code`` 128 + its number.

    Raises
    ------
    TrainingError
        If the store lacks what the method needs, the folder holds another run, or a loss is not finite.
    """
    chosen = method(request.method)
    settings = chosen.Settings.model_validate(request.settings)
    out = Path(request.out)
    ranks = join(settings.loop.device)
    try:
        with Store.open(request.store, request.version) as store:
            task = chosen.build(settings, store, ranks)
            outcome = train(task, settings.loop, out, ranks, Reporter())
            scored = _score(task, settings.loop, out, ranks) if ranks.is_first and not outcome.stopped_by else {}
            summary = _summary(request, outcome, scored)
            if ranks.is_first:
                (out / RESULTS).write_text(json.dumps(summary, indent=1) + "\n")
        ranks.barrier()
        return summary
    finally:
        leave()


def _score(task: Task, loop: LoopConfig, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Predictions and metrics of the best checkpoint, written beside it."""
    checkpoint.load_best(out / checkpoint.BEST, task.model)
    metrics: dict[str, Any] = {}
    files = [str(out / checkpoint.BEST)]
    for split in task.splits():
        evaluation = evaluate(task, split, loop, ranks)
        metrics[split] = dict(evaluation.metrics)
        for stem, value in evaluation.predictions.items():
            path = out / f"{stem}_{split}.json"
            path.write_text(json.dumps(value) + "\n")
            files.append(str(path))
    return {"metrics": metrics, "files": files}


def _summary(request: Request, outcome: Outcome, scored: Mapping[str, Any]) -> dict[str, Any]:
    stopped = outcome.stopped_by
    return {
        "method": request.method,
        "store": request.store,
        "store_version": request.version,
        "out": request.out,
        "steps": outcome.steps,
        "best_epoch": outcome.best_epoch,
        **scored,
        "stopped_by": stopped.name if stopped else None,
        "exit_code": 128 + stopped if stopped else 0,
    }
