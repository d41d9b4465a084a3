"""The actors of a run: starts them where they are placed, and again when they end, within bounds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.extract.on_ray.actors import Fault
from pipeline.extract.on_ray.placement import Kind, Node, Placement
from pipeline.extract.retries import MOST_RESTARTS
from settings.messages import plural

_WORDS: Mapping[Kind, str] = {"decode": "decode actor", "model": "model actor", "write": "writer"}


@dataclass(slots=True, eq=False)
class Member:
    """One actor.

    Attributes
    ----------
    kind, node
        What it does, and where.
    actor
        Ray's handle.
    started
        When it was asked for.
    ready
        Whether it has answered.
    load
        Number of calls that it has not answered.
    """

    kind: Kind
    node: Node
    actor: Any
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    load: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How actors of one kind are made: the class, its arguments, and the options that Ray takes."""

    cls: Any
    arguments: Sequence[Any]
    options: Mapping[str, Any]


class Pool:
    """All actors of a run.

    Parameters
    ----------
    recipes
        How actors of each kind are made.
    say
        Prints one line for a person.
    """

    def __init__(self, recipes: Mapping[Kind, Recipe], say: Callable[[str], None]) -> None:
        self._recipes = recipes
        self._classes = {kind: ray.remote(recipe.cls) for kind, recipe in recipes.items()}
        self._say = say
        self._members: list[Member] = []
        self._deaths: Counter[tuple[Kind, str]] = Counter()  # in a row, without a finished call
        self._avoided: dict[tuple[Kind, str], Fault] = {}

    @property
    def avoided(self) -> frozenset[tuple[Kind, str]]:
        """(kind, node id) where nothing of that kind is started any more."""
        return frozenset(self._avoided)

    def faults(self, kind: Kind) -> list[Fault]:
        """Return why nodes are avoided for one kind."""
        return [fault for (other, _), fault in self._avoided.items() if other == kind]

    def of(self, kind: Kind) -> list[Member]:
        """Return the actors of one kind, started or ready."""
        return [member for member in self._members if member.kind == kind]

    def free(self, kind: Kind, depth: int) -> list[Member]:
        """Return the ready actors with fewer than ``depth`` calls, the idlest first."""
        free = [member for member in self._members if member.kind == kind and member.ready and member.load < depth]
        return sorted(free, key=lambda member: member.load)

    def start(self, placement: Placement, nodes: Mapping[str, Node]) -> list[tuple[Any, Member]]:
        """Start what is placed and not there yet; return (reference to its first answer, actor) of each."""
        started = []
        for (kind, node_id), count in placement.counts.items():
            for _ in range(count - sum(member.kind == kind and member.node.id == node_id for member in self._members)):
                member = self._make(kind, nodes[node_id])
                self._members.append(member)
                started.append((member.actor.ready.remote(), member))
        return started

    def _make(self, kind: Kind, node: Node) -> Member:
        recipe = self._recipes[kind]
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
        # Ray itself restarts nothing: it knows neither a faulted card nor how often is too often.
        options = {**recipe.options, "scheduling_strategy": strategy, "max_restarts": 0, "max_task_retries": 0}
        return Member(kind, node, self._classes[kind].options(**options).remote(*recipe.arguments))

    def answered(self, member: Member) -> None:
        """Note that an actor has finished a call."""
        member.load -= 1
        self._deaths.pop((member.kind, member.node.id), None)

    def died(self, member: Member, why: str, node_lives: bool) -> bool:
        """Note that an actor ended without a word; too often in a row, and its node is avoided.

        Returns
        -------
        bool
            Whether it ended by itself: not if it was ended here, or is known to be gone.
        """
        if member not in self._members:
            return False
        self._members.remove(member)
        if not node_lives:
            return True
        place = (member.kind, member.node.id)
        self._deaths[place] += 1
        if self._deaths[place] > MOST_RESTARTS:
            self.retire(member, Fault(f"{member.node.name}: {why}, {self._deaths[place]} times in a row"))
        return True

    def retire(self, member: Member, fault: Fault) -> None:
        """End an actor whose machine is at fault, and start none of its kind on its node again.

        The other model actors of the node go on: each has a card of its own. Other kinds share what is at fault.
        """
        self._avoided[member.kind, member.node.id] = fault
        also = [member] if member.kind == "model" else [m for m in self.of(member.kind) if m.node is member.node]
        for one in also:
            if one in self._members:
                self._members.remove(one)
            ray.kill(one.actor)
        if self.of(member.kind):
            self._say(f"a {_WORDS[member.kind]} is out: {fault.message}; the others take its work")

    def leave(self, alive: Mapping[str, Node]) -> None:
        """Forget the actors of nodes that are gone."""
        self._members = [member for member in self._members if member.node.id in alive]

    def close(self) -> None:
        """End all actors."""
        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()

    def describe(self) -> str:
        """Return what starts, works and idles, as a person needs it to see why nothing moves."""
        parts = []
        for kind, word in _WORDS.items():
            members = self.of(kind)
            waiting = [member for member in members if not member.ready]
            if waiting:
                nodes = ", ".join(sorted({member.node.name for member in waiting}))
                parts.append(f"{plural(len(waiting), word)} of {len(members)} cannot start yet on {nodes}")
            calls = sum(member.load for member in members if member.ready)
            if calls:
                parts.append(f"{plural(calls, 'call')} of {plural(len(members), word)} not answered")
            if not members:
                parts.append(f"there is no {word}")
        return "; ".join(parts) or "all actors are idle"
