"""Where actors go on clusters of any shape: never more than a node has, every GPU used, nothing waits for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.config import RunConfig
from pipeline.extract.on_ray.placement import Kind, Node, choose_device, decoders_of, model_threads, place
from pipeline.shared import PreflightError, ray_session


def node(name: str, cpus: int, gpus: int = 0, memory_gb: float = 256.0) -> Node:
    return Node(name, name, cpus, gpus, memory_gb, 1 << 30)


def counts(nodes: Sequence[Node], kind: Kind, **run: Any) -> list[int]:
    config = RunConfig(**run)
    placement = place(nodes, config, choose_device(nodes, config))
    return [placement.counts.get((kind, one.id), 0) for one in nodes]


@given(
    sizes=st.lists(st.tuples(st.integers(0, 96), st.integers(0, 8), st.floats(0, 900)), min_size=1, max_size=8),
    workers=st.none() | st.integers(1, 300),
)
def test_no_node_has_more_than_it_has_room_for(sizes: list[tuple[int, int, float]], workers: int | None) -> None:
    """A decode actor takes one CPU, a model actor one GPU and no CPU: so every actor that is placed can start."""
    nodes = [node(str(number), *size) for number, size in enumerate(sizes)]
    run = RunConfig(decode_workers=workers)
    device = choose_device(nodes, run)
    placement = place(nodes, run, device)
    for one in nodes:
        decoders = placement.counts.get(("decode", one.id), 0)
        assert decoders <= one.cpus
        assert decoders <= max(1, one.memory_gb)
        if device == "cuda":
            assert placement.counts.get(("model", one.id), 0) == one.gpus
    if any(one.cpus for one in nodes):
        assert placement.total("decode") >= 1
        assert placement.total("model") >= 1
        assert 1 <= placement.total("write") <= min(8, placement.total("model"))
    if workers is not None:
        assert placement.total("decode") <= workers
    assert model_threads(nodes, placement, run) >= 1


def test_every_node_is_sized_by_itself() -> None:
    """160 GPUs on 20 nodes, and a head of 24 GiB that has no say in it."""
    nodes = [node("head", 0, 0, 24), *(node(f"n{number}", 64, 8) for number in range(20))]
    assert counts(nodes, "decode") == [0] + [56] * 20
    assert counts(nodes, "model") == [0] + [8] * 20
    assert sum(counts(nodes, "write")) == 8


@pytest.mark.parametrize(
    ("sizes", "decoders", "models"),
    [
        (((2, 1), (4, 0)), [1, 4], [1, 0]),
        (((4, 1), (4, 1)), [3, 3], [1, 1]),
        (((0, 2), (8, 0)), [0, 8], [2, 0]),
        (((1, 0),), [1], [1]),
        (((2, 0), (8, 0)), [1, 4], [1, 1]),
        (((0, 0), (2, 0)), [0, 1], [0, 1]),
    ],
)
def test_mixed_clusters(sizes: tuple[tuple[int, int], ...], decoders: list[int], models: list[int]) -> None:
    nodes = [node(str(number), *size) for number, size in enumerate(sizes)]
    assert counts(nodes, "decode") == decoders
    assert counts(nodes, "model") == models


def test_limits_hold_for_the_whole_cluster() -> None:
    nodes = [node("a", 8, 4), node("b", 8, 4)]
    assert counts(nodes, "decode", decode_workers=5) == [3, 2]
    assert counts(nodes, "model", gpus=3) == [2, 1]
    assert counts(nodes, "model", gpus=0) == [1, 1]
    assert counts(nodes, "decode", memory_gb=4) == [3, 3]


def test_little_memory_means_few_decoders() -> None:
    assert decoders_of(node("a", 64, 0, 5), 0, "cuda") == 5
    assert decoders_of(node("a", 64, 1, 5), 1, "cuda") == 4
    assert decoders_of(node("a", 64, 0, 0.2), 0, "cuda") == 1


def test_avoided_places_stay_empty() -> None:
    nodes = [node("a", 4, 1), node("b", 4, 1)]
    avoided: frozenset[tuple[Kind, str]] = frozenset({("model", "a"), ("decode", "b"), ("write", "b")})
    placement = place(nodes, RunConfig(), "cuda", avoided)
    assert dict(placement.counts) == {("model", "b"): 1, ("decode", "a"): 4, ("write", "a"): 1}


def test_a_spare_gpu_takes_over_for_one_that_is_avoided() -> None:
    nodes = [node("a", 4, 1), node("b", 4, 1)]
    run = RunConfig(gpus=1)
    assert place(nodes, run, "cuda").counts["model", "a"] == 1
    assert place(nodes, run, "cuda", frozenset({("model", "a")})).counts["model", "b"] == 1


def test_model_threads_are_those_of_the_smallest_node() -> None:
    nodes = [node("a", 4), node("b", 32)]
    run = RunConfig()
    assert model_threads(nodes, place(nodes, run, "cpu"), run) == 2
    assert model_threads(nodes, place(nodes, run, "cpu"), RunConfig(model_threads=5)) == 5


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"device": "cuda:1"}, r"every actor has its own: use run\.device=cuda"),
        ({"gpus": 2}, "2 asked for, the Ray cluster has 1; .* --wait-for-gpus 2"),
    ],
)
def test_what_a_cluster_cannot_give(run: dict[str, Any], words: str) -> None:
    with pytest.raises(PreflightError, match=words):
        choose_device([node("a", 4, 1)], RunConfig(**run))


def test_no_gpu_at_all() -> None:
    with pytest.raises(PreflightError, match="the Ray cluster has no GPU"):
        choose_device([node("a", 4)], RunConfig(device="cuda"))
    assert choose_device([node("a", 4)], RunConfig()) == "cpu"
    assert choose_device([node("a", 4, 2)], RunConfig(device="cpu")) == "cpu"


def test_dead_nodes_are_not_used() -> None:
    records = [
        {"NodeID": "1" * 40, "Alive": True, "Resources": {"CPU": 3.0, "memory": 2.0**31, "object_store_memory": 7.0}},
        {"NodeID": "2" * 40, "Alive": False, "Resources": {"CPU": 3.0}},
    ]
    assert Node.alive(records) == [Node("1" * 40, "11111111", 3, 0, 2.0, 7)]


class TestWaiting:
    def resources(self, monkeypatch: pytest.MonkeyPatch, *states: dict[str, float]) -> list[Any]:
        """Have the cluster grow by one state a look; return what the autoscaler is asked for."""
        asked: list[Any] = []
        grown = iter(states)
        last = states[-1]
        monkeypatch.setattr(ray_session.ray, "cluster_resources", lambda: next(grown, last))
        monkeypatch.setattr(ray_session.ray.autoscaler.sdk, "request_resources", lambda **what: asked.append(what))
        monkeypatch.setattr(ray_session, "_POLL_S", 0.0)
        return asked

    def test_until_the_cluster_has_grown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The autoscaler is asked once, and the request ends with the run."""
        asked = self.resources(monkeypatch, {}, {"CPU": 2.0}, {"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0})
        said: list[str] = []
        with ray_session.waited_for(4, 1, 60, said.append):
            assert said == ["ray: waiting for 0 of 4 CPUs and 0 of 1 GPUs"]
            assert asked == [{"bundles": [{"CPU": 1}] * 4 + [{"GPU": 1}]}]
        assert asked[1:] == [{"bundles": []}]

    def test_a_run_that_waits_for_nothing_asks_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = self.resources(monkeypatch, {"CPU": 2.0})
        with ray_session.waited_for(0, 0, 60, lambda line: pytest.fail(line)):
            assert asked == []

    def test_not_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = self.resources(monkeypatch, {"CPU": 1.0})
        with (
            pytest.raises(PreflightError, match=r"has 1 of 2 CPUs after .*--wait-for-cpus"),
            ray_session.waited_for(2, 0, 0.01, lambda line: None),
        ):
            pass
        assert asked[-1] == {"bundles": []}
