"""The same run on several workers of a Ray cluster, through Ray Train."""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from settings.messages import plural
from settings.ray_address import check_ray_address
from settings.workers import hush_ray, runtime_environment
from trainers.distributed import PATIENCE
from trainers.errors import TrainingError
from trainers.folder import PROGRESS, RESULTS
from trainers.owner import refuse_owned
from trainers.progress import Progress
from trainers.relay import append_line, following
from trainers.results import TrainRequest, TrainResult
from trainers.run import run


def launch(request: TrainRequest, workers: int, device: str) -> TrainResult:
    """Run ``trainers.run.run`` in ``workers`` processes.

    Each process has one GPU, unless ``device`` is ``cpu``, or is ``auto`` and the cluster has no GPU. Every node must
    see the store and ``request.out``: rank 0 writes checkpoints there, and all ranks resume from them. What rank 0
    tells people is printed here at once; Ray's own log of its workers is not.

    Raises
    ------
    TrainingError
        If a run is going on in the folder, a worker fails (with the last line of its error), or the cluster has fewer
        CPUs than workers or, if it has any, fewer GPUs.
    SettingsError
        If no Ray cluster answers at ``RAY_ADDRESS``.
    """
    refuse_owned(Path(request.out))  # Ray writes into the folder before rank 0 can own it
    owned = not ray.is_initialized()
    if owned:
        check_ray_address()
        hush_ray()
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or None,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env=runtime_environment(),
        )
    try:
        cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
        use_gpu = device != "cpu" and (gpus > 0 or device != "auto")
        if use_gpu and gpus < workers:
            raise TrainingError(
                f"ray: {workers} workers need one GPU each, but the cluster has {gpus}; use loop.device=cpu"
            )
        if not use_gpu and cpus < workers:
            raise TrainingError(f"ray: {workers} workers need one CPU each, but the cluster has {cpus}")
        progress = Progress()
        progress.line(f"ray: starting {plural(workers, 'worker')} on {plural(cpus, 'CPU')} and {plural(gpus, 'GPU')}")
        trainer = TorchTrainer(
            _worker,
            train_loop_config=asdict(request),
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            run_config=RunConfig(name="reelstore", storage_path=str(Path(request.out).absolute() / "ray")),
        )
        with following(Path(request.out) / PROGRESS, progress.line):
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
    """Train as one rank, on the GPU that Ray gave this worker, if it gave one."""
    request = TrainRequest(**fields)
    own, say = get_device(), partial(append_line, Path(request.out) / PROGRESS)
    with warnings.catch_warnings():
        if get_context().get_world_rank() == 0:
            warnings.showwarning = lambda message, *where, **more: say(f"warning: {message}")
        run(request, own if own.type == "cuda" else None, say)


def _cause(error: TrainingFailedError) -> str:
    """Return what the first worker that failed raised, in one line."""
    failures = getattr(error, "worker_failures", {})
    return _last_line(failures[min(failures)] if failures else error)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
