"""What the extractors of models of transformers share: a folder or repository, its files, their digests and copies."""

from __future__ import annotations

import hashlib
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from extractors import tensors
from extractors.asking import ask
from extractors.base import ExtractorError, FetchedWeights, Json, WeightsError
from extractors.hub import ModelFiles
from extractors.trained import Trained
from extractors.weights import RandomWeights, WeightsFile, check_pin, digest

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OWN = "model"

_T = TypeVar("_T")


class HfTrained(Trained):
    """Options of an extractor of a model of transformers, beside those of ``Trained``.

    Attributes
    ----------
    model
        A folder, or a repository such as ``facebook/dinov2-base``, with ``config.json``, ``preprocessor_config.json``
        and ``model.safetensors``. A repository and a copy of its files have one spec.
    revision
        Branch, tag or commit of a repository; None is the main branch. Not in the spec, which has the files' digests.
    weights
        ``model``, the weights of the folder or repository, or ``random:<seed>``.
    sha256
        Digest that ``model.safetensors`` must have.
    """

    asked: ClassVar[str]
    """``module:function`` that answers what the library knows of a model; see ``ask_library``."""

    model: str = Field(min_length=1)
    revision: str | None = None
    weights: str = _OWN

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if isinstance(self.source, WeightsFile) or (not self.random_weights and self.weights != _OWN):
            raise ExtractorError(
                f"option 'weights': write {_OWN} for the weights of the model's own folder, or random:<seed> "
                f"(got {self.weights!r}); the folder goes into model"
            )
        self.files.check()
        return self

    @property
    def files(self) -> ModelFiles:
        """The files of the model."""
        return ModelFiles(self.model, (CONFIG, PROCESSOR, WEIGHTS), self.revision)

    @property
    def weights_of(self) -> str:
        """The folder or repository."""
        return self.model

    @property
    def folder(self) -> Path:
        """The folder that holds the configuration, that of the hub's cache for a repository."""
        return self.files.file(CONFIG).parent

    @property
    def random_seed(self) -> int | None:
        """The seed of random weights; None for those of the files."""
        return self.source.seed if isinstance(self.source, RandomWeights) else None

    def ask_library(self, *arguments: Json) -> dict[str, Any]:
        """Ask ``asked`` about the configuration, without importing the library here.

        Raises
        ------
        ExtractorError
            If transformers is missing, or whatever the function raises.
        WeightsError
            If a file of the model is missing.
        """
        config = self.files.file(CONFIG)
        known: dict[str, Any] = ask(
            f"the {self.name} extractor", "transformers", self.asked, str(config.parent), digest(config), *arguments
        )
        return known

    def read_processor(self, read: Callable[[Mapping[str, Any]], _T]) -> _T:
        """Return what ``read`` makes of ``preprocessor_config.json``.

        Raises
        ------
        ExtractorError
            If ``read`` raises it; the message begins with the model and the file.
        WeightsError
            If the file is missing or cannot be read.
        """
        settings = self.files.read_json(PROCESSOR)
        try:
            return read(settings)
        except ExtractorError as error:
            raise ExtractorError(f"{self.model}: {PROCESSOR} {error}") from error

    def weights_entries(self) -> dict[str, Json]:
        """Return what a spec says of the configuration and the weights.

        Raises
        ------
        WeightsError
            If a file of the model is missing, cannot be downloaded, or is not the pinned one.
        """
        seed = self.random_seed
        return {
            "config_sha256": digest(self.files.file(CONFIG)),
            "weights": {"sha256": self.weights_digest()} if seed is None else {"random": seed},
        }

    def weights_files(self) -> list[Path]:
        """Return the files of the weights; large models have several, which an index lists."""
        try:
            return [self.files.file(WEIGHTS)]
        except WeightsError as error:
            try:
                listed = self.files.read_json(_INDEX).get("weight_map")
            except WeightsError:
                raise error from None
        if not isinstance(listed, dict):
            raise WeightsError(f"{self.model}: {_INDEX} has no weight_map")
        return [self.files.file(str(name)) for name in sorted(set(listed.values()))]

    def weights_digest(self) -> str:
        """Return the sha256 of the weights file; of several, that of the list of their digests and names."""
        files = self.weights_files()
        if len(files) == 1:
            return check_pin(files[0], self.sha256)
        if self.sha256 is not None:
            raise ExtractorError(f"option 'sha256' pins one file; {self.model} has {len(files)}")
        return hashlib.sha256("".join(f"{digest(file)}  {file.name}\n" for file in files).encode()).hexdigest()

    def check_weights(self) -> None:
        """See that the files of the weights fit. Reads the shapes of their tensors alone; imports torch.

        Raises
        ------
        WeightsError
            If one is missing or they do not fit.
        """
        if not self.random_weights:
            self._check_files(self.weights_files())

    @abstractmethod
    def _check_files(self, files: list[Path]) -> None:
        """Raise WeightsError unless the files of the weights fit."""

    def fetch(self, directory: Path) -> FetchedWeights | None:
        """Copy the files of a repository into a folder of ``directory``; return None for folders and random weights."""
        if self.random_weights or self.files.is_local:
            return None
        folder = directory / self.model.replace("/", "--")
        files = [self.files.file(CONFIG), self.files.file(PROCESSOR), *self.weights_files()]
        if len(files) > 3:
            files.append(self.files.file(_INDEX))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copyfile(file, folder / file.name)
        except OSError as error:
            raise WeightsError(f"cannot write {folder}: {error.strerror or error}") from error
        sha256 = self.weights_digest()
        return tensors.list_in_index(
            directory,
            FetchedWeights(folder.name, sha256, self.name, self.model, self.revision or "main", sha256, "model"),
        )

    def verify(self, directory: Path) -> FetchedWeights | None:
        """Check the digest of what ``fetch`` left and load it strictly; return None for folders and random weights."""
        if self.random_weights or self.files.is_local:
            return None
        entry = tensors.listed(directory, self.name, self.model, self.revision or "main")
        options = self.model_dump(exclude_unset=True) | {"model": str(directory / entry.file), "revision": None}
        copy = type(self).model_validate(options)
        if (actual := copy.weights_digest()) != entry.sha256:
            raise WeightsError(f"weights of {copy.model} have sha256 {actual}, but {entry.sha256} is listed")
        copy.load("cpu")
        return entry
