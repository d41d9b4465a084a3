"""Files of models: those of a folder, or from a model hub, whose cache is looked at before a request is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from extractors.base import UnreachableError, WeightsError
from settings.files import read_text
from settings.messages import one_line
from settings.network import reach

_T = TypeVar("_T")
_LONGEST_REASON = 200


def download(title: str, address: str, transfer: Callable[[], _T]) -> _T:
    """Return what ``transfer`` returns, which downloads from ``address``.

    Parameters
    ----------
    title
        Names the weights in the error.
    address
        URL of the file or of its host, to see first whether the host can be reached.
    transfer
        The download.

    Raises
    ------
    UnreachableError
        If the host cannot be reached or refuses; the message says what to do.
    """
    try:
        reach(address)
        return transfer()
    except (OSError, RuntimeError) as error:
        advice = "run jobs/weights.py fetch where there is a network, then set the option that it prints"
        raise UnreachableError(f"{title} cannot be downloaded ({one_line(error, _LONGEST_REASON)})", advice) from error


def hugging_face_file(title: str, repository: str, filename: str, revision: str | None = None) -> Path:
    """Return a file of a repository in the hub cache; no request is sent if it is there already.

    Parameters
    ----------
    title
        Names the file in the error.
    repository, filename
        Where it is.
    revision
        Branch, tag or commit; None is the main branch.

    Raises
    ------
    WeightsError
        If the hub cannot be reached or refuses.
    """
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    endpoint = huggingface_hub.constants.ENDPOINT
    return Path(
        download(title, endpoint, lambda: huggingface_hub.hf_hub_download(repository, filename, revision=revision))
    )


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model: those of a local folder, or of a repository of the Hugging Face hub.

    Attributes
    ----------
    model
        The folder, or ``owner/name``.
    holds
        Files that it must hold, for messages.
    revision
        Branch, tag or commit of a repository; None is the main branch.
    """

    model: str
    holds: tuple[str, ...]
    revision: str | None = None

    @property
    def folder(self) -> Path:
        """Folder of a local model."""
        return Path(self.model).expanduser().absolute()

    @property
    def is_local(self) -> bool:
        """Whether the folder exists."""
        return self.folder.is_dir()

    def check(self) -> None:
        """Raise WeightsError if the model is neither a folder nor named as a repository is."""
        looks_local = self.model.startswith((".", "/", "~")) or self.model.count("/") != 1
        if looks_local and not self.is_local:
            raise WeightsError(f"{self.model}: no such folder, and not the name of a repository (owner/name)")

    def file(self, name: str) -> Path:
        """Return one file of the model. Raises WeightsError if it is missing or cannot be downloaded."""
        if not self.is_local:
            return hugging_face_file(f"{self.model} {name}", self.model, name, self.revision)
        if not (path := self.folder / name).is_file():
            held = f"{', '.join(self.holds[:-1])} and {self.holds[-1]}"
            raise WeightsError(f"{self.folder}: no {name}; it must hold {held}")
        return path

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object of the model. Raises WeightsError if it is missing or is no such object."""
        path = self.file(name)
        try:
            value = json.loads(read_text(path))
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(f"{path} cannot be read: {one_line(error)}") from error
        if not isinstance(value, dict):
            raise WeightsError(f"{path} is not a JSON object")
        return value
