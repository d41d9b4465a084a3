"""What a run is asked for, and how it ended. What the end means to a shell is decided in ``jobs/`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """One training run, in plain values that travel to a Ray worker.

    Attributes
    ----------
    method
        A name of ``trainers.METHODS``.
    store
        The store directory.
    version
        The version of the store to train on.
    out
        Folder of the run.
    settings
        The validated settings of the method, as JSON.
    """

    method: str
    store: str
    version: int
    out: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes
    ----------
    method, store, store_version, out
        What was requested.
    steps
        Optimiser steps since the beginning of the run.
    best_epoch
        The epoch whose weights were kept, counted from 1; 0 if no epoch was scored.
    metrics
        Split to metric to value, scored with the best weights; empty if a signal stopped the run.
    files
        The best weights and their predictions; empty if a signal stopped the run.
    stopped_by
        Name of the signal that ended the run early (``SIGTERM`` or ``SIGINT``); None if it came to its end.
    """

    method: str
    store: str
    store_version: int
    out: str
    steps: int
    best_epoch: int
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    stopped_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name, without ``metrics`` and ``files`` if the run was stopped."""
        fields = {**asdict(self), "files": list(self.files)}
        return {name: value for name, value in fields.items() if not (self.stopped_by and name in ("metrics", "files"))}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainResult:
        """Make a result from what ``to_json`` returned."""
        return cls(**{**fields, "files": tuple(fields.get("files", ()))})
