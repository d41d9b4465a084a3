"""How a run continues: on the version of the store that it started from, with the settings that it started with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings.files import NOTE_BYTES, read_bytes, read_text
from stores import Store
from stores.errors import StoreNotFoundError
from stores.format import newest_version
from stores.format.layout import IDENTITY
from stores.sharing import is_address
from trainers.errors import TrainingError
from trainers.folder import LAST, SETTINGS

_SHOWN = 5  # differences in a message
_ADDED: Mapping[str, Mapping[str, Any]] = {
    "loop": {"betas": [0.9, 0.999]},
    "cra": {"data": {"inputs": "video_question", "graphs": "parsed"}},
    "coqo": {"answer": {"head": "classes", "top": None, "minimum": 1, "loss": "cross_entropy", "rule": "raw"}},
}
"""Settings of the loop and of methods that older runs did not have, and what they had in their place."""


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


def choose_version(store: str | Path, folder: Path, requested: int | None = None) -> ChosenVersion:
    """Choose the requested version, else the one that the run in ``folder`` started from, else the newest.

    Raises
    ------
    TrainingError
        If the folder holds a checkpoint without readable settings.
    StoreError
        If there is no store, or no such version of it.
    """
    started_on = _started_on(folder) if requested is None else None
    try:
        with Store.open(store, requested or started_on, lease=False) as opened:
            version = opened.version
    except StoreNotFoundError as error:
        if started_on is None or is_address(store) or not (Path(store) / IDENTITY).exists():
            raise
        raise TrainingError(
            f"{folder}: its run started from version {started_on} of {store}, which `store.py gc` has removed; name "
            "another --out to train on the newest version, or --version to continue on one that is still there"
        ) from error
    if started_on is None or started_on == _newest(store):
        return ChosenVersion(version)
    return ChosenVersion(
        version, f"{folder}: resuming on store version {started_on}, the version this run started from"
    )


def _newest(store: str | Path) -> int:
    if not is_address(store):
        return newest_version(Path(store))
    with Store.open(store, lease=False) as newest:
        return newest.version


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
        task = {**task, "method": "coqo", "settings": task["method"]}
    if isinstance(task.get("settings"), dict):
        task["settings"] = _completed(task["settings"], _ADDED.get(task.get("method", ""), {}))
    return task


def _completed(given: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with what they lack, in every section."""
    whole = {**added, **given}
    for name, section in added.items():
        if isinstance(section, dict) and isinstance(given.get(name), dict):
            whole[name] = _completed(given[name], section)
    return whole


def read_task_description(folder: Path) -> dict[str, Any]:
    """Return how the run in a folder describes its task.

    Raises
    ------
    TrainingError
        If ``settings.json`` is missing or is not a run's.
    """
    path = folder / SETTINGS
    try:
        return task_description(json.loads(read_text(path)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path}: not a run's settings; name another --out") from error


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return what ``settings.json`` of a run's folder holds, its task in today's form; None if there is no such file.

    Raises
    ------
    TrainingError
        If it is not a run's.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    return parse_settings(path, read_bytes(path, NOTE_BYTES))


def parse_settings(path: Path, text: str | bytes) -> dict[str, Any]:
    """Return the settings of a run from the JSON that ``path`` holds of them, its task in today's form.

    Raises
    ------
    TrainingError
        If it is not a run's.
    """
    try:
        settings: dict[str, Any] = json.loads(text)
        loop, store = _completed(settings.get("loop", {}), _ADDED["loop"]), dict(settings.get("store", {}))
        return {**settings, "loop": loop, "store": store, "task": task_description(settings)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path}: not a run's settings; name another --out") from error


def require_method(folder: Path, method: str) -> None:
    """Raise TrainingError if a folder holds a run of another method; needs neither the store nor a model."""
    settings = read_settings(folder)
    if settings is not None:
        _require_method(folder, settings, method)


def require_same_start(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run which has saved nothing yet was started as this one is.

    What follows from the rows of the store may have changed: nothing was learned from it.

    Parameters
    ----------
    folder
        The run's folder, for messages.
    before, now
        Settings as in ``settings.json``.

    Raises
    ------
    TrainingError
        If its method, its settings, its store or the number of ranks was another.
    """
    _require_method(folder, before, now["task"].get("method"))
    if not before.get("store"):  # a run of Reelstore 0.1
        now = {**now, "store": {}}
    differences = _differences(_chosen(before), _chosen(now))
    if differences:
        raise TrainingError(
            f"{folder}: holds a run with other settings ({_few(differences)}); name another --out, or remove the "
            "folder, which has no checkpoint yet"
        )


def require_same_run(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], epochs_done: float = 0) -> None:
    """Check that a checkpoint may be continued: that every step of the run before is what it would be now.

    The number of epochs may change if the learning rate does not depend on it (schedules ``constant`` and
    ``staircase``), but not below what has been trained.

    Parameters
    ----------
    folder
        The run's folder, for messages.
    before, now
        Settings as in ``settings.json``.
    epochs_done
        Epochs that the checkpoint has behind it.

    Raises
    ------
    TrainingError
        If it may not.
    """
    _require_method(folder, before, now["task"].get("method"))
    loop_before, loop_now = dict(before["loop"]), dict(now["loop"])
    asked, planned = loop_now.get("epochs"), loop_before.get("epochs")
    reason = ""
    if asked != planned:
        if loop_now.get("schedule") in ("cosine", "linear"):
            reason = (
                f"; the {loop_now['schedule']} schedule ends with the last epoch, so every step would have had another "
                "learning rate: only runs of the schedules constant and staircase can go on for more epochs"
            )
        elif asked is not None and asked < epochs_done:
            raise TrainingError(
                f"{folder}: has trained {epochs_done:.4g} epochs already, and {asked} are asked for; name another --out"
            )
        else:
            loop_before["epochs"] = asked
    differences = _differences({**before, "loop": loop_before, "store": None}, {**now, "loop": loop_now, "store": None})
    if _manifest(before) and _manifest(now) not in (None, _manifest(before)):
        differences.append(
            f"store: {before['store'].get('path')} with other rows there, {now['store'].get('path')} now"
        )
    if differences:
        raise TrainingError(
            f"{folder}: holds a run with other settings ({_few(differences)}){reason}; name another --out"
        )


def _require_method(folder: Path, before: Mapping[str, Any], method: Any) -> None:
    there = before["task"].get("method")
    if there != method:
        raise TrainingError(f"{folder}: is a run of {there}, not of {method}; name another --out")


def _chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user chose, without what followed from the store."""
    task, store = {"settings": settings["task"].get("settings")}, {"path": settings.get("store", {}).get("path")}
    return {"loop": settings["loop"], "world": settings.get("world"), "task": task, "store": store}


def _manifest(settings: Mapping[str, Any]) -> str | None:
    """Return the digest of the store's manifest; None in runs of Reelstore 0.1. The store's path does not matter."""
    digest: str | None = settings.get("store", {}).get("manifest")
    return digest


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Return where two JSON values differ, in the order of their keys."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted({*before, *now})
            for difference in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if before == now else [f"{path}: {_short(before)} there, {_short(now)} now"]


def _few(differences: Sequence[str]) -> str:
    more = len(differences) - _SHOWN
    return "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _started_on(folder: Path) -> int | None:
    """Return the version of the store that a run started from; None if there is nothing to continue."""
    if not (folder / LAST).exists():
        return None
    try:
        return int(read_task_description(folder)["store_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / SETTINGS}: not a run's settings; name another --out") from error
