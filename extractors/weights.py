"""Where weights come from, and proof that they are the ones meant.

`random:<seed>`, a hub tag, or a local file (anything with a path separator or a weights suffix). What is named is
what is loaded: nothing here falls back to other weights. Files are read as safetensors or with torch's
`weights_only=True`, which runs no code from the file.

Files written by `save` carry the facts that belong to the weights (activation, mean, std, ...) in their safetensors
header, so that a file gives the same numbers as the tag it was fetched from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from extractors.base import FetchedWeights, Json, WeightsError

if TYPE_CHECKING:
    import torch

INDEX_NAME = "weights.json"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_FACTS_KEY = "reelstore"
_MAX_HEADER_BYTES = 100_000_000
_LISTED = 4


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """Untrained weights from `seed`."""

    seed: int


@dataclass(frozen=True, slots=True)
class HubTag:
    """Weights that the model's library downloads by name."""

    tag: str


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A local file, absolute path."""

    path: Path


Weights: TypeAlias = RandomWeights | HubTag | WeightsFile


def parse(text: str) -> Weights:
    """Read a `weights` option: `random:<seed>`, a path, or else a hub tag.

    Raises
    ------
    WeightsError:
        The text is empty or the seed is not a whole number below 2**63.
    """
    if text == "random" or text.startswith("random:"):
        match = re.fullmatch(r"random:(\d+)", text)
        if match is None or int(match[1]) >= 2**63:
            raise WeightsError(f"weights {text!r}: write random:<seed> with a whole number, e.g. random:0")
        return RandomWeights(int(match[1]))
    if os.sep in text or "/" in text or text.endswith(_SUFFIXES) or text.startswith("~"):
        # Absolute, because a job's workers need not share the working directory of whoever wrote the path.
        return WeightsFile(Path(text).expanduser().absolute())
    if not re.fullmatch(r"[\w.+-]+", text):
        raise WeightsError(f"weights {text!r} is neither random:<seed>, a hub tag nor a file path")
    return HubTag(text)


_DIGESTS: dict[tuple[str, int, int, int], str] = {}


def digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal; remembered within the process by path, size, mtime and inode.

    Raises
    ------
    WeightsError:
        The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if key not in _DIGESTS:
                _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"weights file {path}: {error.strerror or error}") from error
    return _DIGESTS[key]


def check_pin(path: Path, pin: str | None) -> str:
    """Digest of `path`. Raises WeightsError if it is not the pinned one."""
    found = digest(path)
    if pin is not None and found != pin.lower():
        raise WeightsError(f"weights file {path} has sha256 {found}, but {pin.lower()} is pinned")
    return found


def identity(weights: Weights, pin: str | None = None) -> dict[str, Json]:
    """What a spec says about weights: `{"random": seed}`, `{"tag": …}` or `{"sha256": …}`.

    A pinned tag is identified by its digest, so the tag and a copy of the very same file have one identity.

    Raises
    ------
    WeightsError:
        A file cannot be read or is not the pinned one.
    """
    match weights:
        case RandomWeights(seed):
            return {"random": seed}
        case HubTag(tag):
            return {"tag": tag} if pin is None else {"sha256": pin.lower()}
        case WeightsFile(path):
            return {"sha256": check_pin(path, pin)}


def resolve(weights: HubTag | WeightsFile, model: str, pin: str | None, download: Callable[[], Path]) -> Path:
    """The local file behind a tag of `model` or a path, its pin checked.

    Parameters
    ----------
    download:
        Fetches a tag into the hub cache and returns the file; called under a lock, so that the processes of one node
        download once.

    Raises
    ------
    WeightsError:
        The file cannot be had or is not the pinned one.
    """
    if isinstance(weights, HubTag):
        with node_lock(f"{model} {weights.tag}"):
            path = download()
    else:
        path = weights.path
    if pin is not None:
        check_pin(path, pin)
    elif not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    return path


@contextmanager
def node_lock(name: str) -> Iterator[None]:
    """Hold this node's lock for `name`: one process at a time, released by the kernel if the holder dies."""
    safe = hashlib.sha256(name.encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"reelstore-weights-{os.getuid()}-{safe}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def facts(path: Path) -> dict[str, Any]:
    """The facts that `save` wrote into a safetensors header; empty for any other file.

    Raises
    ------
    WeightsError:
        The file cannot be read or its header is damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MAX_HEADER_BYTES else None
            found = json.loads(header.get("__metadata__", {}).get(_FACTS_KEY, "{}")) if header else None
    except OSError as error:
        raise WeightsError(f"weights file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise WeightsError(f"weights file {path} is not a safetensors file: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"weights file {path} is not a safetensors file: bad header")
    return found


def check_model(path: Path, model: str) -> None:
    """Raise WeightsError if a file's own header says that it holds another model than `model`."""
    carried = facts(path).get("model", model)
    if carried != model:
        raise WeightsError(f"weights file {path} holds {carried}, not {model}")


def read_state_dict(path: Path, *, trust_torchscript: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Checkpoints that wrap the tensors (`state_dict`, `model`) and the `module.` prefix of data-parallel training are
    unwrapped.

    Parameters
    ----------
    trust_torchscript:
        Read a TorchScript archive, which may run code: only for files whose digest is known.

    Raises
    ------
    WeightsError:
        The file is missing, damaged, or of a kind that would run code.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    loaded: Any
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        elif trust_torchscript:
            loaded = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        elif _is_torchscript(path):
            raise WeightsError(f"weights file {path} is a TorchScript archive, which runs code: save its state_dict")
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise WeightsError(f"weights file {path} cannot be read: {_one_line(error)}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"weights file {path} holds no tensors by name but {type(loaded).__name__}")
    strange = [name for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(f"weights file {path}: {_some(strange)} are not tensors")
    prefix = "module." if all(name.startswith("module.") for name in loaded) else ""
    return {name.removeprefix(prefix): value for name, value in loaded.items()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_strict(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load `state` into `module`; every tensor must be there, none may be left over, shapes must be equal.

    Raises
    ------
    WeightsError:
        Lists what is missing, unexpected or of another shape, a few names of each.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    reshaped = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(found)} {kind} ({_some(found)})"
        for kind, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if found
    ]
    if problems:
        raise WeightsError(f"{source} does not fit: {', '.join(problems)}")
    module.load_state_dict(dict(state))


def save(
    state: Mapping[str, torch.Tensor], path: Path, carried: Mapping[str, Json], entry: Mapping[str, str]
) -> FetchedWeights:
    """Write a safetensors file that carries its facts, and list it in the directory's `weights.json`.

    Parameters
    ----------
    state:
        Tensors by name.
    path:
        The file to write; replaced in one step.
    carried:
        Facts for the header.
    entry:
        `extractor`, `model`, `tag`, `source_sha256` of the index entry.

    Raises
    ------
    WeightsError:
        The directory cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={_FACTS_KEY: json.dumps(carried, sort_keys=True)})
        partial.replace(path)
        fetched = FetchedWeights(file=path.name, sha256=digest(path), **entry)
        listed = [old for old in read_index(path.parent) if old.file != fetched.file]
        index = {"files": [asdict(each) for each in sorted([*listed, fetched], key=lambda each: each.file)]}
        partial.write_text(json.dumps(index, indent=2) + "\n")
        partial.replace(path.parent / INDEX_NAME)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    return fetched


def read_index(directory: Path) -> list[FetchedWeights]:
    """What `weights.json` lists; empty without one. Raises WeightsError if it cannot be understood."""
    path = directory / INDEX_NAME
    if not path.exists():
        return []
    try:
        return [FetchedWeights(**entry) for entry in json.loads(path.read_text())["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is not an index of weights: {_one_line(error)}") from error


def fetched(directory: Path, extractor: str, model: str, tag: str) -> tuple[Path, FetchedWeights]:
    """The file that `fetch` left for a tag, its digest checked against the index.

    Raises
    ------
    WeightsError:
        It is not listed, is missing, or has other bytes.
    """
    for entry in read_index(directory):
        if (entry.extractor, entry.model, entry.tag) == (extractor, model, tag):
            path = directory / entry.file
            check_pin(path, entry.sha256)
            return path, entry
    raise WeightsError(f"{directory / INDEX_NAME} lists no {extractor} weights {model} {tag!r}; fetch them first")


def _some(found: list[str]) -> str:
    more = len(found) - _LISTED
    return ", ".join(found[:_LISTED]) + (f", and {more} more" if more > 0 else "")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "…"
