"""Connects to Ray for the length of a run, and checks what every stage on a cluster needs first."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.shared.errors import PreflightError, UsageError
from pipeline.shared.signals import StopSignals
from settings.messages import one_line
from settings.ray_address import check_ray_address
from settings.workers import hush_ray, runtime_environment

logger = logging.getLogger("reelstore.shared.ray_session")


@contextmanager
def session(signals: StopSignals) -> Iterator[None]:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or to a local one that ends with the block.

    Raises
    ------
    SettingsError
        If no Ray cluster answers at ``RAY_ADDRESS``.
    UsageError
        If Ray raises inside the block; with its innermost reason as one line.
    """
    owned = not ray.is_initialized()
    if owned:
        check_ray_address()
        hush_ray()
        # Without an address Ray finds the cluster of a submitted job, or starts one on this machine.
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or None,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env=runtime_environment(),
        )
    try:
        signals.install()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        with redirect_stdout(sys.stderr):  # Ray tells of lost workers there; stdout is for the summary
            yield
    except ray.exceptions.RayError as error:
        logger.debug("Ray failed", exc_info=True)
        raise UsageError(f"ray: {_cause(error)}. Committed rows are safe; run the same command to continue") from error
    finally:
        if owned:
            ray.shutdown()


def _cause(error: BaseException) -> str:
    """Return the innermost reason of a failed stage as one line: Ray wraps it several times."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    return f"{type(error).__name__}: {one_line(error)}"


def check_nodes(paths: Sequence[str], what: str) -> None:
    """Check that every node sees these files and folders.

    Raises
    ------
    PreflightError
        If not; the message names the node and the path, and calls the paths ``what``.
    """

    def missing() -> str | None:
        return next((path for path in paths if not Path(path).exists()), None)

    remote_missing = ray.remote(num_cpus=0)(missing)
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        path = ray.get(remote_missing.options(scheduling_strategy=strategy).remote())
        if path is not None:
            name = node.get("NodeManagerHostname") or node["NodeID"]
            raise PreflightError(f"Ray node {name} does not see {path}; {what} must be on a shared path")


def check_in_actor(find_problem: Callable[[], str | None], num_cpus: float, num_gpus: float) -> None:
    """Run a check once where an actor with these resources would run: an actor that fails to start is retried forever.

    Raises
    ------
    PreflightError
        With the problem that the check finds.
    """
    problem = ray.get(ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)(find_problem).remote())
    if problem is not None:
        raise PreflightError(problem)
