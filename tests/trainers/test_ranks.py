"""Two ranks are one run: they stop together, average all gradients, and do not wait for one another in every step."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing, nn

from tests._helpers.toy_task import Clouds, Points
from trainers import checkpoint
from trainers.config import LoopConfig
from trainers.distributed import STOP_LAG, Asked, Ranks, join, leave
from trainers.errors import TrainingError
from trainers.folder import BEST, JOURNAL
from trainers.loop import Outcome, train
from trainers.progress import Progress

STEPS = 12


def loop(**more: Any) -> LoopConfig:
    return LoopConfig(**{"epochs": 2, "lr": 0.01, "log_steps": 1, "threads": 1, "tensorboard": False, **more})


class Signalled(Clouds):
    """A rank that gets SIGTERM just before an optimiser step."""

    def __init__(self, ranks: Ranks, at: int | None) -> None:
        super().__init__(STEPS, ranks.rank)
        self.at = at

    def batches(self, epoch: int, start_step: int) -> Iterator[Points]:
        for step, points in enumerate(super().batches(epoch, start_step), epoch * STEPS + start_step + 1):
            if step == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield points


class Spare(Clouds):
    """A model with a parameter that only odd steps use."""

    def __init__(self, rank: int, declared: bool) -> None:
        super().__init__(STEPS, rank)
        self.model.register_parameter("spare", nn.Parameter(torch.ones(())))
        self.leaves_parameters_unused = declared
        self.step = 0

    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        losses = super().loss(batch)
        self.step += 1
        return {**losses, "total": losses["total"] + (self.model.spare if self.step % 2 == 0 else 0)}


def run(task: Clouds, folder: Path, ranks: Ranks, **more: Any) -> Outcome:
    return train(task, loop(**more), folder, ranks, Progress())


def note(folder: Path, rank: int, **facts: Any) -> None:
    (folder / f"rank{rank}.json").write_text(json.dumps(facts))


def noted(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def on_one(rank: int, scenario: Callable[[Ranks, Path], None], folder: Path) -> None:
    """Run a scenario on one of two ranks; what the process prints goes to a file."""
    os.dup2(os.open(folder / f"stderr{rank}", os.O_WRONLY | os.O_CREAT), 2)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ranks = join("cpu")
    try:
        scenario(ranks, folder)
    finally:
        leave()


def on_two(scenario: Callable[[Ranks, Path], None], folder: Path) -> None:
    multiprocessing.spawn(on_one, (scenario, folder), nprocs=2)  # type: ignore[no-untyped-call]  # torch does not annotate it


def stop_and_resume(ranks: Ranks, folder: Path) -> None:
    whole = run(Signalled(ranks, None), folder / "whole", ranks)
    for rank in range(2):
        for at in (1, 4, 5, STEPS - 1, STEPS, STEPS + 2):
            out, mine = folder / f"{rank}_{at}", at if ranks.rank == rank else None
            stopped = run(Signalled(ranks, mine), out, ranks)
            kept = checkpoint.load_last(out)
            assert kept is not None
            note(out, ranks.rank, steps=stopped.steps, signal=stopped.stopped_by, kept=kept["step"])
            ranks.barrier()
            assert run(Signalled(ranks, None), out, ranks).steps == whole.steps


@pytest.mark.slow
def test_ranks_stop_together_soon_and_resume_with_the_same_losses(tmp_path: Path) -> None:
    on_two(stop_and_resume, tmp_path)
    for out in tmp_path.glob("[01]_*"):
        at = int(out.name.partition("_")[2])
        facts = noted(out)
        assert facts[0] == facts[1] and facts[0]["signal"] == signal.SIGTERM
        steps = facts[0]["steps"]
        assert at <= steps <= min(at + 2 * STOP_LAG, STEPS if at <= STEPS else 2 * STEPS)
        assert facts[0]["kept"] == steps
        assert (out / JOURNAL).read_text() == (tmp_path / "whole" / JOURNAL).read_text()
        assert (out / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    assert len(list(tmp_path.glob("[01]_*"))) == 12


def count_exchanges(ranks: Ranks, folder: Path) -> None:
    """Record what ranks exchange in an epoch, apart from gradients."""
    seen: list[tuple[str, bool]] = []
    plain = distributed.all_reduce

    def recorded(tensor: torch.Tensor, op: Any, group: Any, async_op: bool = False) -> Any:
        seen.append((distributed.get_backend(group), async_op))
        return plain(tensor, op, group, async_op)

    distributed.all_reduce = recorded
    elsewhere = replace(ranks, device=torch.device("meta"))  # what is said must not touch the device
    asked = Asked(elsewhere)
    answers = [asked(ranks.rank == 1 and step >= 4) for step in range(STEPS)]
    asked.settle()
    note(folder, ranks.rank, seen=seen, answers=answers, heard=elsewhere.hear("x" if ranks.rank == 0 else None))
    elsewhere.barrier()
    assert elsewhere.agree(ranks.rank == 1) and not elsewhere.agree(False)


@pytest.mark.slow
def test_an_answer_is_the_same_everywhere_and_no_step_waits_for_it(tmp_path: Path) -> None:
    on_two(count_exchanges, tmp_path)
    first, second = noted(tmp_path)
    assert first == second
    assert first["heard"] == "x"
    assert first["answers"].index(True) == 4 + 3  # said after step 4, begun after step 5, read after step 7
    assert len(first["seen"]) <= STEPS // STOP_LAG and all(kind == ["gloo", True] for kind in first["seen"])


def test_a_single_process_hears_itself_at_once() -> None:
    asked = Asked(Ranks(0, 1, torch.device("cpu")))
    assert [asked(flag) for flag in (False, True, False)] == [False, True, False]


def test_the_gpu_is_the_one_that_the_launcher_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray hides or shows GPUs as it is set up, so the number of a local rank may be no GPU's number."""
    chosen: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    given = torch.device("cuda", 0)
    devices = [join(name, own).device for own in (given, None) for name in ("auto", "cuda", "cuda:1", "cpu")]
    assert [str(device) for device in devices] == [
        *("cuda:0", "cuda:0", "cuda:1", "cpu"),
        *("cuda:3", "cuda:3", "cuda:1", "cpu"),
    ]
    assert chosen == [device for device in devices if device.type == "cuda"]


def train_plain_and_spare(ranks: Ranks, folder: Path) -> None:
    run(Clouds(STEPS, ranks.rank), folder / "plain", ranks)
    note(folder, ranks.rank, printed_by_plain=(folder / f"stderr{ranks.rank}").read_text())
    assert run(Spare(ranks.rank, declared=True), folder / "spare", ranks).steps == 2 * STEPS
    with pytest.raises(TrainingError, match="Spare: no loss depends on spare, which several ranks cannot average"):
        run(Spare(ranks.rank, declared=False), folder / "undeclared", ranks)


@pytest.mark.slow
def test_unused_parameters_are_looked_for_where_a_method_has_them(tmp_path: Path) -> None:
    """PyTorch prints a warning if it is asked to look and finds none."""
    on_two(train_plain_and_spare, tmp_path)
    for facts in noted(tmp_path):
        assert "find_unused_parameters" not in facts["printed_by_plain"]
    assert json.loads((tmp_path / "spare" / JOURNAL).read_text().splitlines()[0])["step"] == 1
