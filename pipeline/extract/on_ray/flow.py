"""Moves work through the actors of a run, and does again what is lost.

A unit is decoded, computed in a group, and its rows wait in a pile of their feature until they fill a shard. Whatever
holds it may be lost at any time; then it goes back to the nearest step whose input is still there.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import ray.exceptions

from extractors import MachineFaultError
from pipeline.extract.config import RunConfig
from pipeline.extract.on_ray.actors import DecodeReport, Fault, ModelReport
from pipeline.extract.on_ray.placement import Kind, Node, place
from pipeline.extract.on_ray.pool import Member, Pool
from pipeline.extract.outcomes import Outcome, UnitDone
from pipeline.extract.plan import Unit
from pipeline.extract.retries import Retries
from pipeline.extract.units import UnitFailure
from pipeline.shared import PreflightError, duration
from pipeline.shared.ray_session import ACTOR_DEATHS, sees
from settings.messages import one_line

_GROUP = 8  # as in the local executor: decoded units that may share micro-batches
_CALLS = 2  # per actor: one is computed, the next is on its way
_UNITS_PER_CALL = 4  # at most; few are lost with an actor
_STORE_SHARE = 0.4  # of the object stores: frames and rows that wait
_ROUND_S = 0.5  # how long one wait for answers lasts: signals are heeded, nodes looked at
_NODES_EVERY_S = 2.0
_WORDS_OF_A_DEATH = 200  # Ray tells at length how an actor died
SAY_EVERY_S = 60.0
"""Seconds without progress after which the driver says what it waits for."""


@dataclass(slots=True)
class _Work:
    """A unit on its way.

    Attributes
    ----------
    unit
        The unit.
    counts
        Whether it counts as a video: not if only rows of it are computed again that were lost.
    """

    unit: Unit
    counts: bool = True


@dataclass(slots=True)
class _Decoded:
    """A decoded unit in the object store."""

    work: _Work
    reference: Any
    size: int
    node: str


@dataclass(slots=True)
class _Rows:
    """Rows of one feature in the object store, and what they were computed from."""

    feature: str
    works: Sequence[_Work]
    reference: Any
    rows: int
    size: int


@dataclass(slots=True)
class _Pile:
    """Rows of one feature that wait until they fill a shard."""

    groups: list[_Rows] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        return sum(group.size for group in self.groups)

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)


@dataclass(slots=True)
class _Call:
    """A call that is not answered yet: its actor, what it was given, and where its results will be."""

    member: Member
    given: Sequence[Any] = ()
    results: Sequence[Any] = ()
    starts: bool = False


class Flow:
    """One run on a cluster.

    Parameters
    ----------
    units
        What is to be computed; they are taken one after the other.
    features
        Names of the features, in the order in which model actors return their rows.
    pool
        The actors.
    run
        How the work is spread and cut into shards.
    device
        Where models run: ``cuda`` or ``cpu``.
    paths
        What a node must see to be used.
    say
        Prints one line for a person.
    hold
        Holds a stop back for the length of a block: raised inside a call of Ray, it would come out as another error.
    unit_bytes
        Bytes that a decoded unit is expected to have: how many are decoded at a time before the first is there.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        features: Sequence[str],
        pool: Pool,
        run: RunConfig,
        device: str,
        paths: Sequence[str],
        say: Callable[[str], None],
        hold: Callable[[], AbstractContextManager[None]],
        unit_bytes: int = 0,
    ) -> None:
        self._fresh: Iterator[_Work] = map(_Work, units)
        self._left = len(units)
        self._features = features
        self._pool = pool
        self._run = run
        self._device = device
        self._paths = paths
        self._say = say
        self._hold = hold
        self._again: deque[_Work] = deque()  # to be decoded once more
        self._decoded: deque[_Decoded] = deque()
        self._piles: dict[str, _Pile] = {}
        self._calls: dict[Any, _Call] = {}
        self._retries = Retries()
        self._nodes: dict[str, Node] = {}
        self._checked: set[str] = set()
        self._finished = 0
        self._last_look = 0.0
        self._last_progress = time.monotonic()
        self._last_word = self._last_progress
        self._mean_size = float(unit_bytes)

    def run(self) -> Generator[Outcome, None, None]:
        """Compute all units, as ``Executor.run`` specifies."""
        while not self._is_over:
            self._look_at_nodes()
            self._decode()
            self._compute()
            self._write(everything=self._nothing_more_to_compute)
            yield from self._answers(_ROUND_S)
            self._watch()

    def flush(self, deadline: float) -> Generator[Outcome, None, None]:
        """Write the rows that are computed, as far as writers can until the deadline."""
        self._write(everything=True)
        while time.monotonic() < deadline and self._of_kind("write"):
            try:
                yield from self._answers(deadline - time.monotonic(), "write")
            except MachineFaultError:
                return

    @property
    def _nothing_more_to_compute(self) -> bool:
        return not (self._left or self._again or self._decoded or self._of_kind("decode") or self._of_kind("model"))

    @property
    def _is_over(self) -> bool:
        return self._nothing_more_to_compute and not self._piles and not self._of_kind("write")

    def _of_kind(self, kind: Kind) -> bool:
        """Return whether an actor of one kind is at work."""
        return any(call.member.kind == kind and not call.starts for call in self._calls.values())

    # Nodes and actors.

    def _look_at_nodes(self) -> None:
        """Use nodes that have joined, forget those that are gone, and start what is missing."""
        now = time.monotonic()
        if now - self._last_look < _NODES_EVERY_S and self._nodes:
            return
        self._last_look = now
        alive = {node.id: node for node in Node.alive(ray.nodes())}
        first = not self._nodes
        for node in alive.values():
            if node.id not in self._nodes and (first or self._is_usable(node)):
                self._nodes[node.id] = node
                if not first:
                    self._say(f"node {node.name} has joined: {node.cpus} CPUs, {node.gpus} GPUs")
        for gone in [node for node in self._nodes.values() if node.id not in alive]:
            del self._nodes[gone.id]
            self._say(f"node {gone.name} is lost; its work is done again elsewhere")
        self._pool.leave(self._nodes)
        placement = place(list(self._nodes.values()), self._run, self._device, self._pool.avoided)
        for reference, member in self._pool.start(placement, self._nodes):
            self._calls[reference] = _Call(member, starts=True)
        for kind in ("decode", "model", "write"):
            self._require(kind)

    def _is_usable(self, node: Node) -> bool:
        """Return whether a node that has joined sees what it needs; it is asked once."""
        if node.id in self._checked or not (node.cpus or node.gpus):
            return False
        self._checked.add(node.id)
        missing = sees([node.id], self._paths).get(node.id)
        if missing is not None:
            self._say(f"node {node.name} is not used: it does not see {missing}")
        return missing is None

    def _require(self, kind: Kind) -> None:
        """Raise if no actor of a kind is there and none can come, because of faults."""
        faults = self._pool.faults(kind)
        if self._pool.of(kind) or not faults:
            return
        disk = next((fault for fault in faults if fault.errno is not None), None)
        if disk is not None:
            raise OSError(disk.errno, disk.message, disk.filename)
        message = "; ".join(dict.fromkeys(fault.message for fault in faults))
        if all(fault.starting for fault in faults) and not self._finished:
            raise PreflightError(message)
        raise MachineFaultError(message)

    # Handing out work.

    def _decode(self) -> None:
        """Give decode actors units, as long as the object store has room for their frames."""
        if not self._fits:
            return
        actors = len(self._pool.of("decode"))
        for member in self._pool.free("decode", _CALLS):
            works = self._take(max(1, min(_UNITS_PER_CALL, self._left // (4 * _CALLS * actors))))
            if not works:
                return
            references = member.actor.decode.options(num_returns=1 + len(works)).remote([work.unit for work in works])
            self._sent(member, works, references)
            if not self._fits:
                return

    @property
    def _fits(self) -> bool:
        """Whether the frames of another call fit beside those that wait, are computed, or are being decoded."""
        decoding = sum(len(call.given) for call in self._calls.values() if call.member.kind == "decode")
        given = [item for call in self._calls.values() if call.member.kind != "decode" for item in call.given]
        held = sum(item.size for item in [*self._decoded, *self._piles.values(), *given])
        most = max(4 * _GROUP * len(self._pool.of("model")), 2 * _UNITS_PER_CALL * len(self._pool.of("decode")))
        return held + self._mean_size * decoding < self._room and len(self._decoded) + decoding < most

    @property
    def _room(self) -> float:
        """Bytes of the object stores that frames and rows may take."""
        return max(1.0, _STORE_SHARE * sum(node.store_bytes for node in self._nodes.values()))

    def _take(self, count: int) -> list[_Work]:
        """Take up to ``count`` units: first those that were lost."""
        works: list[_Work] = []
        while len(works) < count and self._again:
            if works and self._retries.must_be_alone(self._again[0].unit):
                return works
            works.append(self._again.popleft())
            if self._retries.must_be_alone(works[-1].unit):
                return works
        fresh = list(itertools.islice(self._fresh, count - len(works)))
        self._left -= len(fresh)
        return works + fresh

    def _compute(self) -> None:
        """Give model actors groups of decoded units: full ones, or what there is if an actor is idle."""
        for member in self._pool.free("model", _CALLS):
            if not self._decoded or (member.load and len(self._decoded) < _GROUP):
                return
            if member.load and self._is_delicate(member):
                continue
            group = self._group(member.node.id)
            references = member.actor.compute.options(num_returns=1 + len(self._features)).remote(
                *(decoded.reference for decoded in group)
            )
            self._sent(member, group, references)

    def _is_delicate(self, member: Member) -> bool:
        """Return whether a busy actor must get nothing more: if it died, a suspect unit must have been by itself."""
        works = [item.work for call in self._calls.values() if call.member is member for item in call.given]
        return any(self._retries.must_be_alone(work.unit) for work in [*works, self._decoded[0].work])

    def _group(self, node: str) -> list[_Decoded]:
        """Take a group, frames on the actor's own node first; a unit on which a process died comes alone."""
        if self._retries.must_be_alone(self._decoded[0].work.unit):
            return [self._decoded.popleft()]
        sociable = [item for item in self._decoded if not self._retries.must_be_alone(item.work.unit)]
        group = sorted(sociable, key=lambda item: item.node != node)[:_GROUP]
        chosen = {id(item) for item in group}
        self._decoded = deque(item for item in self._decoded if id(item) not in chosen)
        return group

    def _write(self, everything: bool) -> None:
        """Give writers the piles that fill a shard, are old, are the last, or leave too little room for frames."""
        everything = everything or sum(pile.size for pile in self._piles.values()) > self._room / 2
        for name in list(self._piles):
            pile = self._piles[name]
            old = time.monotonic() - pile.since >= self._run.commit_seconds
            if not (everything or old or pile.size >= self._run.shard_mb * 1e6 or pile.rows >= self._run.shard_rows):
                continue
            for member in self._pool.free("write", _CALLS)[:1]:
                del self._piles[name]
                reference = member.actor.write.remote(*(group.reference for group in pile.groups))
                self._sent(member, pile.groups, [reference])

    def _sent(self, member: Member, given: Sequence[Any], references: Any) -> None:
        member.load += 1
        first, *results = references
        self._calls[first] = _Call(member, given, results)

    # Taking answers.

    def _answers(self, seconds: float, kind: Kind | None = None) -> Generator[Outcome, None, None]:
        """Wait for an answer, and take all that are there then."""
        waiting = [ref for ref, call in self._calls.items() if kind is None or call.member.kind == kind]
        if not waiting:
            time.sleep(min(seconds, _ROUND_S / 5))
            return
        with self._hold():
            ready, _ = ray.wait(waiting, num_returns=1, timeout=max(0.0, min(seconds, _ROUND_S)))
            if ready:
                ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for reference in ready:
            yield from self._answer(self._calls.pop(reference), reference)

    def _answer(self, call: _Call, reference: Any) -> Generator[Outcome, None, None]:
        member = call.member
        try:
            with self._hold():
                report = ray.get(reference)
        except ACTOR_DEATHS as error:
            yield from self._lost(call, one_line(error, _WORDS_OF_A_DEATH))
            return
        except ray.exceptions.ObjectLostError:
            self._pool.answered(member)
            self._redo(call)
            return
        if isinstance(report, Fault):
            self._pool.retire(member, report)
            self._give_back(call)
            self._last_look = 0.0  # a place may have become free
            self._require(member.kind)
            return
        self._progress()
        if call.starts:
            member.ready = True
            return
        self._pool.answered(member)
        if isinstance(report, DecodeReport):
            yield from self._take_decoded(call, report)
        elif isinstance(report, ModelReport):
            yield from self._take_rows(call, report)
        else:
            yield from report

    def _take_decoded(self, call: _Call, report: DecodeReport) -> Generator[Outcome, None, None]:
        yield from report.outcomes
        done = 0
        for work, reference, size in zip(call.given, call.results, report.sizes, strict=True):
            if size is None:
                done += work.counts
                continue
            self._mean_size += (size - self._mean_size) / 16 if self._mean_size else size
            self._decoded.append(_Decoded(work, reference, size, call.member.node.id))
        if done:
            yield self._done(done)

    def _take_rows(self, call: _Call, report: ModelReport) -> Generator[Outcome, None, None]:
        works = [decoded.work for decoded in call.given]
        for name, reference in zip(self._features, call.results, strict=True):
            if report.rows[name]:
                pile = self._piles.setdefault(name, _Pile())
                pile.groups.append(_Rows(name, works, reference, report.rows[name], report.sizes[name]))
        yield from report.failures
        yield self._done(sum(work.counts for work in works), report)

    def _done(self, units: int, report: ModelReport | None = None) -> UnitDone:
        self._finished += units
        return UnitDone(units) if report is None else UnitDone(units, report.times, report.rows)

    # What is lost.

    def _lost(self, call: _Call, why: str) -> Generator[Outcome, None, None]:
        """Do again what a lost actor was given; a unit that ends one process after the other fails."""
        member = call.member
        node_lives = any(record["Alive"] and record["NodeID"] == member.node.id for record in ray.nodes())
        was_ours = self._pool.died(member, f"a {member.kind} actor died ({why})", node_lives)
        self._last_look = 0.0
        if not (was_ours and node_lives) or member.kind == "write" or not call.given:
            self._give_back(call)
            return
        works = [item if isinstance(item, _Work) else item.work for item in call.given]
        at_fault = {unit.keys for unit in self._retries.died([work.unit for work in works])}
        self._give_back(
            replace(
                call,
                given=[item for item, work in zip(call.given, works, strict=True) if work.unit.keys not in at_fault],
            )
        )
        for work in works:
            if work.unit.keys in at_fault:
                yield UnitFailure(work.unit, work.unit.features, "crash", f"a process died of it twice: {why}")
                yield self._done(int(work.counts))

    def _give_back(self, call: _Call) -> None:
        """Put what a call was given back to where it was taken from."""
        if call.starts:
            return
        if call.member.kind == "decode":
            self._again.extend(call.given)
        elif call.member.kind == "model":
            self._decoded.extend(call.given)
        else:
            for group in call.given:
                self._piles.setdefault(group.feature, _Pile()).groups.append(group)

    def _redo(self, call: _Call) -> None:
        """Decode again what a call was given: its frames or rows are lost with the node that held them."""
        if call.member.kind == "model":
            self._again.extend(item.work for item in call.given)
        for group in call.given if call.member.kind == "write" else ():
            self._again.extend(
                _Work(replace(work.unit, features=(group.feature,)), counts=False)
                for work in group.works
                if group.feature in work.unit.features
            )

    # Never waiting in silence.

    def _progress(self) -> None:
        self._last_progress = self._last_word = time.monotonic()

    def _watch(self) -> None:
        """Say what is waited for when nothing moves; end the run when nothing has moved for too long."""
        now = time.monotonic()
        still = now - self._last_progress
        if still >= self._run.patience_s:
            raise MachineFaultError(f"ray: no progress for {duration(still)} (run.patience_s): {self._pool.describe()}")
        if now - self._last_word >= SAY_EVERY_S:
            self._last_word = now
            self._say(f"ray: no progress for {duration(still)}: {self._pool.describe()}")
