"""Settings of the training loop, the same for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PRESETS = Path(__file__).parent / "presets"


class Section(BaseModel):
    """A frozen section of a settings file; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LoopConfig(Section):
    """How to optimise.

    Attributes
    ----------
    lr, final_lr_ratio, warmup_epochs :
        Peak learning rate; ``cosine`` ends at ``lr * final_lr_ratio``. Warm-up is linear.
    decay_epochs, decay_factor :
        ``staircase`` multiplies the rate by ``decay_factor`` every ``decay_epochs``.
    clip_norm :
        Largest L2 norm of the gradient; null does not clip.
    precision :
        dtype of autocast; float16 scales the loss.
    threads :
        CPU threads; null keeps torch's number. Results on the CPU are equal for equal threads.
    checkpoint_steps :
        Also write a checkpoint every so many steps, not only after each epoch.
    validate_epochs :
        Score the validation split after every so many epochs, and after the last.
    patience :
        Stop after so many epochs without a better validation score; null trains on.
    """

    epochs: Annotated[int, Field(ge=1)] = 30
    seed: Annotated[int, Field(ge=0)] = 2024
    optimizer: Literal["adam", "adamw"] = "adam"
    amsgrad: bool = False
    lr: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["cosine", "staircase", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 1e-3
    decay_epochs: Annotated[int, Field(ge=1)] = 8
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    clip_norm: Annotated[float, Field(gt=0)] | None = 12.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    log_steps: Annotated[int, Field(ge=1)] = 20
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    validate_epochs: Annotated[int, Field(ge=1)] = 1
    patience: Annotated[int, Field(ge=1)] | None = None
    tensorboard: bool = True
