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
from trainers.folder import RESULTS
from trainers.owner import refuse_owned
from trainers.results import TrainRequest, TrainResult
from trainers.run import run


def launch(request: TrainRequest, workers: int, device: str) -> TrainResult:
    """Run ``trainers.run.run`` in ``workers`` processes.

    Each process has one GPU, unless ``device`` is ``cpu``, or is ``auto`` and the cluster has no GPU. Every node must
    see the store and ``request.out``: rank 0 writes checkpoints there, and all ranks resume from them.

    Raises
    ------
    TrainingError
        If a run is going on in the folder, a worker fails (with the last line of its error), or the cluster has GPUs,
        but fewer than workers.
    """
    refuse_owned(Path(request.out))  # Ray writes into the folder before rank 0 can own it
    owned = not ray.is_initialized()
    if owned:
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or None,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env=runtime_environment(),
        )
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        use_gpu = device != "cpu" and (gpus > 0 or device != "auto")
        if use_gpu and gpus < workers:
            raise TrainingError(
                f"ray: {workers} workers need one GPU each, but the cluster has {gpus}; use loop.device=cpu"
            )
        trainer = TorchTrainer(
            _worker,
            train_loop_config=asdict(request),
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
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
    return TrainResult.from_json(json.loads((Path(request.out) / RESULTS).read_text()))


def _worker(fields: dict[str, Any]) -> None:
    run(TrainRequest(**fields))


def _cause(error: TrainingFailedError) -> str:
    """Return what the first worker that failed raised, in one line."""
    failures = getattr(error, "worker_failures", {})
    return _last_line(failures[min(failures)] if failures else error)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
