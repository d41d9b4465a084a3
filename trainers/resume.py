"""How a run continues: on the version of the store that it started from, with the settings that it started with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores import Store
from stores.format import newest_version
from trainers.errors import TrainingError
from trainers.folder import LAST, SETTINGS


@dataclass(frozen=True, slots=True)
class ChosenVersion:
    """The version of a store that a run reads.

    Attributes
    ----------
    version
        The version to open.
    note
        A line for the user if the run continues on a version that is not the newest; else None.
    """

    version: int
    note: str | None = None


def choose_version(store: Path, folder: Path, requested: int | None = None) -> ChosenVersion:
    """Choose the requested version, else the one that the run in ``folder`` started from, else the newest.

    Raises
    ------
    TrainingError
        If the folder holds a checkpoint without readable settings.
    StoreError
        If there is no store, or no such version of it.
    """
    started_on = _started_on(folder) if requested is None else None
    with Store.open(store, requested or started_on, lease=False) as opened:
        version = opened.version
    if started_on is None or started_on == newest_version(store):
        return ChosenVersion(version)
    return ChosenVersion(
        version, f"{folder}: resuming on store version {started_on}, the version this run started from"
    )


def task_description(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a run's settings describe its task, in today's form.

    Runs of Reelstore 0.1 wrote the settings of CoQo under ``method``; now every method has its name there, and its
    settings under ``settings``.

    Raises
    ------
    KeyError, TypeError
        If there is no such description.
    """
    task: dict[str, Any] = dict(settings["task"])
    if isinstance(task.get("method"), dict):
        return {**task, "method": "coqo", "settings": task["method"]}
    return task


def read_task_description(folder: Path) -> dict[str, Any]:
    """Return how the run in a folder describes its task.

    Raises
    ------
    TrainingError
        If ``settings.json`` is missing or is not a run's.
    """
    path = folder / SETTINGS
    try:
        return task_description(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: not a run's settings; name another --out") from error


def _started_on(folder: Path) -> int | None:
    """Return the version of the store that a run started from; None if there is nothing to continue."""
    if not (folder / LAST).exists():
        return None
    try:
        return int(read_task_description(folder)["store_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / SETTINGS}: not a run's settings; name another --out") from error
