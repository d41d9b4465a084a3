"""A step asks its device for nothing, so a GPU never runs dry while the program waits for an answer.

Without a GPU, the operations that would wait can still be seen: those whose result, or its shape, depends on values.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tag, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stores import Store
from tests._helpers import coqo_worlds, cra_worlds, frozenbilm
from tests.trainers.coqo.test_task import METHODS
from tests.trainers.coqo.test_task import task as coqo_task
from trainers.coqo.alignment import other_videos
from trainers.cra.task import build
from trainers.distributed import Ranks
from trainers.frozenbilm.task import build as build_frozenbilm
from trainers.task import Task

CPU = Ranks(0, 1, torch.device("cpu"))
CRA: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {
        "loss": {"bidirectional": False, "negatives": 8},
        "model": {"gated": True, "batch_mixing": True, "back": False, "layer_norm": "unbiased", "dim": 16, "heads": 2},
    },
    "temp[clip]": {"model": {"method": "temp_clip", "dim": 16, "heads": 2}},
    "ng": {"model": {"method": "temp_clip", "proposal": "gaussian", "dim": 16, "heads": 2}, "loss": {"vq": 0}},
    "stored": {"text": {"encoder": "stored"}},
}


class Waiting(TorchDispatchMode):
    """Notes the operations for whose result a program waits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        picked = args[1] if func is torch.ops.aten.index.Tensor else None
        by_mask = picked is not None and any(part is not None and part.dtype == torch.bool for part in picked)
        by_shape = picked is None and Tag.dynamic_output_shape in func.tags
        by_value = Tag.data_dependent_output in func.tags and not _is_packed_lstm()
        if by_mask or by_shape or by_value:
            self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def _is_packed_lstm() -> bool:
    """Return whether PyTorch's LSTM is what runs: it reads the batch sizes of a packed sequence, always on the CPU."""
    frame = inspect.currentframe()
    while frame is not None and not frame.f_code.co_filename.endswith("torch/nn/modules/rnn.py"):
        frame = frame.f_back
    return frame is not None


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("waiting")
    return {"coqo": coqo_worlds.world(folder / "coqo"), "cra": cra_worlds.world(folder / "cra")}


def step(task: Task) -> set[str]:
    """Do one step but for the optimiser, and return the operations that would wait."""
    batch = next(iter(task.batches(0, 0)))
    task.model.train()
    with Waiting() as waiting:
        task.loss(batch)["total"].backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        nn.utils.clip_grad_norm_(task.model.parameters(), 12.0)
    return waiting.seen


def test_waiting_is_seen() -> None:
    x = torch.arange(4.0)
    with Waiting() as waiting:
        bool(x.sum()), x[x > 1], x.nonzero(), x[torch.tensor([1, 2])], x + 1
        torch.multinomial(x[None], 1)
    assert waiting.seen == {"aten._local_scalar_dense.default", "aten.index.Tensor", "aten.nonzero.default"}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_coqo_waits_for_nothing_and_uses_all_parameters(roots: dict[str, Path], name: str) -> None:
    task = coqo_task(roots["coqo"], **METHODS[name])
    # AVST matches valid steps, and asks the device how many they are.
    assert step(task) == ({"aten.nonzero.default"} if name == "avst" else set())
    unused = [name for name, parameter in task.model.named_parameters() if parameter.grad is None]
    assert bool(unused) == task.leaves_parameters_unused, unused


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("method", ["posthoc", "gaussian", "cra"])
def test_a_step_of_frozenbilm_waits_for_nothing(roots: dict[str, Path], method: str, recipe: str) -> None:
    settings = frozenbilm.settings(recipe, model={"method": method}, loss={"vq": 1})
    assert step(build_frozenbilm(settings, Store.open(roots["cra"], lease=False), CPU)) == set()


@pytest.mark.parametrize("name", CRA)
def test_a_step_of_cra_waits_for_nothing_and_uses_all_parameters(roots: dict[str, Path], name: str) -> None:
    task = build(cra_worlds.settings(**CRA[name]), Store.open(roots["cra"], lease=False), CPU)
    assert step(task) == set()
    unused = [name for name, parameter in task.model.named_parameters() if parameter.grad is None]
    assert bool(unused) == task.leaves_parameters_unused, unused


def test_partners_are_those_that_multinomial_draws() -> None:
    videos = torch.tensor([0, 1, 1, 2, 0, 3])
    for seed in range(20):
        torch.manual_seed(seed)
        rows, partners = other_videos(videos)
        torch.manual_seed(seed)
        expected = torch.multinomial((videos[:, None] != videos[None]).float(), 1).squeeze(1)
        assert rows.tolist() == list(range(6)) and torch.equal(partners, expected)
