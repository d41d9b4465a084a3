"""The loop: the same run whatever interrupts it, checkpoints that are whole, schedules as published."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests._helpers.toy_task import Clouds
from tests.conftest import ROOT
from trainers import checkpoint, find_method, resume, schedule
from trainers.config import LoopConfig
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.folder import BEST, JOURNAL, LAST, SETTINGS
from trainers.loggers import Loggers
from trainers.loop import Outcome, train
from trainers.progress import Progress

ALONE = Ranks(0, 1, torch.device("cpu"))


def loop(**more: Any) -> LoopConfig:
    return LoopConfig(**{"epochs": 3, "lr": 0.01, "log_steps": 1, "threads": 1, "tensorboard": False, **more})


def run(folder: Path, task: Clouds | None = None, **more: Any) -> Outcome:
    config = loop(**more)
    with Loggers(folder, config.chosen_loggers) as loggers:
        return train(task or Clouds(), config, folder, ALONE, Progress(), loggers=loggers)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]


def start(folder: Path, *before: str, task: dict[str, Any] | None = None, **more: Any) -> subprocess.Popen[str]:
    options = json.dumps({"loop": loop(**more).model_dump(), "task": task or {}})
    command = [*(before or (sys.executable,)), "-m", "tests._helpers.toy_task", str(folder), options]
    return subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE)


def test_training_learns_and_one_seed_is_one_run(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", epochs=8), run(tmp_path / "b", epochs=8)
    assert journal(tmp_path / "a") == journal(tmp_path / "b") and first == second
    losses = [line["total"] for line in journal(tmp_path / "a") if line["kind"] == "train"]
    assert len(losses) == 40 and sum(losses[-10:]) < 0.7 * sum(losses[:10])
    other = run(tmp_path / "c", epochs=8, seed=1)
    assert other.steps == 40 and journal(tmp_path / "c") != journal(tmp_path / "a")


def test_a_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    lines = journal(tmp_path)
    assert run(tmp_path) == outcome and journal(tmp_path) == lines


@pytest.mark.parametrize("kill_at", [3, 7, 10])
def test_after_kill_9_the_losses_go_on_from_the_last_checkpoint(tmp_path: Path, kill_at: int) -> None:
    run(tmp_path / "whole", checkpoint_steps=2)
    killed = start(tmp_path / "killed", task={"break_at": kill_at}, checkpoint_steps=2)
    assert killed.wait(120) == -signal.SIGKILL
    assert checkpoint.load_last(tmp_path / "killed")["step"] in (kill_at, kill_at - 1)  # type: ignore[index]  # not None after a kill
    run(tmp_path / "killed", checkpoint_steps=2)
    assert journal(tmp_path / "killed") == journal(tmp_path / "whole")
    weights = [checkpoint.load_last(tmp_path / name)["model"] for name in ("whole", "killed")]  # type: ignore[index]  # not None after a kill
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("step", [4, 5, 15])  # within an epoch, at the end of one (validated first), at the very end
def test_a_signal_ends_the_run_at_the_next_step_with_a_checkpoint(tmp_path: Path, step: int) -> None:
    class Interrupted(Clouds):
        def loss(self, batch: Any) -> dict[str, torch.Tensor]:
            if threading.current_thread() is threading.main_thread() and batch.y.sum() >= 0:
                self.seen = getattr(self, "seen", 0) + 1
                if self.seen == step:
                    os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(batch)

    handler = signal.getsignal(signal.SIGTERM)
    outcome = run(tmp_path / "stopped", Interrupted())
    assert outcome.stopped_by is signal.SIGTERM and outcome.steps == step
    assert signal.getsignal(signal.SIGTERM) is handler
    assert run(tmp_path / "stopped") == run(tmp_path / "whole")
    assert journal(tmp_path / "stopped") == journal(tmp_path / "whole")


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(TrainingError, match=r"holds a run with other settings \(loop.lr: 0.01 there, 0.02 now\)"):
        run(tmp_path, lr=0.02)
    with pytest.raises(TrainingError, match=r"task.steps: 5 there, 6 now"):
        run(tmp_path, Clouds(steps=6))
    with pytest.raises(TrainingError, match=r"\(loop.lr: 0.01 there, 0.02 now; loop.seed: 2024 there, 3 now\); name"):
        run(tmp_path, lr=0.02, seed=3)
    run(tmp_path, log_steps=2)


class Described(Clouds):
    """Clouds of a method, which may have been trained on rows of another version of a store."""

    def __init__(self, method: str = "clouds", rows: int = 1, **settings: Any) -> None:
        super().__init__()
        self.description = {"method": method, "settings": settings, "rows": rows}

    def describe(self) -> Any:
        return self.description


def test_a_run_is_itself_before_its_first_checkpoint(tmp_path: Path) -> None:
    """A run that failed before it saved anything: what was chosen must be the same, what the store gave may not be."""
    with pytest.raises(TrainingError, match="not finite"):
        run(tmp_path, Described(scaled=1), lr=float("1e30"), precision="float16")
    before = (tmp_path / SETTINGS).read_bytes()
    for task, more, says in (
        (Described("points", scaled=2), {}, r"is a run of clouds, not of points; name another --out"),
        (Described(scaled=2), {}, r"task.settings.scaled: 1 there, 2 now\); name another --out, or remove the folder"),
        (Described(scaled=1), {"lr": 0.1}, r"loop.lr: 1e\+30 there, 0.1 now"),
    ):
        with pytest.raises(TrainingError, match=says):
            run(tmp_path, task, **{"lr": float("1e30"), "precision": "float16", **more})
    assert (tmp_path / SETTINGS).read_bytes() == before
    with pytest.raises(TrainingError, match="not finite"):  # it began
        run(tmp_path, Described(scaled=1, rows=2), lr=float("1e30"), precision="float16")
    assert json.loads((tmp_path / SETTINGS).read_text())["task"]["rows"] == 2


def test_a_run_of_another_method_is_called_that_first(tmp_path: Path) -> None:
    run(tmp_path, Described("clouds"))
    with pytest.raises(TrainingError) as refused:
        run(tmp_path, Described("points"), lr=0.5, seed=9)
    assert str(refused.value) == f"{tmp_path}: is a run of clouds, not of points; name another --out"


def test_a_run_stays_with_the_rows_that_it_learned_from(tmp_path: Path) -> None:
    """The store may be moved, not exchanged."""
    first = {"path": "/a", "manifest": "1" * 64}
    train(Clouds(), loop(), tmp_path, ALONE, Progress(), first)
    train(Clouds(), loop(), tmp_path, ALONE, Progress(), {**first, "path": "/b"})
    with pytest.raises(TrainingError, match="store: /a with other rows there, /c now"):
        train(Clouds(), loop(), tmp_path, ALONE, Progress(), {"path": "/c", "manifest": "2" * 64})


@pytest.mark.parametrize("schedule", ["constant", "staircase"])
def test_more_epochs_continue_a_run_whose_schedule_does_not_know_the_last(tmp_path: Path, schedule: str) -> None:
    run(tmp_path / "whole", epochs=3, schedule=schedule, decay_epochs=1)
    run(tmp_path / "parts", epochs=2, schedule=schedule, decay_epochs=1)
    assert run(tmp_path / "parts", epochs=3, schedule=schedule, decay_epochs=1).steps == 15
    assert journal(tmp_path / "parts") == journal(tmp_path / "whole")
    assert json.loads((tmp_path / "parts" / SETTINGS).read_text())["loop"]["epochs"] == 3
    assert (tmp_path / "parts" / BEST).read_bytes()[-200:] == (tmp_path / "whole" / BEST).read_bytes()[-200:]
    with pytest.raises(TrainingError, match="has trained 3 epochs already, and 2 are asked for"):
        run(tmp_path / "parts", epochs=2, schedule=schedule, decay_epochs=1)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_schedule_that_ends_says_why_it_cannot_go_on(tmp_path: Path, kind: str) -> None:
    run(tmp_path, epochs=2, schedule=kind)
    with pytest.raises(
        TrainingError, match=rf"\(loop.epochs: 2 there, 3 now\); the {kind} schedule ends with the last"
    ):
        run(tmp_path, epochs=3, schedule=kind)


def test_a_run_from_before_a_setting_goes_on_with_what_it_had(tmp_path: Path) -> None:
    """``loop.betas`` came later; whoever had none had Adam's own."""
    run(tmp_path / "old", epochs=2, schedule="constant")
    settings = json.loads((tmp_path / "old" / SETTINGS).read_text())
    assert settings["loop"].pop("betas") == [0.9, 0.999]
    (tmp_path / "old" / SETTINGS).write_text(json.dumps(settings))
    state = checkpoint.load_last(tmp_path / "old")
    assert state is not None
    checkpoint.save_last(tmp_path / "old", {**state, "settings": json.dumps(settings)})
    run(tmp_path / "old", epochs=3, schedule="constant")
    with pytest.raises(TrainingError, match=r"loop\.betas: \[0\.9, 0\.999\] there, \[0\.9, 0\.95\] now"):
        run(tmp_path / "old", epochs=3, schedule="constant", betas=(0.9, 0.95))


@pytest.mark.parametrize(
    ("method", "later"), [("cra", ("data", "inputs")), ("cra", ("data", "graphs")), ("coqo", ("answer",))]
)
def test_a_run_of_a_method_from_before_a_setting_goes_on(method: str, later: tuple[str, ...]) -> None:
    today = find_method(method).settings().model_dump(mode="json")
    older = copy.deepcopy(today)
    section = older
    for name in later[:-1]:
        section = section[name]
    del section[later[-1]]
    written = json.dumps({"task": {"method": method, "settings": older}, "loop": {}, "world": 1})
    assert resume.parse_settings(Path("settings.json"), written)["task"]["settings"] == today


def test_validation_may_be_rarer_than_epochs(tmp_path: Path) -> None:
    run(tmp_path / "always")
    run(tmp_path / "rare", validate_epochs=2)
    epochs = {
        name: [line["epoch"] for line in journal(tmp_path / name) if line["kind"] == "val"]
        for name in ("always", "rare")
    }
    assert epochs == {"always": [1, 2, 3], "rare": [2, 3]}
    trained = [[line for line in journal(tmp_path / name) if line["kind"] == "train"] for name in ("always", "rare")]
    assert trained[0] == trained[1]


def test_patience_ends_a_run_for_good(tmp_path: Path) -> None:
    class Worse(Clouds):
        def evaluate(self, split: str) -> Any:
            self.score = getattr(self, "score", 100.0) - 1
            return type(super().evaluate(split))({"accuracy": self.score})

    task = Worse()
    assert run(tmp_path, task, epochs=9, patience=2).steps == 15
    assert run(tmp_path, task, epochs=9, patience=2).steps == 15


def test_a_loss_that_is_not_finite_is_refused_and_never_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite in epoch 1, at or before step 1"):
        run(tmp_path, Clouds(scale=float("nan")))
    assert checkpoint.load_last(tmp_path) is None


def test_the_best_checkpoint_says_what_it_is_and_fits_only_its_model(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    path = tmp_path / BEST
    description = checkpoint.read_description(path)
    assert description["task"] == {"steps": 5} and description["val"] == outcome.best
    assert description["epoch"] == outcome.best_epoch and description["loop"]["lr"] == 0.01
    model = Clouds().model
    checkpoint.load_best(path, model)
    with pytest.raises(TrainingError, match="does not fit the model"):
        checkpoint.load_best(path, nn.Linear(2, 2))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="not readable"):
        checkpoint.read_description(path)
    (tmp_path / LAST).write_bytes(b"x")
    with pytest.raises(TrainingError, match="remove it to start anew"):
        run(tmp_path)


def test_a_crash_in_the_middle_of_a_checkpoint_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoint.save_last(tmp_path, {"step": 1})
    with pytest.raises(AttributeError):
        checkpoint.save_last(tmp_path, {"step": lambda: 2})
    assert checkpoint.load_last(tmp_path) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_resumes(tmp_path: Path, precision: str) -> None:
    run(tmp_path / "whole", precision=precision, epochs=2)
    run(tmp_path / "parts", precision=precision, epochs=2, checkpoint_steps=3)
    assert journal(tmp_path / "whole")[-1] == journal(tmp_path / "parts")[-1]
    losses = [line["total"] for line in journal(tmp_path / "whole") if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_the_published_schedule() -> None:
    """CRA: 533 steps of warm-up, 15,990 in all, cosine to a thousandth."""
    values = [schedule.cosine(step, 533, 15_990, 1e-3) for step in (0, 533, 533 + (15_990 - 533) // 2, 15_990)]
    assert values == pytest.approx([0, 1, 0.5005, 0.001], abs=1e-4)
    assert [schedule.staircase(step, 8, 0.1) for step in (0, 7, 8, 16)] == pytest.approx([1, 1, 0.1, 0.01])


def test_the_linear_schedule() -> None:
    """FrozenBiLM: a tenth of the steps warm up, and the last step would have no rate."""
    values = [schedule.linear(step, 100, 1000) for step in (0, 50, 100, 550, 1000, 1001)]
    assert values == pytest.approx([0, 0.5, 1, 0.5, 0, 0])


def test_tensorboard_events_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [line["total"] for line in journal(tmp_path) if line["kind"] == "train"]
    assert [event.value for event in events.Scalars("train/total")] == pytest.approx(logged)
    assert len(events.Scalars("val/accuracy")) == 3


@pytest.mark.slow
def test_two_ranks_train_one_model(tmp_path: Path) -> None:
    """Through torchrun: averaged gradients make both ranks one run that neither rank alone would be."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    launcher = (*torchrun[:-1], torchrun[-1])
    for name, epochs in (("whole", 3), ("parts", 3)):
        process = start(tmp_path / name, *launcher, epochs=epochs)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert journal(tmp_path / "whole") == journal(tmp_path / "parts")
    run(tmp_path / "alone")
    assert journal(tmp_path / "alone") != journal(tmp_path / "whole")
    with pytest.raises(TrainingError, match="world: 2 there, 1 now"):
        run(tmp_path / "whole")


def test_a_gradient_that_is_not_finite_is_refused_and_never_saved(tmp_path: Path) -> None:
    class Broken(Clouds):
        """The gradient of sqrt at 0, in the last step of the first epoch: the loss itself is a number."""

        def loss(self, batch: Any) -> dict[str, torch.Tensor]:
            losses = super().loss(batch)
            self.count = getattr(self, "count", 0) + 1
            nothing = (self.model[0].weight * 0).sum()
            return {**losses, "total": losses["total"] + (nothing.sqrt() if self.count == 5 else 0)}

    with pytest.raises(TrainingError, match="a loss or gradient is not finite in epoch 1"):
        run(tmp_path, Broken())
    assert not (tmp_path / LAST).exists()


def test_files_of_other_makers_are_one_line(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / LAST)
    with pytest.raises(TrainingError, match=r"last\.pt: not a checkpoint of this trainer"):
        run(tmp_path)
    (tmp_path / LAST).unlink()
    (tmp_path / JOURNAL).write_text("hello\n")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: line 1 does not belong to a training journal"):
        run(tmp_path)
