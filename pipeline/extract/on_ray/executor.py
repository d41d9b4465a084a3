"""The Ray executor: decode actors → model actors → writers, on every node that has room for them.

The driver sends units and reads reports; frames and rows stay in the cluster's object store. It commits what writers
report, and the store's manifest is the checkpoint. Work whose actor or node is lost is done again, and a commit takes
one row per cache key. The store therefore depends neither on order and retries nor on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

import ray

from extractors import MachineFaultError
from pipeline.extract.config import RunConfig
from pipeline.extract.decode_unit import expected_bytes
from pipeline.extract.on_ray.actors import DecodeActor, ModelActor, WriteActor
from pipeline.extract.on_ray.flow import Flow
from pipeline.extract.on_ray.metrics import Metrics
from pipeline.extract.on_ray.placement import Kind, Node, choose_device, model_threads, place
from pipeline.extract.on_ray.pool import Pool, Recipe
from pipeline.extract.outcomes import Outcome
from pipeline.extract.plan import Unit
from pipeline.extract.units import RunContext
from pipeline.shared import PreflightError, StopRequestedError, StopSignals
from pipeline.shared.ray_session import check_nodes, session, waited_for
from stores.format import IDENTITY

_FLUSH_S = 1.5  # what a stopped run may spend on writing rows that are computed
_FLUSH_AFTER_FAULT_S = 60.0


class RayExecutor:
    """Streams units through actors on the cluster that ``RAY_ADDRESS`` names, or on a local one.

    A local cluster ends with the run.

    Parameters
    ----------
    run
        How the work is spread and cut into shards.
    signals
        Its handlers are installed again after Ray has installed its own.
    say
        Prints one line for a person.
    """

    def __init__(self, run: RunConfig, signals: StopSignals, say: Callable[[str], None]) -> None:
        self._run = run
        self._signals = signals
        self._say = say

    def run(self, context: RunContext, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        """Compute all units, as ``Executor.run`` specifies.

        Raises
        ------
        PreflightError
            If a node does not see the source or the store, weights do not load, or the cluster has no room.
        """
        run = self._run
        with session(self._signals), waited_for(run.wait_for_cpus, run.wait_for_gpus, run.patience_s, self._say):
            yield from self._compute(context, units)

    def close(self) -> None:
        """Do nothing: the actors have ended with the run."""

    def _compute(self, context: RunContext, units: Sequence[Unit]) -> Generator[Outcome, None, None]:
        nodes = Node.alive(ray.nodes())
        device = choose_device(nodes, self._run)
        if context.media.backend == "nvdec" and device == "cpu":
            raise PreflightError("media.backend=nvdec: the Ray cluster has no GPU; use the default backend")
        placement = place(nodes, self._run, device)
        if not placement.total("decode"):
            raise PreflightError(
                "the Ray cluster has 0 CPUs; a decode actor needs one: start a worker, or wait for one with "
                "--wait-for-cpus N"
            )
        threads = model_threads(nodes, placement, self._run)
        first_file = [unit.uri for unit in units if "://" not in unit.uri][:1]
        paths = [str(context.store / IDENTITY), *first_file]
        check_nodes(paths, "source and store", [node.id for node in nodes if node.cpus or node.gpus])
        self._say(f"ray: {placement.describe(nodes, device, threads)}")
        pool = Pool(_recipes(context, units, self._run, device, threads), self._say)
        features = context.wanted_features(units)
        names = [feature.name for feature in features]
        hold, size = self._signals.critical, expected_bytes(features)
        flow = Flow(units, names, pool, self._run, device, paths, self._say, hold, size)
        metrics = Metrics()
        try:
            for outcome in _with_last_words(flow):
                metrics.count(outcome)
                yield outcome
        finally:
            pool.close()


def _with_last_words(flow: Flow) -> Generator[Outcome, None, None]:
    """Run the flow; if it is ended early, yield what writers can still write in a moment, then raise again."""
    try:
        yield from flow.run()
    except StopRequestedError:
        yield from flow.flush(time.monotonic() + _FLUSH_S)
        raise
    except MachineFaultError:
        yield from flow.flush(time.monotonic() + _FLUSH_AFTER_FAULT_S)
        raise


def _recipes(
    context: RunContext, units: Sequence[Unit], run: RunConfig, device: str, threads: int
) -> dict[Kind, Recipe]:
    """Return how the actors of this run are made."""
    shared = ray.put(context)
    features = context.wanted_features(units)
    on_gpu = device == "cuda"
    # A model on a GPU asks for no CPU, and a writer for none either: CPUs are for decoding. Two calls of a model actor
    # overlap; on the CPU they would only share it.
    model = {"num_gpus": 1, "num_cpus": 0, "max_concurrency": 2} if on_gpu else {"num_cpus": 0, "max_concurrency": 1}
    return {
        "decode": Recipe(DecodeActor, (shared,), {"num_cpus": 1}),
        "model": Recipe(ModelActor, (shared, features, device, threads), model),
        "write": Recipe(WriteActor, (shared, run), {"num_cpus": 0}),
    }
