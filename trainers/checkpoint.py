"""Checkpoints: ``last.pt`` to resume from, ``best.safetensors`` to use. Each is written whole or not at all."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from settings.files import check_regular
from settings.messages import one_line, why_not_loaded
from trainers.errors import TrainingError
from trainers.folder import BEST, LAST, replace_file
from trainers.resume import task_description
from trainers.task import Json

UNREADABLE = (
    *(OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),  # an unpickler on arbitrary bytes
)
"""What ``torch.load`` raises on files that are missing, damaged or none of its own."""
_DESCRIPTION = "reelstore"  # key of the description in the header of a safetensors file


def save_last(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the state to resume from in a run's folder.

    The bytes are written by ``replace_file`` and not by torch, which tells of a full disk by an error of its own.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    replace_file(folder / LAST, buffer.getbuffer())


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
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not look at the checksums, and would load other weights
        if damaged is not None:
            raise EOFError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise TrainingError(f"{path}: not readable ({why_not_loaded(error)}); remove it to start anew") from error
    return state


def save_best(folder: Path, model: nn.Module, description: Mapping[str, Json]) -> None:
    """Replace the best weights; the header of the file holds ``description`` (settings, store version, words)."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    metadata = {_DESCRIPTION: json.dumps(description, sort_keys=True)}
    replace_file(folder / BEST, save(tensors, metadata))


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
    try:
        description = json.loads(text)
        return {**description, "task": task_description(description)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path}: what its header says of the run is damaged") from error


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
        check_regular(path)
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: not readable ({one_line(error)})") from error
