"""Decides how many actors of each kind run on which node. Pure: it knows nodes by their numbers alone.

Every node is judged by its own CPUs, GPUs and memory. A GPU has one model actor, which asks for no CPU: a decoder that
takes the last CPU of a node must never keep its GPU idle. Without GPUs every node has one model actor beside its
decoders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.extract.config import RunConfig
from pipeline.shared import PreflightError
from pipeline.shared.sizing import decoders_that_fit, most_model_threads
from settings.messages import plural

Kind = Literal["decode", "model", "write"]
_MOST_WRITERS = 8  # of a cluster: more would only compete for the filesystem


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive.

    Attributes
    ----------
    id, name
        Ray's id, and the name that a person knows.
    cpus, gpus
        What Ray may schedule there.
    memory_gb
        Memory that Ray may schedule there, in GiB.
    store_bytes
        Size of its object store.
    """

    id: str
    name: str
    cpus: int
    gpus: int
    memory_gb: float
    store_bytes: int

    @classmethod
    def alive(cls, records: Iterable[Mapping[str, Any]]) -> list[Node]:
        """Read what ``ray.nodes()`` says."""
        return [
            cls(
                id=record["NodeID"],
                name=record.get("NodeManagerHostname") or record["NodeID"][:8],
                cpus=int(record["Resources"].get("CPU", 0)),
                gpus=int(record["Resources"].get("GPU", 0)),
                memory_gb=record["Resources"].get("memory", 0) / 2**30,
                store_bytes=int(record["Resources"].get("object_store_memory", 0)),
            )
            for record in records
            if record["Alive"]
        ]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where actors run.

    Attributes
    ----------
    counts
        (kind, node id) to the number of actors.
    """

    counts: Mapping[tuple[Kind, str], int]

    def total(self, kind: Kind) -> int:
        """Return the number of actors of one kind."""
        return sum(count for (other, _), count in self.counts.items() if other == kind)

    def describe(self, nodes: Sequence[Node], device: str, threads: int) -> str:
        """Return the placement as one line for a person."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        where = "cuda" if device == "cuda" else f"cpu with {plural(threads, 'thread')}"
        return (
            f"{plural(len(nodes), 'node')}, {plural(cpus, 'CPU')}, {plural(gpus, 'GPU')}: "
            f"{plural(self.total('decode'), 'decode actor')}, {plural(self.total('model'), 'model actor')} on {where}, "
            f"{plural(self.total('write'), 'writer')}"
        )


def choose_device(nodes: Sequence[Node], run: RunConfig) -> Literal["cpu", "cuda"]:
    """Choose where models run.

    Raises
    ------
    PreflightError
        If the configuration wants GPUs that the cluster does not have.
    """
    gpus = sum(node.gpus for node in nodes)
    if run.device.startswith("cuda:"):
        raise PreflightError(
            f"run.device: {run.device} names a card of one machine; on Ray every actor has its own: use run.device=cuda"
        )
    if run.gpus is not None and run.gpus > gpus:
        raise PreflightError(
            f"run.gpus: {run.gpus} asked for, the Ray cluster has {gpus}; lower run.gpus, or wait for them with "
            f"--wait-for-gpus {run.gpus}"
        )
    if run.device == "cuda" and not gpus:
        raise PreflightError(
            "run.device: cuda asked for, but the Ray cluster has no GPU; use run.device=cpu, or --wait-for-gpus N"
        )
    return "cuda" if run.device != "cpu" and gpus and run.gpus != 0 else "cpu"


def place(
    nodes: Sequence[Node], run: RunConfig, device: str, avoided: frozenset[tuple[Kind, str]] = frozenset()
) -> Placement:
    """Place actors on the nodes.

    Parameters
    ----------
    nodes
        The nodes that are alive.
    run
        ``gpus`` and ``decode_workers`` are the most that the whole cluster runs.
    device
        ``cuda`` or ``cpu``: where models run.
    avoided
        (kind, node id) where nothing of that kind is started any more.
    """
    counts: Counter[tuple[Kind, str]] = Counter()
    usable = [node for node in nodes if ("model", node.id) not in avoided]
    if device == "cuda":
        _spread(counts, "model", {node.id: node.gpus for node in usable}, run.gpus)
    else:
        _spread(counts, "model", {node.id: min(node.cpus, 1) for node in usable}, None)
    decoders = {
        node.id: decoders_of(node, counts["model", node.id], device, run.memory_gb)
        for node in nodes
        if node.cpus and ("decode", node.id) not in avoided
    }
    _spread(counts, "decode", decoders, run.decode_workers)
    models = sum(count for (kind, _), count in counts.items() if kind == "model")
    hosts = {node.id: _MOST_WRITERS for node in nodes if counts["model", node.id] and ("write", node.id) not in avoided}
    others = {node.id: _MOST_WRITERS for node in nodes if node.cpus and ("write", node.id) not in avoided}
    _spread(counts, "write", hosts or others, max(1, min(models, _MOST_WRITERS)))
    return Placement({place: count for place, count in counts.items() if count})


def decoders_of(node: Node, models: int, device: str, memory_gb: float | None = None) -> int:
    """Return the number of decode actors of one node."""
    memory_gb = min(node.memory_gb, memory_gb or node.memory_gb)
    if not models:
        return max(1, min(node.cpus, int(memory_gb)))
    return decoders_that_fit(node.cpus, models if device == "cuda" else 0, memory_gb)


def model_threads(nodes: Sequence[Node], placement: Placement, run: RunConfig) -> int:
    """Return the CPU threads of every model actor: as many as the smallest node has left, so that rows are the same."""
    if run.model_threads is not None:
        return run.model_threads
    left = [
        node.cpus - placement.counts.get(("decode", node.id), 0)
        for node in nodes
        if placement.counts.get(("model", node.id))
    ]
    return most_model_threads(min(left, default=1))


def _spread(counts: Counter[tuple[Kind, str]], kind: Kind, room: Mapping[str, int], most: int | None) -> None:
    """Give one actor to each node with room in turn, until all room is used, or ``most`` actors are placed."""
    left = sum(room.values()) if most is None else most
    while left > 0:
        before = left
        for node, most_here in room.items():
            if left > 0 and counts[kind, node] < most_here:
                counts[kind, node] += 1
                left -= 1
        if left == before:
            return
