"""Where weights come from, and proof that they are the ones meant.

The source is ``random:<seed>``, a hub tag, or a local file (anything with a path separator or a weights suffix). What
is named is what is loaded: nothing here falls back to other weights. This module only names, hashes and locks files;
``extractors/tensors.py`` reads and writes what is in them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from extractors.base import Json, WeightsError
from settings.files import open_regular
from settings.messages import available, one_line

FACTS_KEY = "reelstore"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """Untrained weights that follow from ``seed``."""

    seed: int


@dataclass(frozen=True, slots=True)
class HubTag:
    """Weights that the model's library downloads by name."""

    tag: str


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A local file, by its absolute path."""

    path: Path


Weights: TypeAlias = RandomWeights | HubTag | WeightsFile


@dataclass(frozen=True, slots=True)
class PinnedWeights:
    """The weights of one model and the digest that their file must have.

    Attributes
    ----------
    model
        Name of the model in messages, in ``weights.json`` and in the header of fetched files.
    source
        Where the weights come from.
    sha256
        Digest that the file must have, hexadecimal; None accepts any file.
    """

    model: str
    source: Weights
    sha256: str | None

    @property
    def seed(self) -> int:
        """Seed of the untrained network; 0 if a file replaces its weights anyway."""
        return self.source.seed if isinstance(self.source, RandomWeights) else 0


def parse(text: str) -> Weights:
    """Read a ``weights`` option: ``random:<seed>``, a path, or else a hub tag.

    Raises
    ------
    WeightsError
        If the text is empty or the seed is not a whole number below 2**63.
    """
    if text == "random" or text.startswith("random:"):
        match = re.fullmatch(r"random:(\d+)", text)
        if match is None or int(match[1]) >= 2**63:
            raise WeightsError(f"weights {text!r}: write random:<seed> with a whole number, e.g. random:0")
        return RandomWeights(int(match[1]))
    if os.sep in text or "/" in text or text.endswith(_SUFFIXES) or text.startswith("~"):
        # Absolute, because a run's workers need not share the working directory of whoever wrote the path.
        return WeightsFile(Path(text).expanduser().absolute())
    if not re.fullmatch(r"[\w.+-]+", text):
        raise WeightsError(f"weights {text!r} is neither random:<seed>, a hub tag nor a file path")
    return HubTag(text)


def unknown_tag(model: str, tag: str, tags: Sequence[str]) -> WeightsError:
    """Return the error for a tag that a model does not have; it lists the tags that the model has."""
    return WeightsError(f"{model} has no weights {tag!r} ({available(tags)})")


_DIGESTS: dict[tuple[str, int, int, int], str] = {}


def digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal; remembered in the process by path, size, mtime and inode.

    Raises
    ------
    WeightsError
        If the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if key not in _DIGESTS:
                _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"weights file {path}: {error.strerror or error}") from error
    return _DIGESTS[key]


def check_pin(path: Path, pin: str | None) -> str:
    """Return the digest of ``path``; raise WeightsError if it is not the pinned one."""
    actual = digest(path)
    if pin is not None and actual != pin.lower():
        raise WeightsError(f"weights file {path} has sha256 {actual}, but {pin.lower()} is pinned")
    return actual


def identity(weights: PinnedWeights) -> dict[str, Json]:
    """Return what a spec says about weights: ``{"random": seed}``, ``{"tag": …}`` or ``{"sha256": …}``.

    A pinned tag is identified by its digest, so that the tag and a copy of the same file have one identity.

    Raises
    ------
    WeightsError
        If a file cannot be read, is not the pinned one, or says that it holds another model.
    """
    match weights.source:
        case RandomWeights(seed):
            return {"random": seed}
        case HubTag(tag):
            return {"tag": tag} if weights.sha256 is None else {"sha256": weights.sha256.lower()}
        case WeightsFile(path):
            check_model(path, weights.model)
            return {"sha256": check_pin(path, weights.sha256)}


def resolve(weights: PinnedWeights, download: Callable[[str], Path]) -> Path | None:
    """Return the local file of the weights, its pin and its header checked; None for random weights.

    Parameters
    ----------
    weights
        The weights.
    download
        Fetches a tag into the hub cache and returns the file. It is called under a lock, so that the processes of one
        node download once.

    Raises
    ------
    WeightsError
        If the file cannot be obtained, is not the pinned one, or says that it holds another model.
    """
    match weights.source:
        case RandomWeights():
            return None
        case HubTag(tag):
            with node_lock(f"{weights.model} {tag}"):
                path = download(tag)
        case WeightsFile(path):
            pass
    if weights.sha256 is not None:
        check_pin(path, weights.sha256)
    elif not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    if isinstance(weights.source, WeightsFile):
        check_model(path, weights.model)
    return path


def label(weights: PinnedWeights, path: Path) -> str:
    """Name weights in a message: by their tag, or by the path of their file."""
    return f"weights {weights.source.tag!r}" if isinstance(weights.source, HubTag) else f"weights file {path}"


@contextmanager
def node_lock(name: str) -> Iterator[None]:
    """Hold this node's lock ``name``: one process at a time, released by the kernel if the holder dies."""
    safe = hashlib.sha256(name.encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"reelstore-weights-{os.getuid()}-{safe}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def facts(path: Path) -> dict[str, Any]:
    """Return the facts that ``tensors.save`` wrote into a safetensors header; empty for any other file.

    Raises
    ------
    WeightsError
        If the file cannot be read or its header is damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MAX_HEADER_BYTES else None
            beside = header.get("__metadata__", {}) if header and isinstance(header, dict) else None
            carried = json.loads(beside.get(FACTS_KEY, "{}")) if isinstance(beside, dict) else None
    except OSError as error:
        raise WeightsError(f"weights file {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"weights file {path} is not a safetensors file: {one_line(error)}") from error
    if not isinstance(carried, dict):
        raise WeightsError(f"weights file {path} is not a safetensors file: bad header")
    return carried


def check_model(path: Path, model: str) -> None:
    """Raise WeightsError if the header of a file says that it holds another model than ``model``."""
    carried = facts(path).get("model", model)
    if carried != model:
        raise WeightsError(f"weights file {path} holds {carried}, not {model}")
