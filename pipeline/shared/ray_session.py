"""A Ray session that ends with the run, and what every stage on a cluster checks first."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.shared.errors import PreflightError, UsageError
from pipeline.shared.signals import StopSignals
from settings.messages import one_line
from settings.workers import runtime_environment


@contextmanager
def session(signals: StopSignals) -> Iterator[None]:
    """Be connected to the cluster that ``RAY_ADDRESS`` names, or to a local one that ends with the block.

    Raises
    ------
    UsageError
        For what Ray raises inside, with its innermost reason as one line.
    """
    owned = not ray.is_initialized()
    if owned:
        # auto: the cluster of a submitted job or of RAY_ADDRESS, else one on this machine
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
        yield
    except ray.exceptions.RayError as error:
        raise UsageError(f"ray: {_cause(error)}; what was committed is safe, run again") from error
    finally:
        if owned:
            ray.shutdown()


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed stage, as one line: Ray wraps it several times."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    return f"{type(error).__name__}: {one_line(error)}"


def check_nodes(paths: Sequence[str], what: str) -> None:
    """Every node must see these files and folders.

    Raises
    ------
    PreflightError
        With the node, the path and ``what`` must be shared.
    """

    @ray.remote(num_cpus=0)
    def missing() -> str | None:
        return next((path for path in paths if not Path(path).exists()), None)

    for node in ray.nodes():
        if not node["Alive"]:
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        absent = ray.get(missing.options(scheduling_strategy=strategy).remote())
        if absent is not None:
            name = node.get("NodeManagerHostname") or node["NodeID"]
            raise PreflightError(f"Ray node {name} does not see {absent}; {what} must be on a shared path")
