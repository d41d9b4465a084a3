"""Training on a GPU: one step is near the CPU's, and whole runs end with metrics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from stores import Store
from tests._helpers import coqo_building, coqo_worlds, cra_worlds
from trainers.coqo.config import CoqoConfig
from trainers.coqo.losses import objective
from trainers.coqo.task import build as build_coqo
from trainers.coqo.task import build_model
from trainers.cra.task import build as build_cra
from trainers.distributed import Ranks
from trainers.loop import evaluate, train
from trainers.progress import Progress
from trainers.task import Task

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
QUIET = Console(quiet=True)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: part.grad.cpu() for name, part in model.named_parameters() if part.grad is not None}


def assert_near(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    """Gradients are sums in another order; those near 0 are held to the largest of their tensor."""
    assert found.keys() == truth.keys()
    for name, expected in truth.items():
        largest = float(expected.abs().max())
        assert torch.allclose(found[name], expected, rtol=1e-3, atol=1e-3 * largest + 1e-7), name


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch dropout off: its masks differ between devices."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return model


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_step_of_coqo_is_near_the_cpu_s(cuda: torch.device, checkpoint: bool) -> None:
    config = coqo_building.settings(dropout=0.0, qgt={"dropout": 0.0}, checkpoint=checkpoint)
    batch = coqo_building.inputs()
    found = {}
    for device in (CPU, cuda):
        torch.manual_seed(0)
        model = without_dropout(build_model(config, coqo_building.sizes())).to(device).train()
        inputs = batch.to(device)
        answers = model(inputs.words, inputs.q_mask, inputs.audio, inputs.visual, inputs.videos)
        losses = objective(answers, inputs.labels, config.loss)
        losses["total"].backward()
        found[device.type] = ({name: float(value) for name, value in losses.items()}, gradients(model))
    for name, expected in found["cpu"][0].items():
        assert found[cuda.type][0][name] == pytest.approx(expected, rel=1e-4), name
    assert_near(found[cuda.type][1], found["cpu"][1])


def test_a_step_of_cra_is_near_the_cpu_s(cuda: torch.device, tmp_path: Path) -> None:
    root = cra_worlds.world(tmp_path / "store")
    config = cra_worlds.settings(
        text={"dropout": 0.0}, model={"dropout": 0.0, "decoder_dropout": 0.0, "attention_dropout": 0.0}
    )
    found = {}
    for device in (CPU, cuda):
        task = build_cra(config, Store.open(root, lease=False), Ranks(0, 1, device))
        without_dropout(task.model).to(device).train()
        losses = task.loss(next(task.batches(0, 0)).to(device))
        losses["total"].backward()
        found[device.type] = ({name: float(value) for name, value in losses.items()}, gradients(task.model))
    for name, expected in found["cpu"][0].items():
        assert found[cuda.type][0][name] == pytest.approx(expected, rel=1e-4), name
    assert_near(found[cuda.type][1], found["cpu"][1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", ["coqo", "cra"])
def test_a_run_ends_with_metrics_and_continues(cuda: torch.device, tmp_path: Path, method: str, precision: str) -> None:
    """A second call of the same run finds its checkpoint and scores the same, so tensors came back to the device."""
    ranks = Ranks(0, 1, cuda)
    loop = {"epochs": 2, "precision": precision, "device": cuda.type, "tensorboard": False}
    task: Task
    if method == "coqo":
        data = {"dataset": "toy", "audio": "sound", "visual": "maps", "batch_videos": 8}
        coqo = CoqoConfig.model_validate({"data": data, "model": coqo_building.SMALL, "loop": loop})
        task, settings = (
            build_coqo(coqo, Store.open(coqo_worlds.world(tmp_path / "store"), lease=False), ranks),
            coqo.loop,
        )
    else:
        cra = cra_worlds.settings(loop=loop)
        task, settings = build_cra(cra, Store.open(cra_worlds.world(tmp_path / "store"), lease=False), ranks), cra.loop
    outcome = train(task, settings, tmp_path / "run", ranks, Progress(console=QUIET))
    assert outcome.steps == 2 * task.steps_per_epoch() and outcome.best_epoch in (1, 2)
    assert all(math.isfinite(value) for value in outcome.best.values())
    before = evaluate(task, task.splits()[0], settings, ranks).metrics
    again = train(task, settings, tmp_path / "run", ranks, Progress(console=QUIET))
    assert again.steps == outcome.steps and again.best == outcome.best
    assert evaluate(task, task.splits()[0], settings, ranks).metrics == before
