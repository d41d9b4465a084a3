"""Settings that every training method has: how to optimise.

The settings of a method are in the ``config.py`` of its package, named presets of them in ``trainers/presets/*.yaml``.
Files and ``--set`` are read by the package ``settings``.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from settings import Section
from trainers.loggers import LoggerName

PRESETS = Path(__file__).parent / "presets"


class LoopConfig(Section):
    """How to optimise."""

    epochs: Annotated[int, Field(ge=1)] = 30
    """Passes over the training split."""
    seed: Annotated[int, Field(ge=0)] = 2024
    """Seed of the initial weights, the batches and the dropout masks."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    amsgrad: bool = False
    """Use the AMSGrad variant of the optimiser."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the optimiser's running means of gradients and of their squares."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of the optimiser."""
    schedule: Literal["cosine", "linear", "staircase", "constant"] = "cosine"
    """How the learning rate changes after warm-up; it may change with every step. ``linear`` ends at 0."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """The learning rate rises linearly from 0 for so many epochs."""
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 1e-3
    """``cosine`` ends at ``lr * final_lr_ratio``."""
    decay_epochs: Annotated[int, Field(ge=1)] = 8
    """``staircase`` lowers the learning rate every so many epochs."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """``staircase`` multiplies the learning rate by this factor."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 12.0
    """Largest L2 norm of the gradient; null does not clip."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype of autocast; ``float16`` also scales the loss."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where to train; ``auto`` takes a GPU if one is visible."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; null keeps torch's number. Results on the CPU are equal only for equal threads."""
    log_steps: Annotated[int, Field(ge=1)] = 20
    """Log the mean losses every so many steps."""
    progress_s: Annotated[float, Field(gt=0)] = 30.0
    """Print speed and time left every so many seconds, unless stderr is a terminal, which has a bar."""
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    """Also write a checkpoint every so many steps; null writes one after each epoch only."""
    validate_epochs: Annotated[int, Field(ge=1)] = 1
    """Score the validation split every so many epochs, and after the last."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many epochs without a better validation score; null never stops early."""
    loggers: tuple[LoggerName, ...] = ("tensorboard",)
    """Where to log, too: any of ``tensorboard``, ``wandb`` (Weights & Biases) and ``mlflow``."""
    tensorboard: bool = True
    """False leaves TensorBoard out, whatever ``loggers`` says."""
    panels: Annotated[int, Field(ge=0)] = 0
    """Give the loggers the panels of so many of the worst questions of each split, once the run is finished."""

    @property
    def chosen_loggers(self) -> tuple[LoggerName, ...]:
        """What ``loggers`` and ``tensorboard`` ask for."""
        return tuple(name for name in self.loggers if name != "tensorboard" or self.tensorboard)


class MethodSettings(Section):
    """The settings of one run of a method; each method adds its own sections."""

    loop: LoopConfig = LoopConfig()
    """How to optimise."""

    def describe(self) -> dict[str, Any]:
        """Return the settings that say what a checkpoint is, as JSON: all but how it was optimised and read."""
        return self.model_dump(mode="json", exclude={"loop": True, "data": {"preload"}})

    @property
    @abstractmethod
    def dataset(self) -> str:
        """The dataset of the store's ``questions`` table."""

    @property
    @abstractmethod
    def features(self) -> tuple[str, ...]:
        """Names of the features that the model reads, frames last; none if it answers from the question alone."""
