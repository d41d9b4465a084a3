"""The same run on several workers of a Ray cluster, through Ray Train."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from settings.files import read_text
from settings.messages import plural
from settings.ray_address import check_ray_address
from settings.workers import hush_ray, runtime_environment
from trainers.distributed import PATIENCE
from trainers.errors import TrainingError
from trainers.folder import PROGRESS, RESULTS, STOP
from trainers.owner import refuse_owned
from trainers.progress import Progress
from trainers.relay import append_line, following
from trainers.results import TrainRequest, TrainResult
from trainers.run import Launched, run
from trainers.stopping import asking_to_stop, hearing


def launch(request: TrainRequest, workers: int, device: str) -> TrainResult:
    """Run ``trainers.run.run`` in ``workers`` processes.

    Each process has one GPU, unless ``device`` is ``cpu``, or is ``auto`` and the cluster has no GPU. Every node must
    see the store and ``request.out``: rank 0 writes checkpoints there, and all ranks resume from them. What rank 0
    tells people is printed here at once; Ray's own log of its workers is not. A first SIGTERM or SIGINT stops all ranks
    together, with a checkpoint; a second one ends them where they are.

    Raises
    ------
    TrainingError
        If a run is going on in the folder, a worker fails (with the last line of its error), or the cluster has fewer
        CPUs than workers or, if it has any, fewer GPUs.
    SettingsError
        If no Ray cluster answers at ``RAY_ADDRESS``.
    """
    out = Path(request.out)
    refuse_owned(out)  # Ray writes into the folder before rank 0 can own it
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
            run_config=RunConfig(name="reelstore", storage_path=str(out.absolute() / "ray")),
        )
        with following(out / PROGRESS, progress.line), asking_to_stop(out / STOP), redirect_stdout(sys.stderr):
            # In the main thread, Ray would take SIGINT for itself and end the workers where they are.
            thread = ThreadPoolExecutor(1, "ray-train")
            fitted = thread.submit(trainer.fit)
            thread.shutdown(wait=False)
            fitted.result()
    except TrainingFailedError as error:
        raise TrainingError(_cause(error)) from error
    except ray.exceptions.RayError as error:
        raise TrainingError(f"ray: {_last_line(error)}") from error
    finally:
        if owned:
            ray.shutdown()
    return TrainResult.from_json(json.loads(read_text(out / RESULTS)))


def _worker(fields: dict[str, Any]) -> None:
    """Train as one rank, on the GPU that Ray gave this worker, if it gave one."""
    request, gpu = TrainRequest(**fields), get_device()
    out = Path(request.out)
    say = partial(append_line, out / PROGRESS)
    with warnings.catch_warnings(), ExitStack() as stack:
        stop: list[signal.Signals] = []
        if get_context().get_world_rank() == 0:
            warnings.showwarning = lambda message, *where, **more: say(f"warning: {message}")
            stop = stack.enter_context(hearing(out / STOP))
        run(request, Launched(gpu if gpu.type == "cuda" else None, say, stop))


def _cause(error: TrainingFailedError) -> str:
    """Return what the first worker that failed raised, in one line."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    if not failures:
        return f"ray: {_last_line(error)}"
    rank = min(failures)
    failure = getattr(failures[rank], "health_check_failure", failures[rank])
    if isinstance(failure, ray.exceptions.RayActorError):  # its message tells what may kill a process, in a paragraph
        return (
            f"ray: the process of worker {rank} died: it was killed, ran out of memory or crashed; the same command "
            "continues the run"
        )
    return _last_line(failure)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
