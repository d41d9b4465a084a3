"""Defines how every stage is requested and how it ends.

A stage returns a result and never an exit code: what a result means to a shell is decided in ``jobs/`` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

ExecutorName = Literal["auto", "local", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRequest:
    """What every stage needs to know.

    Attributes
    ----------
    store
        The store directory.
    executor
        Where the work runs; ``auto`` is Ray inside a submitted Ray job and this machine elsewhere.
    plan_only
        Whether to say what would be done, and do nothing.
    """

    store: str
    executor: ExecutorName = "auto"
    plan_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult(ABC):
    """How a stage ended.

    Attributes
    ----------
    stopped_by
        Name of the signal that stopped it (``SIGTERM`` or ``SIGINT``); None if it ran to its end.
    """

    stopped_by: str | None = None

    @property
    @abstractmethod
    def incomplete(self) -> bool:
        """Whether something that was wanted is missing now."""

    @property
    def has_work(self) -> bool:
        """Whether a plan found something to do, so that what is made of this stage may change."""
        return False

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Return the JSON object that ``--json`` prints."""
