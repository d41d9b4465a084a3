"""The same run on several workers of a Ray cluster, through Ray Train."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from settings.workers import runtime_environment
from trainers.distributed import PATIENCE
from trainers.errors import TrainingError
from trainers.run import RESULTS, Request, run


def launch(request: Request, workers: int, device: str) -> dict[str, Any]:
    """Run :func:`trainers.run.run` on ``workers`` processes.

    Each has one GPU, unless ``device`` is ``cpu``, or ``auto`` and the cluster has none. Every node must see the store
    and ``request.out``: rank 0 writes checkpoints there and all ranks resume from them.

    Raises
    ------
    TrainingError
        With the first line of what a worker raised; if the cluster has GPUs, but not for every worker.
    """
    owned = not ray.is_initialized()
    if owned:
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or None,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env=runtime_environment(),
        )
    try:
        there = int(ray.cluster_resources().get("GPU", 0))
        gpus = device != "cpu" and (there > 0 or device != "auto")
        if gpus and there < workers:
            raise TrainingError(f"ray: {workers} workers need a GPU each, the cluster has {there}; use loop.device=cpu")
        trainer = TorchTrainer(
            _worker,
            train_loop_config=asdict(request),
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            run_config=RunConfig(name="reelstore", storage_path=str(Path(request.out).absolute() / "ray")),
        )
        trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(_cause(error)) from error
    except ray.exceptions.RayError as error:
        raise TrainingError(f"ray: {_last_line(error)}") from error
    finally:
        if owned:
            ray.shutdown()
    summary: dict[str, Any] = json.loads((Path(request.out) / RESULTS).read_text())
    return summary


def _worker(settings: dict[str, Any]) -> None:
    run(Request(**settings))


def _cause(error: TrainingFailedError) -> str:
    """What the first worker raised, in one line."""
    failures = getattr(error, "worker_failures", {})
    return _last_line(failures[min(failures)] if failures else error)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
