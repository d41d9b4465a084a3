"""``data.preload``: where features are kept changes no loss, and a GPU without room is refused before it is filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stores import Store
from tests._helpers import coqo_worlds, cra_worlds, frozenbilm
from tests.trainers.coqo.test_task import settings as coqo_settings
from trainers.coqo.task import build as build_coqo
from trainers.cra.task import build as build_cra
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.folder import JOURNAL
from trainers.frozenbilm.task import build as build_frozenbilm
from trainers.loop import evaluate, train
from trainers.preload import Where, keep
from trainers.progress import Progress
from trainers.scaling import standardise
from trainers.transfer import moved

CPU = Ranks(0, 1, torch.device("cpu"))
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("preload")
    grounding = cra_worlds.world(folder / "cra")
    return {"coqo": coqo_worlds.world(folder / "coqo"), "cra": grounding, "frozenbilm": grounding}


def make(method: str, root: Path, where: Where, **data: Any) -> Any:
    loop = {"epochs": 2, "threads": 1, "log_steps": 1, "tensorboard": False}
    store = Store.open(root, lease=False)
    if method == "coqo":
        return build_coqo(coqo_settings({"preload": where, **data}, loop), store, CPU)
    if method == "frozenbilm":
        return build_frozenbilm(frozenbilm.settings(data={"preload": where, **data}, loop=loop), store, CPU)
    return build_cra(cra_worlds.settings(data={"preload": where, "tests": [], **data}, loop=loop), store, CPU)


@pytest.mark.parametrize("method", ["cra", "coqo", "frozenbilm"])
def test_losses_and_predictions_are_equal_wherever_features_are_kept(
    roots: dict[str, Path], tmp_path: Path, method: str
) -> None:
    tasks = {where: make(method, roots[method], where, standardise=True) for where in ("none", "ram")}
    for where, task in tasks.items():
        train(task, task.config.loop, tmp_path / where, CPU, Progress())
    assert (tmp_path / "none" / JOURNAL).read_bytes() == (tmp_path / "ram" / JOURNAL).read_bytes()
    scored = [json.dumps(evaluate(task, "val", task.config.loop, CPU).predictions) for task in tasks.values()]
    assert scored[0] == scored[1]
    # A run may go on with another value: it has nothing to do.
    assert train(tasks["ram"], tasks["ram"].config.loop, tmp_path / "none", CPU, Progress()).steps


@pytest.mark.parametrize("method", ["cra", "coqo", "frozenbilm"])
def test_what_is_kept_is_not_read_again(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    tasks = {where: make(method, roots[method], where) for where in ("none", "ram")}
    reads = []
    monkeypatch.setattr("stores.loading.gather.FeatureRows.gather", lambda *given: reads.append(given) or 1 / 0)
    assert len(list(tasks["ram"].batches(0, 0))) == tasks["ram"].steps_per_epoch() and not reads
    with pytest.raises(ZeroDivisionError):
        next(iter(tasks["none"].batches(0, 0)))


@pytest.mark.parametrize("method", ["cra", "coqo", "frozenbilm"])
def test_gpu_without_a_gpu_is_one_line(roots: dict[str, Path], method: str) -> None:
    with pytest.raises(TrainingError) as refused:
        make(method, roots[method], "gpu")
    assert str(refused.value) == "data.preload=gpu: this run trains on cpu; use data.preload=ram or none"


def test_features_that_do_not_fit_are_refused_with_both_numbers(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps of 6 steps of 2 x 2 x 4 float16 and sound of 6 x 5 float32 are 312 bytes a video; 24 + 8 + 8 videos."""
    task = make("coqo", roots["coqo"], "none")
    datasets = [task.train, *task.scored.values()]
    assert sum(dataset.table.resident_bytes for dataset in datasets) == 40 * 312
    asked = []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: asked.append(device) or (12_000, 80_000))
    with pytest.raises(TrainingError) as refused:
        keep(datasets, "gpu", GPU)
    needs = "the features need 1.25e-05 GB, and 1.2e-05 GB of cuda:0 are free"
    assert str(refused.value) == f"data.preload=gpu: {needs}; use data.preload=ram or none" and asked == [GPU]


def test_what_is_kept_already_needs_no_more_room(roots: dict[str, Path]) -> None:
    table = make("coqo", roots["coqo"], "none").train.table
    assert table.resident_bytes == 24 * 312
    table.keep("cpu")
    assert table.resident_bytes == 0


class Recorded(torch.Tensor):
    """A tensor that notes where it was asked to go."""

    asked: list[tuple[str, Any]]

    def pin_memory(self, device: Any = None) -> Recorded:
        self.asked.append(("pin", None))
        return self

    def to(self, *where: Any, **how: Any) -> Any:
        self.asked.append((str(where[0]), how["non_blocking"]))
        return self


def test_a_copy_to_a_gpu_that_does_not_block_is_made_from_pinned_memory() -> None:
    """There is no GPU here; what would be asked of it can be seen."""
    for where, non_blocking, expected in (
        (GPU, True, [("pin", None), ("cuda:0", True)]),
        (GPU, False, [("cuda:0", False)]),
        (CPU.device, True, [("cpu", True)]),
    ):
        tensor = torch.zeros(2).as_subclass(Recorded)
        tensor.asked = []
        moved(tensor, where, non_blocking)
        assert tensor.asked == expected


def test_every_tensor_of_a_batch_goes_that_way(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the lengths of questions, which packing reads on the CPU."""
    for method, names in (("cra", "trainers.cra.data"), ("coqo", "trainers.coqo.data")):
        batch = next(iter(make(method, roots[method], "none").batches(0, 0)))
        seen: list[torch.Tensor] = []

        def note(tensor: torch.Tensor, where: torch.device, non_blocking: bool = False) -> torch.Tensor:
            assert non_blocking
            seen.append(tensor)  # noqa: B023
            return tensor.to(where)

        monkeypatch.setattr(f"{names}.moved", note)
        monkeypatch.setattr("trainers.coqo.layout.moved", note)
        there = batch.to(torch.device("meta"), non_blocking=True)
        assert len(seen) == (8 if method == "cra" else 13)
        if method == "coqo":
            assert there.layout.lengths.device.type == "cpu" and there.words.device.type == "meta"
        else:
            assert there.video.device.type == there.options.candidates.device.type == "meta"


def test_standardising_is_measured_in_memory_whatever_keeps_the_rows(roots: dict[str, Path]) -> None:
    kept, read = (make("coqo", roots["coqo"], where) for where in ("ram", "none"))
    for name in ("audio", "visual"):
        first, second = standardise(kept.train, name), standardise(read.train, name)
        assert torch.equal(first.mean, second.mean) and torch.equal(first.std, second.std)
        assert first.mean.device.type == "cpu"
