"""Tensors in weights files: read without running code, loaded strictly, saved with the facts that belong to them.

Files are read as safetensors or with torch's ``weights_only=True``, which runs no code from the file. Files written by
``save`` carry the facts that belong to the weights (activation, mean, std and so on) in their safetensors header, so
that a file gives the same numbers as the tag it was fetched from.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from extractors.base import FetchedWeights, Json, WeightsError
from extractors.weights import FACTS_KEY, check_pin, digest
from settings.files import NOTE_BYTES, check_regular, read_bytes
from settings.messages import first_few, one_line, plural, why_not_loaded

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("reelstore.extractors.tensors")

INDEX_NAME = "weights.json"
_LISTED = 4
_LONGEST_REASON = 300

# torch's unpickler checks little: it raises any of these for files that were cut or have flipped bits.
_UNPICKLING_ERRORS = (
    OSError,
    EOFError,
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tensors of a file that are not loaded.

    Attributes
    ----------
    group
        First part of their names.
    count
        Number of tensors.
    reason
        What they are.
    """

    group: str
    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.group} ({plural(self.count, 'tensor')}: {self.reason})"


def tell_left_out(left_out: Sequence[LeftOut], title: str, told: logging.Logger) -> None:
    """Log what of a file is not loaded, and why; nothing if there is nothing."""
    if left_out:
        told.info("%s: left out %s", title, "; ".join(map(str, left_out)))


def read_state_dict(
    path: Path, *, trust_torchscript: bool = False, shapes_only: bool = False
) -> dict[str, torch.Tensor]:
    """Read the tensors of a weights file by name, on the CPU.

    Checkpoints that wrap the tensors (``state_dict``, ``model``, ``module``) and the ``module.`` prefix of
    data-parallel training are unwrapped.

    Parameters
    ----------
    path
        The file.
    trust_torchscript
        Read a TorchScript archive, which may run code: only for files whose digest is known.
    shapes_only
        Return tensors on the meta device and leave their numbers in the file, which may be larger than the memory.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or of a type that would run code.
    """
    return read_checkpoint(path, trust_torchscript=trust_torchscript, shapes_only=shapes_only)[0]


def read_checkpoint(
    path: Path, *, trust_torchscript: bool = False, shapes_only: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the tensors of a weights file as ``read_state_dict`` does, and what lies beside them.

    Returns
    -------
    state
        Tensors by name.
    beside
        The other entries of a checkpoint that wraps its tensors, such as its configuration.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or of a type that would run code.
    """
    import torch

    if path.suffix == ".safetensors":
        loaded = _read_safetensors(path, shapes_only)
    elif trust_torchscript:
        loaded = _read_torchscript(path)
    elif _is_torchscript(path):
        raise WeightsError(f"weights file {path} is a TorchScript archive, which runs code; save its state_dict")
    else:
        loaded = read_pickle(path, "weights file", shapes_only=shapes_only)
    beside: dict[str, Any] = {}
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            beside |= {str(name): value for name, value in loaded.items() if name != wrapper}
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"weights file {path} holds {type(loaded).__name__} instead of tensors by name")
    strange = [name for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(f"weights file {path}: not tensors: {first_few(strange, _LISTED)}")
    prefix = "module." if all(name.startswith("module.") for name in loaded) else ""
    return {name.removeprefix(prefix): value for name, value in loaded.items()}, beside


def read_zeros(path: Path) -> dict[str, torch.Tensor]:
    """Read the shapes of a file's tensors: zeros by name, on the CPU, which take no memory.

    Other than tensors on the meta device, a library can compute with them.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or of a type that would run code.
    """
    import torch

    shapes = read_state_dict(path, shapes_only=True)
    return {name: torch.zeros(()).expand(value.shape) for name, value in shapes.items()}


def _read_safetensors(path: Path, shapes_only: bool) -> Any:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        check_regular(path)
        if not shapes_only:
            return load_file(path)
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, "weights file", error) from error


def _read_torchscript(path: Path) -> Any:
    import torch

    try:
        check_regular(path)
        return torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]  # torch does not annotate it
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, "weights file", error) from error


def read_pickle(path: Path, title: str, allowed: Sequence[Any] = (), *, shapes_only: bool = False) -> Any:
    """Read a file that ``torch.save`` wrote, on the CPU, without running code from it.

    Parameters
    ----------
    path
        The file.
    title
        What the file is, for messages.
    allowed
        Classes and functions that the file may name beside torch's own, as ``torch.serialization.safe_globals`` takes.
    shapes_only
        Read tensors without their numbers, to the meta device.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or names anything that is not allowed.
    """
    import torch

    try:
        check_regular(path)
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="meta" if shapes_only else "cpu", weights_only=True)
    except _UNPICKLING_ERRORS as error:
        raise _unreadable(path, title, error) from error


def _unreadable(path: Path, title: str, error: Exception) -> WeightsError:
    logger.debug("%s %s cannot be read", title, path, exc_info=True)
    return WeightsError(f"{title} {path} cannot be read: {why_not_loaded(error, _LONGEST_REASON)}")


def _is_torchscript(path: Path) -> bool:
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):  # torch then says what is wrong with it
        return False


def load_strict(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str, *, assign: bool = False
) -> None:
    """Load ``state`` into ``module``: every tensor must be there, none left over, and shapes must be equal.

    With ``assign``, the tensors of ``state`` take the place of the module's, which may lie on the meta device.

    Raises
    ------
    WeightsError
        If something is missing, unexpected or of another shape; the message has a few names of each.
    """
    check_fit(module.state_dict(), state, source)
    module.load_state_dict(dict(state), assign=assign)


def check_fit(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise WeightsError unless ``state`` has the names and shapes of ``wanted``; it names a few that differ."""
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    reshaped = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems := misfits(missing, unexpected, reshaped):
        raise WeightsError(f"{source} does not fit: {problems}")


def misfits(missing: Sequence[str], unexpected: Sequence[str], reshaped: Sequence[str]) -> str:
    """Word what is wrong with a file in one line, with a few names of each kind; nothing if nothing is."""
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    return ", ".join(f"{len(names)} {kind} ({first_few(names, _LISTED)})" for kind, names in kinds if names)


class _Index(BaseModel):
    """The content of ``weights.json``."""

    model_config = ConfigDict(extra="forbid")

    files: list[FetchedWeights]


def save(
    state: Mapping[str, torch.Tensor],
    path: Path,
    carried: Mapping[str, Json],
    *,
    extractor: str,
    model: str,
    tag: str,
    source_sha256: str,
) -> FetchedWeights:
    """Write a safetensors file that carries its facts, and list it in the directory's ``weights.json``.

    Parameters
    ----------
    state
        Tensors by name.
    path
        The file to write; replaced in one step.
    carried
        Facts for the header.
    extractor, model, tag, source_sha256
        Fields of the ``FetchedWeights`` that the index lists.

    Raises
    ------
    WeightsError
        If the directory cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={FACTS_KEY: json.dumps(carried, sort_keys=True)})
        partial.replace(path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    return list_in_index(path.parent, FetchedWeights(path.name, digest(path), extractor, model, tag, source_sha256))


def list_in_index(directory: Path, entry: FetchedWeights) -> FetchedWeights:
    """Add an entry to a directory's ``weights.json``, in the place of an earlier one of its file, and return it.

    Raises
    ------
    WeightsError
        If the index cannot be read or written.
    """
    path = directory / INDEX_NAME
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    others = [other for other in read_index(directory) if other.file != entry.file]
    index = _Index(files=sorted([*others, entry], key=lambda listed: listed.file))
    try:
        partial.write_text(index.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    return entry


def read_index(directory: Path) -> list[FetchedWeights]:
    """Read the list in ``weights.json``; empty if there is no such file.

    Raises
    ------
    WeightsError
        If the file cannot be read or is not such a list.
    """
    path = directory / INDEX_NAME
    if not path.exists():
        return []
    try:
        return _Index.model_validate_json(read_bytes(path, NOTE_BYTES)).files
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        reason = f"{'.'.join(map(str, problem['loc']))} {problem['msg']}"
        raise WeightsError(f"{path} is not an index of weights: {one_line(reason)}") from error


def fetched(directory: Path, extractor: str, model: str, tag: str) -> tuple[Path, FetchedWeights]:
    """Find the file that ``fetch`` left for a tag, and check its digest against the index.

    Returns
    -------
    path
        The file.
    entry
        Its entry in the index.

    Raises
    ------
    WeightsError
        If the file is not listed, is missing, or has other bytes.
    """
    entry = listed(directory, extractor, model, tag)
    path = directory / entry.file
    check_pin(path, entry.sha256)
    return path, entry


def listed(directory: Path, extractor: str, model: str, tag: str) -> FetchedWeights:
    """Return the entry of a tag in the index of a directory.

    Raises
    ------
    WeightsError
        If it is not listed, or the index cannot be read.
    """
    for entry in read_index(directory):
        if (entry.extractor, entry.model, entry.tag) == (extractor, model, tag):
            return entry
    raise WeightsError(f"{directory / INDEX_NAME} lists no {extractor} weights {model} {tag!r}; fetch them first")
