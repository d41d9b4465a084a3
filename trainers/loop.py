"""The training loop that every method shares.

A step depends only on the settings and its number: its batch on (seed, rank, epoch, step), its dropout masks on
(seed, rank, step). So a run that was killed continues from its last checkpoint with the same losses, and two runs with
the same seed on a CPU are equal bit by bit.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from settings.messages import first_few, one_line
from trainers import checkpoint, schedule
from trainers.config import LoopConfig
from trainers.distributed import Asked, Ranks
from trainers.errors import TrainingError
from trainers.folder import LAST, SETTINGS, replace_file
from trainers.journal import Journal
from trainers.loggers import Loggers
from trainers.progress import Progress, shown_metrics
from trainers.resume import parse_settings, read_settings, require_same_run, require_same_start
from trainers.task import Batch, Evaluation, Task

TOO_FEW = "the training split does not fill one batch; make the batch smaller"

# Settings that may differ when a run resumes: none of them changes a step.
_FREE = ("device", "log_steps", "checkpoint_steps", "loggers", "tensorboard", "panels", "progress_s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended.

    Attributes
    ----------
    steps
        Optimiser steps since the beginning of the run.
    best
        Metrics of the validation split at the best checkpoint.
    best_epoch
        The epoch of the best checkpoint, counted from 1.
    stopped_by
        The signal that ended the run early, or None.
    """

    steps: int
    best: Mapping[str, float]
    best_epoch: int
    stopped_by: signal.Signals | None = None


@dataclass(slots=True)
class _State:
    """The state of a run apart from its tensors."""

    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0


def train(
    task: Task,
    config: LoopConfig,
    folder: Path,
    ranks: Ranks,
    progress: Progress,
    store: Mapping[str, str] | None = None,
    stop: list[signal.Signals] | None = None,
    loggers: Loggers | None = None,
) -> Outcome:
    """Train ``task``, or continue the run in ``folder``; leave the best checkpoint there.

    Parameters
    ----------
    task
        What to train.
    config
        How to optimise.
    folder
        Folder of the run, which the caller owns (``trainers.owner``).
    ranks
        Which of several processes this is.
    progress
        Shows how far the run is.
    store
        What the task reads: the ``path`` of the store and the sha256 of its ``manifest``. A run continues on the same
        manifest only.
    stop
        A list to which the launcher of this process adds signals; None takes those that the process gets.
    loggers
        What is started here and logged to, on the first rank; None logs to none.

    Raises
    ------
    TrainingError
        If the folder holds another run, a loss is not finite, or a logger does not start.
    OSError
        If the disk fails; the error names the file.
    """
    with progress, _stop_signals() if stop is None else nullcontext(stop) as received:
        return _Loop(task, config, folder, ranks, progress, store).run(received, loggers or Loggers(folder))


def evaluate(task: Task, split: str, config: LoopConfig, ranks: Ranks) -> Evaluation:
    """Score a split with the model as it is."""
    with answering(task, config, ranks):
        return task.evaluate(split)


@contextmanager
def answering(task: Task, config: LoopConfig, ranks: Ranks) -> Iterator[None]:
    """Let the model answer within the block: on its device, in evaluation mode, in its precision, without gradients."""
    task.model.to(ranks.device).eval()
    with torch.inference_mode(), _autocast(config, ranks.device):
        yield


def settings_of(task: Task, config: LoopConfig, ranks: Ranks, store: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what ``settings.json`` of a run holds: all that a step depends on, and the store."""
    return {
        "loop": config.model_dump(mode="json", exclude=set(_FREE)),
        "world": ranks.world,
        "task": json.loads(json.dumps(task.describe())),
        **({"store": dict(store)} if store else {}),
    }


class _Losses(nn.Module):
    """A module whose forward pass is ``task.loss``, so that DistributedDataParallel sees it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._loss = task.loss

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._loss(batch)


class _Loop:
    """One run, from its last checkpoint on."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        folder: Path,
        ranks: Ranks,
        progress: Progress,
        store: Mapping[str, str] | None,
    ) -> None:
        self.task, self.config, self.folder, self.ranks, self.progress = task, config, folder, ranks, progress
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.steps = task.steps_per_epoch()
        if self.steps < 1:
            raise TrainingError(TOO_FEW)
        task.model.to(ranks.device)
        self.optimizer = _optimizer(task.model, config)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "float16")
        self.state = _State()
        self.loss: float | None = None
        self.asked = Asked(ranks)
        self.settings = settings_of(task, config, ranks, store)
        self._resume()
        self.losses: nn.Module = _Losses(task)
        self.unchecked = ranks.world > 1
        if self.unchecked:
            unused = task.leaves_parameters_unused
            self.losses = DistributedDataParallel(self.losses, find_unused_parameters=unused)

    def run(self, stop: list[signal.Signals], loggers: Loggers) -> Outcome:
        journal = None
        if self.ranks.is_first:
            journal = Journal(self.folder, self.state.step, loggers)
            loggers.start(self.state.step, _parameters(self.settings))
        try:
            for epoch in range(self.state.step // self.steps, self.config.epochs):
                if self._out_of_patience(epoch):
                    break
                cut = self._epoch(epoch, journal, stop)
                due = (epoch + 1) % self.config.validate_epochs == 0 or epoch + 1 == self.config.epochs
                if due and not cut:
                    self._validate(epoch, journal)
                stopping = cut or self.ranks.agree(bool(stop))
                self._checkpoint()
                if stopping:
                    return self._outcome(stop[0] if stop else signal.SIGTERM)
        finally:
            if journal is not None:
                journal.close()
        return self._outcome()

    def _epoch(self, epoch: int, journal: Journal | None, stop: list[signal.Signals]) -> bool:
        """Train to the end of an epoch; return whether a signal cut it short."""
        self.losses.train()
        window: list[dict[str, torch.Tensor]] = []
        since = time.monotonic()
        for batch in self.task.batches(epoch, self.state.step - epoch * self.steps):
            window.append(self._step(batch.to(self.ranks.device, non_blocking=True)))
            self.state.step += 1
            ended = self.state.step == (epoch + 1) * self.steps
            checkpointing = self.config.checkpoint_steps and self.state.step % self.config.checkpoint_steps == 0
            stopping = self.asked(bool(stop))
            if ended or checkpointing or stopping or self.state.step % self.config.log_steps == 0:
                self._log(epoch, window, journal)
                if journal is not None:
                    now = time.monotonic()
                    journal.machine(self.state.step, _machine(len(window), now - since, self.ranks.device))
                    since = now
                window = []
            if self.ranks.is_first:
                done = self.state.step - epoch * self.steps
                self.progress.step(epoch + 1, self.config.epochs, done, self.steps, self.loss)
            if ended:
                continue  # validation comes first: the checkpoint at the end of an epoch holds its score
            if stopping:
                return True
            if checkpointing:
                self._checkpoint()
        self.asked.settle()  # whoever knew of a signal still knows of it, and says so after validation
        if self.state.step != (epoch + 1) * self.steps:
            raise TrainingError(f"epoch {epoch + 1} had {self.state.step - epoch * self.steps} of {self.steps} batches")
        return False

    def _step(self, batch: Batch) -> dict[str, torch.Tensor]:
        step = self.state.step
        torch.manual_seed(_seed(self.config.seed, self.ranks.rank, step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self._lr_factor(step)
        self.optimizer.zero_grad(set_to_none=True)
        with _autocast(self.config, self.ranks.device):
            losses: dict[str, torch.Tensor] = self.losses(batch)
        self.scaler.scale(losses["total"]).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._require_gradients()
        self.scaler.unscale_(self.optimizer)
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        logged = {name: value.detach() for name, value in losses.items()}
        # Half precision overflows until the scaler has found its scale; the scaler skips such steps by itself.
        return logged if self.scaler.is_enabled() else {**logged, "gradient": norm}

    def _require_gradients(self) -> None:
        """Raise TrainingError if ranks would not average all gradients; all later steps are like the first."""
        if not self.unchecked or self.task.leaves_parameters_unused:
            return
        self.unchecked = False
        unused = [name for name, one in self.task.model.named_parameters() if one.requires_grad and one.grad is None]
        if unused:
            raise TrainingError(
                f"{type(self.task).__name__}: no loss depends on {first_few(unused)}, which several ranks cannot "
                "average; freeze them, or set leaves_parameters_unused of the task"
            )

    def _lr_factor(self, step: int) -> float:
        config = self.config
        warmup = round(config.warmup_epochs * self.steps)
        if config.schedule == "cosine":
            return schedule.cosine(step, warmup, config.epochs * self.steps, config.final_lr_ratio)
        if config.schedule == "linear":
            return schedule.linear(step, warmup, config.epochs * self.steps)
        ramp = step / warmup if step < warmup else 1.0
        if config.schedule == "staircase":
            return ramp * schedule.staircase(step, config.decay_epochs * self.steps, config.decay_factor)
        return ramp

    def _log(self, epoch: int, window: list[dict[str, torch.Tensor]], journal: Journal | None) -> None:
        """Log the mean losses and gradient norm since the last call; raise TrainingError if one is not finite."""
        means = {name: float(torch.stack([losses[name].float() for losses in window]).mean()) for name in window[0]}
        if not all(map(math.isfinite, means.values())):
            raise TrainingError(
                f"a loss or gradient is not finite in epoch {epoch + 1}, at or before step {self.state.step}: "
                f"{', '.join(f'{name} {value:.4g}' for name, value in means.items())}; "
                "lower lr, or use precision=bfloat16 or float32"
            )
        lr = self.optimizer.param_groups[0]["lr"]
        if journal is not None:
            journal.write(self.state.step, epoch + 1, "train", {**means, "lr": lr})
        self.loss = means["total"]

    def _validate(self, epoch: int, journal: Journal | None) -> None:
        if self.ranks.is_first:
            split = self.task.splits()[0]
            metrics = dict(evaluate(self.task, split, self.config, self.ranks).metrics)
            if journal is not None:
                journal.write(self.state.step, epoch + 1, split, metrics)
            score = metrics[self.task.select]
            # Among equal scores the later epoch wins, as in the published loops of both papers.
            if not self.state.best or score >= self.state.best[self.task.select]:
                self.state.best, self.state.best_epoch = metrics, epoch + 1
                described = {name: value for name, value in self.settings.items() if name != "store"}
                checkpoint.save_best(self.folder, self.task.model, {**described, "epoch": epoch + 1, split: metrics})
            best = "" if self.state.best_epoch != epoch + 1 else ", the best so far"
            self.progress.line(f"epoch {epoch + 1}/{self.config.epochs}: {split}: {shown_metrics(metrics)}{best}")
        self.ranks.barrier()

    def _out_of_patience(self, epochs_done: int) -> bool:
        patience = self.config.patience
        waited = self.ranks.is_first and patience is not None and epochs_done - self.state.best_epoch >= patience
        return self.ranks.agree(waited)

    def _checkpoint(self) -> None:
        if self.ranks.is_first:
            checkpoint.save_last(self.folder, self._saved())
        self.ranks.barrier()

    def _saved(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "settings": json.dumps(self.settings, sort_keys=True),
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.state.step,
            "best": self.state.best,
            "best_epoch": self.state.best_epoch,
        }

    def _resume(self) -> None:
        if self.ranks.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.ranks.barrier()
        saved = checkpoint.load_last(self.folder)
        if saved is None:
            before = read_settings(self.folder)
            if before is not None:
                require_same_start(self.folder, before, self.settings)
            self.ranks.barrier()
            self._write_settings()
            return
        path = self.folder / LAST
        if not isinstance(saved, dict) or saved.keys() != self._saved().keys():
            raise TrainingError(f"{path}: not a checkpoint of this trainer; name another --out")
        before = parse_settings(path, saved["settings"])
        require_same_run(self.folder, before, self.settings, saved["step"] / self.steps)
        try:
            self.task.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(f"{path}: does not fit the model ({one_line(error)}); name another --out") from error
        self._write_settings()
        self.state = _State(saved["step"], saved["best"], saved["best_epoch"])
        if self.ranks.is_first:
            total = self.steps * self.config.epochs
            self.progress.line(f"{self.folder}: continuing after step {saved['step']} of {total}")

    def _write_settings(self) -> None:
        if self.ranks.is_first:
            text = json.dumps(self.settings, indent=1, sort_keys=True) + "\n"
            replace_file(self.folder / SETTINGS, text.encode())

    def _outcome(self, stopped_by: signal.Signals | None = None) -> Outcome:
        return Outcome(self.state.step, self.state.best, self.state.best_epoch, stopped_by)


def _parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what loggers are told of a run: what was chosen, and the store; not what followed from the rows."""
    task, store = settings["task"], settings.get("store", {})
    kept = {name: task[name] for name in ("method", "store_version") if name in task}
    return {**kept, "store": store.get("path"), "world": settings["world"], "loop": settings["loop"]} | dict(
        task.get("settings", {})
    )


def _machine(steps: int, seconds: float, device: torch.device) -> dict[str, float]:
    """Return steps per second, and the memory of this process and of its GPU in GB of 10⁹ bytes."""
    values = {"steps_per_s": steps / max(seconds, 1e-9), "memory_gb": psutil.Process().memory_info().rss / 1e9}
    if device.type == "cuda":
        values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return values


def _optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return optimizer(
        trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, amsgrad=config.amsgrad
    )


def _autocast(config: LoopConfig, device: torch.device) -> torch.autocast:
    half = config.precision != "float32"
    return torch.autocast(device.type, getattr(torch, config.precision) if half else None, enabled=half)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGTERM and SIGINT instead of acting on them; a second signal of a kind acts at once.

    Yields
    ------
    The signals received so far, in order.
    """
    received: list[signal.Signals] = []
    handlers: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        signal.signal(number, handlers[signal.Signals(number)])

    try:
        for stop_signal in (signal.SIGTERM, signal.SIGINT):
            handlers[stop_signal] = signal.signal(stop_signal, note)
    except ValueError:  # not the main thread (Ray Train): whoever started the thread handles signals
        handlers.clear()
    try:
        yield received
    finally:
        for stop_signal, handler in handlers.items():
            signal.signal(stop_signal, handler)
