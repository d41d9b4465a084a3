"""What the training loop needs to know of a method: a model, batches, a loss, an evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class Batch(Protocol):
    """What a task yields; the loop only moves it to the device."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Any: ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one split, and the predictions that they were computed from.

    Attributes
    ----------
    metrics :
        Name to value; rates in percent.
    predictions :
        File stem to a JSON-able value, as ``jobs/evaluate.py`` reads it.
    """

    metrics: Mapping[str, float]
    predictions: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """One method on one dataset.

    Attributes
    ----------
    model :
        All trainable parameters; the loop moves it to the device and calls ``train()`` and ``eval()``.
    select :
        The validation metric whose maximum picks the best checkpoint.
    """

    model: nn.Module
    select: str

    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch on one rank; the same on every rank."""

    @abstractmethod
    def batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        """The batches of an epoch from ``start_step`` on.

        A batch depends on nothing but the task's settings, its rank, ``epoch`` and its step: resuming in the middle
        gives the same ones.
        """

    @abstractmethod
    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        """Scalars: ``total`` is minimised, the others are logged."""

    @abstractmethod
    def evaluate(self, split: str) -> Evaluation:
        """Score a split with ``model`` as it stands (in evaluation mode, without gradients)."""

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """What can be scored after training, the validation split first."""

    @abstractmethod
    def describe(self) -> dict[str, Json]:
        """What it takes to use a checkpoint: settings, vocabularies, the store and its version."""
