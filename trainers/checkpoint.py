"""Checkpoints: ``last.pt`` to resume from, ``best.safetensors`` to use. Each is written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from settings.messages import one_line
from trainers.errors import TrainingError
from trainers.folder import BEST, LAST
from trainers.resume import task_description
from trainers.task import Json

_DESCRIPTION = "reelstore"  # key of the description in the header of a safetensors file


def save_last(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the state to resume from in a run's folder."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    _replace(folder / LAST, buffer.getbuffer())


def load_last(folder: Path) -> dict[str, Any] | None:
    """Return the state to resume from, on the CPU; None before the first checkpoint.

    Raises
    ------
    TrainingError
        If the file is damaged.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: not readable ({one_line(error)}); remove it to start anew") from error
    return state


def save_best(folder: Path, model: nn.Module, description: Mapping[str, Json]) -> None:
    """Replace the best weights; the header of the file holds ``description`` (settings, store version, words)."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    metadata = {_DESCRIPTION: json.dumps(description, sort_keys=True)}
    _replace(folder / BEST, save(tensors, metadata))


def read_description(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says about itself: the settings of the loop, the task, and the validation scores.

    Raises
    ------
    TrainingError
        If the file is missing or damaged, or another program wrote it.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_DESCRIPTION)
    if text is None:
        raise TrainingError(f"{path}: not a checkpoint of this trainer (its header has no {_DESCRIPTION!r})")
    description = json.loads(text)
    return {**description, "task": task_description(description)}


def load_best(path: Path, model: nn.Module) -> None:
    """Load weights into a model that must have exactly the same tensors.

    Raises
    ------
    TrainingError
        If the file is missing or damaged, or its tensors do not fit the model.
    """
    with _opened(path) as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safetensors' handle is not a dict
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(f"{path}: does not fit the model: {one_line(error)}") from error


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: not readable ({one_line(error)})") from error


def _replace(target: Path, data: bytes | memoryview) -> None:
    """Write a file beside ``target`` and rename it over ``target`` once it is on the disk.

    The bytes are written here and not by the library that made them: torch and safetensors tell of a full disk by
    errors of their own, this raises ``OSError``.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
