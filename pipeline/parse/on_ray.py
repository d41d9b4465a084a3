"""Parses on a Ray cluster: batches of texts → parser actors → parses. The driver commits what arrives.

An actor parses whole batches, the same ones as the local executor. A parse therefore depends neither on order and
retries nor on the number of actors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import ray
import ray.data

from parsers.parse import PARSES, ParserError, parses_table
from parsers.stanza_parser import StanzaParser
from pipeline.shared.ray_session import check_in_actor, check_nodes, session
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
    parser
        Makes the parser for a device, ``cpu`` or ``cuda``.
    models
        A folder that every node must see; None if each node uses its own.
    batches
        The texts, in the batches in which they are parsed.
    actors
        Number of parsers at work at the same time; as many as GPUs, or else as CPUs, if not given.
    signals
        Its handlers are installed again after Ray has installed its own.
    say
        Prints one line for a person.

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
        _be_quiet()
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 0)))
        if models is not None:
            check_nodes([str(models)], "Stanza's models")
        made = parser("cuda" if gpus else "cpu")
        check_in_actor(lambda: _find_problem(made), num_cpus=1, num_gpus=1 if gpus else 0)
        count = min(actors or gpus or cpus, len(batches))
        say(f"ray: {cpus} CPUs, {gpus} GPUs: {count} parsers on {made.device}")
        blocks = [pa.table({"texts": [list(batch)]}, schema=_BATCH) for batch in batches]
        parses = ray.data.from_arrow(blocks).map_batches(
            _ParseStage,
            fn_constructor_args=(made,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=0.5 if gpus else 1,  # a parser on a GPU mostly waits for it
            num_gpus=1 if gpus else 0,
        )
        yield from parses.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _be_quiet() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _find_problem(parser: StanzaParser) -> str | None:
    """Return why the parser's models do not load, or None."""
    try:
        parser.parse(["who ran"])
    except ParserError as error:
        return str(error)
    return None
