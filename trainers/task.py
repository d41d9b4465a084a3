"""What the training loop needs to know about a method: a model, batches, a loss and an evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from trainers.predictions import Prediction

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class Batch(Protocol):
    """What a task yields. The loop only moves it to the device."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Any:
        """Return the same batch on ``device``."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one split, and the predictions from which they were computed.

    Attributes
    ----------
    metrics
        Name to value; rates are in percent.
    predictions
        File stem to a value that JSON can hold, as ``jobs/evaluate.py`` reads it.
    questions
        Each answered question, in the order of the table; empty if the method keeps no such rows.
    """

    metrics: Mapping[str, float]
    predictions: Mapping[str, Any] = field(default_factory=dict)
    questions: Sequence[Prediction] = ()


class Task(ABC):
    """One method on one dataset.

    Attributes
    ----------
    model
        Holds all trainable parameters. The loop moves it to the device and calls ``train()`` and ``eval()``.
    select
        The validation metric whose maximum picks the best checkpoint.
    leaves_parameters_unused
        Whether a step may leave parameters that require gradients out of its losses. If so, several ranks look for them
        in every step, which takes time.
    """

    model: nn.Module
    select: str
    leaves_parameters_unused: bool = False

    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Return the number of optimiser steps of one epoch on one rank; every rank has the same."""

    @abstractmethod
    def batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``start_step`` on.

        A batch depends only on the task's settings, the rank, the epoch and the step, so that a run that resumes in the
        middle of an epoch gets the same batches.
        """

    @abstractmethod
    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        """Return scalars by name: ``total`` is minimised, the others are logged."""

    @abstractmethod
    def evaluate(self, split: str) -> Evaluation:
        """Score a split with ``model`` as it is. The loop has set evaluation mode and disabled gradients."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Return the splits to score after training, the validation split first."""

    @abstractmethod
    def describe(self) -> dict[str, Json]:
        """Return what it takes to use a checkpoint.

        Every task names its ``method``, its ``settings`` without those of the loop, and the ``store_version`` that it
        reads; it adds its vocabularies and the digests of its features' specs.
        """
