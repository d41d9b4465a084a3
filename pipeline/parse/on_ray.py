"""Parsing on a Ray cluster: batches of texts → parser actors → parses. The driver commits what arrives.

An actor parses whole batches, the same ones as the local executor, so neither order nor retries nor the number of
actors shows in a parse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import ray
import ray.data

from parsers.parse import PARSES, ParserError, parses_table
from parsers.stanza_parser import StanzaParser
from pipeline.shared.errors import PreflightError
from pipeline.shared.ray_session import check_nodes, session
from pipeline.shared.signals import StopSignals

_BATCH = pa.schema([pa.field("texts", pa.list_(pa.string()))])


class _ParseStage:
    """One parser with its models in memory."""

    def __init__(self, parser: StanzaParser) -> None:
        self._parser = parser

    def __call__(self, batches: pa.Table) -> Iterator[pa.Table]:
        for texts in batches["texts"].to_pylist():
            yield parses_table(self._parser.parse(texts)).cast(PARSES)


def parse_on_ray(
    parser: Callable[[str], StanzaParser],
    models: Path | None,
    batches: Sequence[Sequence[str]],
    actors: int | None,
    signals: StopSignals,
    say: Callable[[str], None],
) -> Iterator[pa.Table]:
    """Parse all batches on the cluster that ``RAY_ADDRESS`` names, or on a local one that ends with the run.

    Parameters
    ----------
    parser : makes the parser for a device, ``cpu`` or ``cuda``.
    models : a folder that every node must see; None where each node uses its own.
    actors : parsers at work at the same time; as many as GPUs, else as CPUs, if not given.

    Yields
    ------
    pyarrow.Table
        Rows of the ``parses`` table, in any order.

    Raises
    ------
    PreflightError
        If a node does not see the models, or they do not load.
    """
    with session(signals):
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 0)))
        if models is not None:
            check_nodes([str(models)], "Stanza's models")
        made = parser("cuda" if gpus else "cpu")
        _check_models(made, gpus)
        count = min(actors or gpus or cpus, len(batches))
        say(f"ray: {cpus} CPUs, {gpus} GPUs: {count} parsers on {made.device}")
        blocks = [pa.table({"texts": [list(batch)]}, schema=_BATCH) for batch in batches]
        parses = ray.data.from_arrow(blocks).map_batches(
            _ParseStage,
            fn_constructor_args=(made,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=0.5 if gpus else 1,
            num_gpus=1 if gpus else 0,
        )
        yield from parses.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _check_models(parser: StanzaParser, gpus: int) -> None:
    """Load the models once where an actor would: an actor that cannot start is tried again and again."""

    @ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=0)
    def problem() -> str | None:
        try:
            parser.parse(["who ran"])
        except ParserError as error:
            return str(error)
        return None

    found = ray.get(problem.remote())
    if found is not None:
        raise PreflightError(found)
