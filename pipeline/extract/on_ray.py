"""The Ray Data executor: decode actors → model actors → a shard writer, streaming.

The driver sees receipts and failures only, and commits them; the store's manifest is the checkpoint. A stage that is
retried computes the same rows again, and a commit takes one row per cache key. The store therefore depends neither on
order and retries nor on the number of workers.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from ray.util.metrics import Counter

from extractors import ExtractorError
from pipeline.extract.compute import Models, compute_rows
from pipeline.extract.config import RunConfig
from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.features import Feature
from pipeline.extract.outcomes import Outcome, StageTimes, UnitDone
from pipeline.extract.plan import Unit
from pipeline.extract.shards import FinishedShard, ShardSet
from pipeline.extract.units import ComputedRow, Decoded, RunContext, UnitFailure
from pipeline.shared import StopSignals
from pipeline.shared.ray_session import check_in_actor, check_nodes, session
from pipeline.shared.sizing import MODEL_CPUS, WRITER_CPUS, Sizing, choose, ray_decode_workers
from stores.format import IDENTITY

_UNITS_PER_BLOCK = 4  # a block is the unit of a retry: few videos are decoded again, and few tasks are scheduled
_UNITS_PER_MODEL_BATCH = 8  # as in the local executor: decoded units that may share micro-batches
_MOST_ROWS_PER_WRITE = 64  # the writer holds nothing back between calls, so this bounds the rows of a shard
_SCHEMA = pa.schema([pa.field("item", pa.large_binary())])


def _pack(items: Sequence[Any]) -> pa.Table:
    return pa.table({"item": [pickle.dumps(item, protocol=5) for item in items]}, schema=_SCHEMA)


def _unpack(table: pa.Table) -> list[Any]:
    return [pickle.loads(item) for item in table.column("item").to_pylist()]


class _DecodeStage:
    """One media child per actor; a decoder that crashes takes down the child, never the actor."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._media = context.media_process()

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for unit in _unpack(batch):
            yield _pack([decode_unit(self._context, unit, self._media)])


class _ModelStage:
    """All towers on one device: turns decoded units into rows and passes failures on."""

    def __init__(self, context: RunContext, features: Sequence[Feature], device: str, threads: int) -> None:
        self._context = context
        self._models = Models.load(features, device, threads)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        items = _unpack(batch)
        decoded = [item for item in items if isinstance(item, Decoded)]
        times = StageTimes(decode_s=sum(item.seconds for item in decoded), frames=sum(item.frames for item in decoded))
        out: list[Any] = [item for item in items if not isinstance(item, Decoded)]
        started = time.perf_counter()
        for computed in compute_rows(self._context, self._models, decoded):
            out.append(computed)
            if isinstance(computed, ComputedRow):
                times.steps += len(computed.row.values)
        times.model_s = time.perf_counter() - started
        yield _pack([*out, UnitDone(len(items), times)])


class _WriteStage:
    """Writes the rows of each call as whole shards and keeps nothing for the next call."""

    def __init__(self, context: RunContext, run: RunConfig) -> None:
        self._context = context
        self._run = run

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        items = _unpack(batch)
        shards = ShardSet(self._context, self._run.shard_mb, self._run.shard_rows, self._run.commit_seconds)
        out: list[Any] = [item for item in items if not isinstance(item, ComputedRow)]
        started = time.perf_counter()
        try:
            for item in items:
                if isinstance(item, ComputedRow):
                    shards.add(item)
                    out += shards.finish_due()
            out += shards.finish_all()
        finally:
            shards.discard()
        out.append(UnitDone(0, StageTimes(write_s=time.perf_counter() - started)))
        yield _pack(out)


class RayExecutor:
    """Streams units through pools of actors on the cluster that ``RAY_ADDRESS`` names, or on a local one.

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
            If a node does not see the source or the store, weights do not load, or the cluster is too small for one
            actor of each stage.
        """
        with session(self._signals):
            yield from _run_on_cluster(context, units, self._run, self._say)


def _run_on_cluster(
    context: RunContext, units: Sequence[Unit], run: RunConfig, say: Callable[[str], None]
) -> Iterator[Outcome]:
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 0))
    sizing = choose(run, run.decode_workers, cpus=max(cpus, 1), gpus=int(resources.get("GPU", 0)))
    decoders = ray_decode_workers(sizing, resources.get("CPU", 0))
    features = context.wanted_features(units)
    first_file = [unit.uri for unit in units if "://" not in unit.uri][:1]
    check_nodes([str(context.store / IDENTITY), *first_file], "source and store")
    weighted = [feature for feature in features if not feature.extractor.random_weights]
    if weighted:  # loaded once before anything is decoded
        check_in_actor(lambda: _find_problem(weighted, sizing), MODEL_CPUS, 1 if sizing.gpus else 0)
    model_actors = max(1, sizing.gpus)
    say(
        f"ray: {cpus} CPUs, {sizing.gpus} GPUs: {decoders} decode actors, {model_actors} model actors on "
        f"{sizing.device} with {sizing.model_threads} threads, 1 writer"
    )
    blocks = [_pack(units[start : start + _UNITS_PER_BLOCK]) for start in range(0, len(units), _UNITS_PER_BLOCK)]
    row_bytes = max(feature.expected_row_bytes for feature in features)
    rows_per_write = max(1, min(_MOST_ROWS_PER_WRITE, -(-len(units) // 4), int(run.shard_mb * 1e6) // row_bytes))
    stages = (
        ray.data.from_arrow(blocks)
        .map_batches(
            _DecodeStage,
            fn_constructor_args=(context,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(decoders, len(blocks))),
            num_cpus=1,
        )
        .map_batches(
            _ModelStage,
            fn_constructor_args=(context, features, sizing.device, sizing.model_threads),
            batch_size=_UNITS_PER_MODEL_BATCH,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=model_actors),
            num_cpus=MODEL_CPUS,
            num_gpus=1 if sizing.gpus else 0,
        )
        .map_batches(
            _WriteStage,
            fn_constructor_args=(context, run),
            batch_size=rows_per_write,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=WRITER_CPUS,
        )
    )
    metrics = _Metrics()
    for batch in stages.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        outcomes = cast(list[Outcome], _unpack(batch))
        metrics.count(outcomes)
        yield from outcomes


class _Metrics:
    """Counters for the cluster's own metrics page (Prometheus), beside the progress that the driver prints."""

    def __init__(self) -> None:
        self._videos = Counter("reelstore_videos", "Videos that are finished, with rows or with failures.")
        self._frames = Counter("reelstore_frames_decoded", "Frames decoded and prepared.")
        self._steps = Counter("reelstore_steps_computed", "Steps that a model has computed.")
        self._rows = Counter("reelstore_rows_written", "Rows in published shards.", tag_keys=("feature",))
        self._failures = Counter("reelstore_failures", "Rows that could not be computed.", tag_keys=("kind",))

    def count(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, UnitDone):
                for counter, value in (
                    (self._videos, outcome.units),
                    (self._frames, outcome.times.frames),
                    (self._steps, outcome.times.steps),
                ):
                    if value:
                        counter.inc(value)
            elif isinstance(outcome, FinishedShard):
                self._rows.inc(outcome.receipt.rows, tags={"feature": outcome.receipt.feature})
            elif isinstance(outcome, UnitFailure):
                self._failures.inc(len(outcome.features), tags={"kind": outcome.failure_class})


def _find_problem(features: Sequence[Feature], sizing: Sizing) -> str | None:
    """Return why the towers of the features do not load, or None."""
    try:
        Models.load(features, sizing.device, sizing.model_threads)
    except ExtractorError as error:
        return str(error)
    return None
