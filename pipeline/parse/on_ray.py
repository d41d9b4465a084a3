"""Parses on a Ray cluster: actors with a parser each, wherever the cluster has room. The driver commits what arrives.

An actor parses whole batches, the same ones as a process of this machine does. A parse therefore depends neither on
order and retries nor on the number of actors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from parsers.parse import ParserError, parses_table
from parsers.stanza_parser import StanzaParser
from pipeline.parse.work import Task, Work
from pipeline.shared.ray_session import ACTOR_DEATHS, check_in_actor, check_nodes, session
from pipeline.shared.signals import StopSignals
from settings.messages import one_line, plural

_ROUND_S = 0.5  # how long one wait for answers lasts: signals are heeded
_LOOK_EVERY_S = 5.0  # at the size of the cluster
_SAY_EVERY_S = 60.0
_WORDS_OF_A_DEATH = 200  # Ray tells at length how an actor died


class ParseActor:
    """One parser with its models in memory."""

    def __init__(self, parser: StanzaParser) -> None:
        self._parser = parser

    def parse(self, texts: Sequence[str]) -> pa.Table | ParserError | OSError:
        """Return the rows of some texts, or the error that ends the run."""
        try:
            return parses_table(self._parser.parse(texts))
        except (ParserError, OSError) as error:
            return error


@dataclass(slots=True, eq=False)
class _Member:
    """An actor, and the answer that it owes."""

    actor: Any
    task: Task | None = None
    answer: Any = None


def parse_on_ray(
    parser: Callable[[str], StanzaParser],
    models: Path | None,
    batches: Sequence[Sequence[str]],
    actors: int | None,
    signals: StopSignals,
    say: Callable[[str], None],
) -> Generator[pa.Table, None, None]:
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
        Most parsers at work at the same time; as many as GPUs, or else as CPUs, if not given. Actors are added while
        the cluster grows.
    signals
        Its handlers are installed again after Ray has installed its own.
    say
        Prints one line for a person.

    Yields
    ------
    pyarrow.Table
        Rows of the ``parses`` table, batch after batch, in their order.

    Raises
    ------
    PreflightError
        If a node does not see the models, or they do not load.
    ParserError, OSError
        As the parser raises them; ParserError if actors end again and again without an answer.
    """
    with session(signals):
        gpus, cpus = _size()
        if models is not None:
            check_nodes([str(models)], "Stanza's models")
        made = parser("cuda" if gpus else "cpu")
        check_in_actor(lambda: _find_problem(made), num_cpus=1, num_gpus=1 if gpus else 0)
        crew = _Crew(made, bool(gpus), actors, len(batches), say)
        say(f"ray: {plural(cpus, 'CPU')}, {plural(gpus, 'GPU')}: {plural(crew.wanted(), 'parser')} on {made.device}")
        work = Work(batches, crew.wanted())
        try:
            while not work.is_over:
                crew.grow(work)
                crew.feed(work)
                with signals.critical():  # raised inside a call of Ray, a stop would come out as another error
                    crew.listen(work)
                yield from work.ready()
        finally:
            crew.end()


def _size() -> tuple[int, int]:
    """Return the GPUs and CPUs of the cluster."""
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 0)))


@dataclass(slots=True)
class _Crew:
    """The actors of a run.

    Attributes
    ----------
    parser
        What each actor gets a copy of.
    on_gpu
        Whether each actor has a GPU, or else a CPU.
    most, batches
        Most actors (None for as many as the cluster has room for), and the number of batches.
    say
        Prints one line for a person.
    """

    parser: StanzaParser
    on_gpu: bool
    most: int | None
    batches: int
    say: Callable[[str], None]
    _members: list[_Member] = field(default_factory=list)
    _looked: float = 0.0
    _room: int = 1
    _heard: float = field(default_factory=time.monotonic)

    def wanted(self) -> int:
        """Return the number of actors for the cluster as it is now."""
        if not self._looked or time.monotonic() - self._looked >= _LOOK_EVERY_S:
            gpus, cpus = _size()
            self._room = max(1, gpus if self.on_gpu else cpus)
            self._looked = time.monotonic()
        return max(1, min(self.most or self._room, self.batches))

    def grow(self, work: Work) -> None:
        """Start the actors that are wanted and not there, as far as there are tasks for them."""
        busy = sum(member.task is not None for member in self._members)
        while len(self._members) < min(self.wanted(), work.left + busy):
            options = {
                "num_cpus": 0.5 if self.on_gpu else 1,  # a parser on a GPU mostly waits for it
                "num_gpus": 1 if self.on_gpu else 0,
                # Ray itself restarts nothing: it does not know which text an actor died on.
                "max_restarts": 0,
                "max_task_retries": 0,
            }
            self._members.append(_Member(ray.remote(ParseActor).options(**options).remote(self.parser)))

    def feed(self, work: Work) -> None:
        """Give each idle actor a task."""
        for member in self._members:
            if member.task is None and (task := work.take()) is not None:
                member.task, member.answer = task, member.actor.parse.remote(task.texts)

    def listen(self, work: Work) -> None:
        """Wait for an answer, and take all that are there then."""
        owed = {member.answer: member for member in self._members if member.task is not None}
        ready, _ = ray.wait(list(owed), num_returns=1, timeout=_ROUND_S)
        if ready:
            ready, _ = ray.wait(list(owed), num_returns=len(owed), timeout=0)
        for reference in ready:
            self._take(work, owed[reference])
        if time.monotonic() - self._heard >= _SAY_EVERY_S:
            self._heard = time.monotonic()
            self.say(f"ray: no answer for {_SAY_EVERY_S:.0f} s from {plural(len(owed), 'parser')}, started or waiting")

    def _take(self, work: Work, member: _Member) -> None:
        task, member.task = member.task, None
        assert task is not None
        try:
            answer = ray.get(member.answer)
        except ACTOR_DEATHS as error:
            self._members.remove(member)
            work.died(task, one_line(error, _WORDS_OF_A_DEATH))
            return
        if isinstance(answer, Exception):
            raise answer
        self._heard = time.monotonic()
        work.answered(task, answer)

    def end(self) -> None:
        """End all actors."""
        for member in self._members:
            ray.kill(member.actor)


def _find_problem(parser: StanzaParser) -> str | None:
    """Return why the parser's models do not load, or None."""
    try:
        parser.parse(["who ran"])
    except ParserError as error:
        return str(error)
    return None
