"""Connects to Ray for the length of a run, and checks what every stage on a cluster needs first."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import ray
import ray.autoscaler.sdk
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.shared.errors import PreflightError, UsageError
from pipeline.shared.signals import StopRequestedError, StopSignals
from pipeline.shared.terminal import duration
from settings.messages import one_line
from settings.ray_address import check_ray_address
from settings.workers import hush_ray, runtime_environment

logger = logging.getLogger("reelstore.shared.ray_session")

_POLL_S = 1.0
_SAY_EVERY_S = 30.0
_CHECK_S = 120.0  # a node may first have to start a worker, and to unpack the code
ACTOR_DEATHS = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.ActorUnschedulableError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
)
"""What a call raises whose actor has ended without a word."""


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
        with redirect_stdout(sys.stderr):  # Ray tells of lost workers there; stdout is for the summary
            yield
    except SystemError as error:
        stop = _stop_in(error)
        if stop is None:
            raise
        raise stop from None
    except ray.exceptions.RayError as error:
        logger.debug("Ray failed", exc_info=True)
        raise UsageError(f"ray: {_cause(error)}. Committed rows are safe; run the same command to continue") from error
    finally:
        if owned:
            ray.shutdown()


def _stop_in(error: SystemError) -> StopRequestedError | None:
    """Return the stop that was raised inside a call of Ray, which then came out as another error; None if none was."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, StopRequestedError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return None


def _cause(error: BaseException) -> str:
    """Return the innermost reason of a failed stage as one line: Ray wraps it several times."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    return f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def waited_for(cpus: int, gpus: int, patience_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until the cluster has so many CPUs and GPUs; an autoscaler is asked for them until the block ends.

    Raises
    ------
    PreflightError
        If it does not have them in time.
    """
    wanted = {name: count for name, count in (("CPU", cpus), ("GPU", gpus)) if count}
    if not wanted:
        yield
        return
    # Without an autoscaler nobody reads the request.
    ray.autoscaler.sdk.request_resources(bundles=[{name: 1} for name, count in wanted.items() for _ in range(count)])
    try:
        _wait(wanted, patience_s, say)
        yield
    finally:
        ray.autoscaler.sdk.request_resources(bundles=[])


def _wait(wanted: Mapping[str, int], patience_s: float, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    said = -_SAY_EVERY_S
    while True:
        present = ray.cluster_resources()
        lacking = {name: count for name, count in wanted.items() if present.get(name, 0) < count}
        if not lacking:
            return
        waited = time.monotonic() - started
        state = " and ".join(f"{present.get(name, 0):g} of {count} {name}s" for name, count in lacking.items())
        if waited >= patience_s:
            raise PreflightError(
                f"the Ray cluster has {state} after {duration(waited)}; start more workers, ask for fewer with "
                "--wait-for-cpus and --wait-for-gpus, or wait longer with run.patience_s"
            )
        if waited - said >= _SAY_EVERY_S:
            said = waited
            say(f"ray: waiting for {state}")
        time.sleep(min(_POLL_S, patience_s - waited))


def sees(nodes: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """Return, for each node that does not see all of these files and folders, the first that it does not see.

    Parameters
    ----------
    nodes
        Ids of nodes; they are asked at the same time.
    paths
        What they must see.
    """

    def missing() -> str | None:
        return next((path for path in paths if not Path(path).exists()), None)

    remote = ray.remote(num_cpus=0, max_retries=0)(missing)
    answers = {
        node: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    }
    unseen: dict[str, str] = {}
    for node, answer in answers.items():
        try:
            path = ray.get(answer, timeout=_CHECK_S)
        except ray.exceptions.RayError as error:
            path = f"{paths[0]} ({one_line(error)})"
        if path is not None:
            unseen[node] = path
    return unseen


def check_nodes(paths: Sequence[str], what: str, nodes: Sequence[str] | None = None) -> None:
    """Check that nodes see these files and folders.

    Parameters
    ----------
    paths, what
        What they must see, and how it is called.
    nodes
        Ids of the nodes; all that are alive if not given.

    Raises
    ------
    PreflightError
        If one does not; the message names the node and the path.
    """
    names = {node["NodeID"]: node.get("NodeManagerHostname") or node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for node, path in sees(list(names) if nodes is None else nodes, paths).items():
        raise PreflightError(f"Ray node {names.get(node, node)} does not see {path}; {what} must be on a shared path")


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
